"""Signatures, batches and models for tests of classic models."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from reinforge.core import seeds
from reinforge.core.batch import Batch
from reinforge.models.classic.classic import Classic
from reinforge.models.classic.estimators import estimator
from reinforge.models.classic.options import (
    BoostingOptions,
    ClassicOptions,
    ForestOptions,
    LinearOptions,
    TreeOptions,
)
from reinforge.registry import REGISTRY, Options
from reinforge.schema.signature import Input, Output, Signature

KINDS: dict[str, ClassicOptions] = {
    "linear": LinearOptions(l2=0.5),
    "tree": TreeOptions(depth=5, leaf_rows=3),
    "forest": ForestOptions(trees=9),
    "boosting": BoostingOptions(rounds=12, leaf_rows=5),
}
INPUTS = {"numbers": Input(form="numbers", shape=(4,)), "categories": Input(form="categories", sizes=(7, 3))}
OUTPUTS = {
    "several": Output(form="category", size=4),
    "two": Output(form="category", size=2),
    "order": Output(form="ordinal", size=3),
    "labels": Output(form="labels", size=3),
    "number": Output(form="number", size=1),
    "vector": Output(form="number", size=2),
    "count": Output(form="count", size=1),
}


def signature(*outputs: str) -> Signature:
    """Of four numbers and two categories, with these outputs."""
    return Signature(inputs=INPUTS, outputs={name: OUTPUTS[name] for name in outputs or OUTPUTS})


def table(rows: int, seed: int, *, seen: int = 5) -> Batch:
    """Rows whose targets follow from sums and products; numbers repeat, so that they fall on thresholds. The fourth
    class and the third label never occur, nor do codes of the first category from `seen` upwards."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, 4, generator=g).round(decimals=1)
    codes = torch.stack([torch.randint(0, size, (rows,), generator=g) for size in (seen, 3)], 1)
    z = x[:, 0] - x[:, 1] * x[:, 2] + 2.0 * (codes[:, 0] == 2) + 0.3 * torch.randn(rows, generator=g)
    return {
        "inputs": {"numbers": x, "categories": codes},
        "targets": {
            "several": (z > 0).long() + (z > 1.5).long(),
            "two": (z > 0.2).long(),
            "order": (z > 0).long() + (z > 1).long(),
            "labels": torch.stack([z > 0, x[:, 3] > 0, torch.zeros(rows) > 1], 1).float(),
            "number": z[:, None],
            "vector": torch.stack([z, x[:, 3] + z], 1),
            "count": torch.poisson(z.clamp(-1, 1.5).exp(), generator=g)[:, None],
        },
        "valid": {},
    }


def build(options: Options, found: Signature) -> Classic:
    """The model, not fitted yet."""
    model: Classic = REGISTRY.build("model", options, found)
    return model


def oracle(options: ClassicOptions, model: Classic, train: Batch, name: str, place: int = 0) -> Any:
    """scikit-learn's own estimator, fitted to one value of one output; None where there is nothing to tell apart."""
    output = model.signature.outputs[name]
    target = train["targets"][name].numpy()  # type: ignore[index, union-attr, call-overload]
    y = target[:, place] if target.ndim > 1 else target
    if len(np.unique(y)) < 2:
        return None
    made = estimator(
        options, output, None, len(y), categorical=model.design.categorical,
        seed=seeds.derive(0, "fit", name, place) % 2**32,
    )  # fmt: skip
    return made.fit(design(options, model, train), y.astype(int) if output.form == "labels" else y)


def design(options: ClassicOptions, model: Classic, batch: Batch) -> Any:
    """What scikit-learn is given."""
    made = model.design(batch["inputs"]).numpy()  # type: ignore[arg-type]
    return made.astype(np.float64) if isinstance(options, LinearOptions) else made


def said(found: Any, x: Any, form: str, size: int) -> Any:
    """What the estimator says: probabilities, numbers, expected counts."""
    if form in ("category", "ordinal"):
        shares = np.zeros((len(x), size))
        shares[:, found.classes_] = found.predict_proba(x)
        return shares
    return found.predict_proba(x)[:, 1] if form == "labels" else found.predict(x)
