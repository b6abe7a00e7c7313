"""Mixed rows and labels against their formulas, and the Beta distribution against scipy."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from reinforge.core.batch import Batch
from reinforge.core.seeds import derive
from reinforge.data.augmentation.augment import Augment
from reinforge.data.augmentation.mixing import half_beta, partners
from reinforge.data.augmentation.options import CutmixOptions, MixupOptions
from reinforge.data.augmentation.random import Draws
from reinforge.errors import ComponentError
from reinforge.registry import REGISTRY, Options
from reinforge.schema.signature import Input, Output, Signature
from tests.data.augmentation.pictures import pictures

IMAGE, NUMBERS = Input(form="image", shape=(2, 10, 15)), Input(form="numbers", shape=(3,))
SIGNATURE = Signature(
    inputs={"image": IMAGE, "numbers": NUMBERS},
    outputs={
        "label": Output(form="category", size=4), "value": Output(form="number", size=1),
        "labels": Output(form="labels", size=3),
    },
)  # fmt: skip


def batch(rows: int = 40) -> Batch:
    """Row i's numbers are one-hot places of its own, so that a mixture tells of what it is made."""
    return {
        "inputs": {"image": pictures(rows, 2, 10, 15), "numbers": torch.eye(rows)[:, :3].contiguous()},
        "targets": {
            "label": torch.arange(rows) % 4,
            "value": torch.where(torch.arange(rows) % 5 == 0, torch.nan, torch.arange(rows).float())[:, None],
            "labels": (torch.arange(rows)[:, None] % torch.tensor([2, 3, 5]) == 0).float(),
        },
        "valid": {"value": torch.arange(rows) % 5 != 0},
    }


def mixed(options: Options, rows: int = 40) -> Any:
    return cast(Any, Augment([options], SIGNATURE).apply(batch(rows), torch.arange(rows), 0, 0))


@pytest.mark.parametrize("alpha", [0.05, 0.2, 0.5, 1.0, 2.0, 8.0])
def test_half_beta(alpha: float) -> None:
    share = np.linspace(0, 1, 1001)[1:-1]
    values = half_beta(alpha)(share)
    assert ((values >= 0) & (values <= 0.5)).all()
    np.testing.assert_allclose(2 * stats.beta(alpha, alpha).cdf(values), share, atol=1e-5)


@settings(max_examples=30, deadline=None)
@given(rows=st.integers(1, 20), seed=st.integers(0, 99))
def test_partners_are_one_circle(rows: int, seed: int) -> None:
    partner = partners(Draws(np.arange(rows), seed, 0).uniform(1)[:, 0])
    seen, at = [], 0
    for _ in range(rows):
        seen.append(at)
        at = int(partner[at])
    assert at == 0
    assert sorted(seen) == list(range(rows))


@pytest.mark.parametrize("options", [MixupOptions(alpha=1.0, probability=0.8), CutmixOptions(inputs=("image",))])
def test_labels_are_mixed_as_inputs_are(options: Options) -> None:
    whole = cast(Any, batch())
    found = mixed(options)
    partner = torch.from_numpy(partners(Draws(np.arange(40), derive(0, "augment", 0), 0).uniform(1)[:, 0]))
    label = found["targets"]["label"]
    torch.testing.assert_close(label.sum(1), torch.ones(40))
    hard = torch.nn.functional.one_hot(whole["targets"]["label"], 4).float()
    apart = hard[partner].argmax(1) != hard.argmax(1)
    kept = (label * hard).sum(1)
    torch.testing.assert_close((label * hard[partner]).sum(1)[apart], 1 - kept[apart])

    def share(target: Tensor, other: Tensor) -> Tensor:
        return target * kept[apart, None] + other * (1 - kept[apart, None])

    labels = whole["targets"]["labels"]
    torch.testing.assert_close(found["targets"]["labels"][apart], share(labels[apart], labels[partner][apart]))
    value, valid = whole["targets"]["value"], whole["valid"]["value"]
    there = found["valid"]["value"]
    assert torch.equal(there[apart], (valid & (valid[partner] | (kept == 1)))[apart])
    assert bool(found["targets"]["value"].isfinite().all())
    both = apart & valid & valid[partner]
    torch.testing.assert_close(
        found["targets"]["value"][both], value[both] * kept[both, None] + value[partner][both] * (1 - kept[both, None])
    )
    image, other = whole["inputs"]["image"], whole["inputs"]["image"][partner]
    if isinstance(options, MixupOptions):
        assert 3 < int((kept == 1).sum()) < 20
        assert bool((kept >= 0.5).all())
        part = kept[:, None, None, None]
        expected = (part * image + (1 - part) * other)[apart]
        assert float((found["inputs"]["image"][apart] - expected).abs().max()) <= 0.5 + 1e-3
        numbers = whole["inputs"]["numbers"]
        torch.testing.assert_close(found["inputs"]["numbers"][apart], share(numbers[apart], numbers[partner][apart]))
    else:
        own = (found["inputs"]["image"] == image).all(1)
        theirs = (found["inputs"]["image"] == other).all(1)
        assert bool((own | theirs).all())
        torch.testing.assert_close(own.float().mean((1, 2))[apart], kept[apart], atol=0.02, rtol=0)
        assert torch.equal(found["inputs"]["numbers"], whole["inputs"]["numbers"])
        assert float(kept[apart].std()) > 0.2


def test_a_row_alone_is_its_own_partner() -> None:
    found, whole = mixed(MixupOptions(), 1), cast(Any, batch(1))
    assert torch.equal(found["inputs"]["image"], whole["inputs"]["image"])
    assert found["targets"]["label"].tolist() == [[1, 0, 0, 0]]


@pytest.mark.parametrize(
    ("options", "signature", "message"),
    [
        (CutmixOptions(), SIGNATURE, r"'numbers' \(numbers\) can't be mixed"),
        (MixupOptions(inputs=("picture",)), SIGNATURE, "'picture' is not there"),
        (
            MixupOptions(),
            Signature(inputs={"text": Input(form="tokens", sizes=(9,))}, outputs=SIGNATURE.outputs),
            r"'text' \(tokens\) can't be mixed",
        ),
        (
            MixupOptions(),
            Signature(inputs={"image": IMAGE}, outputs={"grade": Output(form="ordinal", size=3)}),
            r"'grade' \(ordinal\) can't be mixed",
        ),
    ],
)
def test_what_cannot_be_mixed(options: Options, signature: Signature, message: str) -> None:
    with pytest.raises(ComponentError, match=message):
        REGISTRY.build("augmentation", options, signature)
