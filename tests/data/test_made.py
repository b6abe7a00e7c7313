"""Tables made of real digits: they hold what their rules say, and no test picture shares a stroke with training."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_digits

from reinforge.data.made import CELL, DELIVERIES, DISCOUNTS, MADE, SIDE
from reinforge.data.readers import read
from reinforge.errors import DataError

PIXELS = np.rint(load_digits().images * (255 / 16)).astype(np.uint8)
LABELS = load_digits().target


@pytest.mark.parametrize("name", MADE)
def test_a_table_is_always_the_same(name: str) -> None:
    once, again = read(f"made:{name}"), read(f"made:{name}")
    assert once.digest == again.digest
    assert once.origin.name == f"made:{name}"


def test_a_picture_holds_the_digits_of_its_labels_and_the_sides_share_none() -> None:
    table = read("made:digit-sets")
    images, sets = table.columns["image"].to_numpy(), table.columns["digits"].to_list()
    known = {pixels.tobytes(): place for place, pixels in enumerate(PIXELS)}
    used: dict[str, set[int]] = {"train": set(), "validation": set(), "test": set()}
    chosen = np.random.default_rng(0).permutation(len(images))[:400].tolist()
    for row in chosen:
        found = []
        for top in (0, CELL):
            for left in (0, CELL):
                quarter = images[row][top : top + CELL, left : left + CELL]
                places = [(d, r) for d in range(CELL - SIDE + 1) for r in range(CELL - SIDE + 1)]
                pieces = [quarter[d : d + SIDE, r : r + SIDE] for d, r in places]
                found += [known[piece.tobytes()] for piece in pieces if piece.tobytes() in known][:1]
        assert {str(LABELS[place]) for place in found} == set(sets[row])
        assert 1 <= len(found) <= 4
        used[str(table.columns["split"][row])] |= set(found)
    assert all(used.values())
    assert not used["train"] & used["test"]
    assert not used["train"] & used["validation"]
    assert not used["validation"] & used["test"]


def test_a_slip_costs_what_it_says_and_no_picture_stands_twice() -> None:
    columns = {name: series.to_numpy() for name, series in read("made:order-slips").columns.items()}
    known = {pixels.tobytes(): label for pixels, label in zip(PIXELS, LABELS, strict=True)}
    quantity = np.array([known[picture.tobytes()] for picture in columns["quantity"]])
    assert quantity.min() == 1
    assert len(quantity) == (LABELS > 0).sum()
    discount = np.array([DISCOUNTS[kind] for kind in columns["customer"]])
    np.testing.assert_allclose(columns["amount"], quantity * columns["price"] * (1 - discount), atol=0.0051)
    for weight, delivery in zip(quantity * columns["weight"], columns["delivery"], strict=True):
        assert delivery == [name for least, name in DELIVERIES if weight >= least][-1]


def test_another_name_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(DataError, match="digit-sets, order-slips"):
        read("made:digits")
