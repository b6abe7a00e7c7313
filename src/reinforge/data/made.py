"""Tables made of real handwritten digits by a stated rule, for what no package ships: pictures with several labels, and
pictures beside columns. The pixels are those of scikit-learn; everything else is drawn here, always the same.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from reinforge.data.reading.places import not_installed
from reinforge.data.table import Table
from reinforge.data.values import Origin
from reinforge.errors import DataError
from reinforge.messages import _

SIDES = ("train", "validation", "test")
# Rows of each side, and of which part of the digits they are made.
SETS = (3000, 500, 1000)
PARTS = (0.6, 0.15, 0.25)
# A cell is wider than a digit, which lies somewhere in it.
CELL, SIDE = 10, 8
DISCOUNTS: Mapping[str, float] = {"private": 0.0, "trade": 0.1, "public": 0.2}
# From how many kilograms on a delivery is one.
DELIVERIES = ((0.0, "letter"), (2.0, "parcel"), (12.0, "freight"))

Pixels = NDArray[np.uint8]
Codes = NDArray[np.int64]


def digit_sets(pixels: Pixels, labels: Codes) -> dict[str, pl.Series]:
    """Pictures (20 x 20) of one to four digits: `image`, `digits` (which stand in it), `split`.

    Each digit lies in a quarter of its own, at a place drawn at random. The three sides are made of different digits:
    no stroke of a test picture was seen in training.
    """
    random = np.random.RandomState(20261123)
    order = random.permutation(len(labels))
    ends = np.round(np.cumsum((0.0, *PARTS)) * len(labels)).astype(int)
    images = np.zeros((sum(SETS), 2 * CELL, 2 * CELL), np.uint8)
    sets: list[list[str]] = []
    for rows, start, stop in zip(SETS, ends, ends[1:]):
        for _row in range(rows):
            chosen = order[random.randint(start, stop, size=random.randint(1, 5))]
            quarters = random.permutation(4)[: len(chosen)]
            picture = images[len(sets)]
            for digit, quarter, (down, right) in zip(chosen, quarters, random.randint(0, CELL - SIDE + 1, (4, 2))):
                top, left = quarter // 2 * CELL + down, quarter % 2 * CELL + right
                picture[top : top + SIDE, left : left + SIDE] = pixels[digit]
            sets.append([str(label) for label in sorted(set(labels[chosen].tolist()))])
    return {
        "image": pl.Series("image", images),
        "digits": pl.Series("digits", sets, dtype=pl.List(pl.String)),
        "split": pl.Series("split", np.repeat(SIDES, SETS)),
    }


def order_slips(pixels: Pixels, labels: Codes) -> dict[str, pl.Series]:
    """Order slips: `quantity` is a picture of the digit that a customer wrote, `price` and `weight` (of one piece, in
    euros and kilograms) and `customer` are typed.

    What follows from them: `amount` = quantity x price x (1 - discount of the customer's kind), and `delivery`, by
    quantity x weight. Zeros are left out: nobody orders nothing. Every picture is used once.
    """
    random = np.random.RandomState(20261124)
    some = labels > 0
    pixels, quantity = pixels[some], labels[some]
    price = np.round(np.exp(random.uniform(np.log(2), np.log(20), len(quantity))), 2)
    weight = np.round(np.exp(random.uniform(np.log(0.1), np.log(8), len(quantity))), 2)
    kinds = np.array(tuple(DISCOUNTS))
    customer = random.randint(0, len(kinds), len(quantity))
    discount = np.array(tuple(DISCOUNTS.values()))[customer]
    least = np.array([kilograms for kilograms, _name in DELIVERIES])
    delivery = np.searchsorted(least, quantity * weight, side="right") - 1
    return {
        "quantity": pl.Series("quantity", pixels),
        "price": pl.Series("price", price),
        "weight": pl.Series("weight", weight),
        "customer": pl.Series("customer", kinds[customer]),
        "amount": pl.Series("amount", np.round(quantity * price * (1 - discount), 2)),
        "delivery": pl.Series("delivery", np.array([name for _least, name in DELIVERIES])[delivery]),
    }


MADE: Mapping[str, Callable[[Pixels, Codes], dict[str, pl.Series]]] = {
    "digit-sets": digit_sets,
    "order-slips": order_slips,
}


def made(name: str, digest: Callable[[Mapping[str, pl.Series]], str]) -> Table:
    """The table of that name. Raises DataError where there is none, or scikit-learn isn't installed."""
    if name not in MADE:
        raise DataError(
            _("there is no table {name}").format(name=f"made:{name}"),
            remedy=_("Known: {names}.").format(names=", ".join(MADE)),
        )
    try:
        datasets = importlib.import_module("sklearn.datasets")
    except ImportError:
        raise not_installed("scikit-learn") from None
    loaded: Any = datasets.load_digits()
    pixels: Pixels = np.rint(loaded.images * (255 / 16)).astype(np.uint8)
    columns = MADE[name](pixels, loaded.target.astype(np.int64))
    return Table(columns, Origin(f"made:{name}"), digest(columns))
