"""Fitting a classic model: scikit-learn learns from the training rows once, and what it learned becomes tensors."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reinforge.core import batch as batches
from reinforge.core import seeds
from reinforge.core.batch import Batch
from reinforge.errors import DataError
from reinforge.models.classic import growing
from reinforge.models.classic.classic import FLOOR, Classic
from reinforge.models.classic.design import MOST_LABELS
from reinforge.models.classic.estimators import estimator, part, require
from reinforge.models.classic.growing import Branches
from reinforge.models.classic.linear import Linear
from reinforge.models.classic.options import BoostingOptions, ClassicOptions
from reinforge.models.classic.trees import OfTrees, Trees
from reinforge.models.heads import Head
from reinforge.models.losses import row_loss
from reinforge.registry import Options
from reinforge.schema.signature import Output

Array = NDArray[Any]
# Numbers of the design matrix in double precision: 2 GiB.
MOST_NUMBERS = 1 << 28
# Validation rows times trees that are looked at once, to find the best round.
_AT_ONCE = 1 << 24


@dataclass(frozen=True)
class Fitted:
    """What a fit tells of itself: training rows, rounds (1 where there are none), the validation loss of each output
    after each round, and notes."""

    rows: int
    rounds: int = 1
    losses: Mapping[str, Sequence[float]] = field(default_factory=dict)
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class _Asked:
    """What to fit one output by."""

    options: ClassicOptions
    name: str
    output: Output
    loss: Options | None
    design: Array
    target: Array
    categorical: list[bool]
    seed: int
    threads: int | None


def fit(
    model: Classic,
    train: Batch,
    validation: Batch | None = None,
    *,
    losses: Mapping[str, Options] | None = None,
    seed: int = 0,
    threads: int | None = None,
) -> Fitted:
    """Fit the model to the training rows ({"inputs", "targets", "valid"}), each output by itself.

    `losses`: by output, where it is not the usual one; their weights of classes weigh rows. Boosting drops the rounds
    after the least loss of the `validation` rows. Raises MissingExtra, ComponentError for a loss that can't be
    minimised, DataError where there is nothing to learn from.
    """
    require()
    inputs = batches.section(train, "inputs")
    rows = batches.rows(train)
    if rows * model.design.columns > MOST_NUMBERS:
        raise DataError(
            f"{rows:,} rows of {model.design.columns:,} columns are too many to be fitted at once",
            where="model",
            remedy="Categories of many labels have a column each: set `coding: hash` with few buckets, or `rare`; take "
            "model: boosting, which has one for all; or model: composed.",
        )
    design = model.design(inputs).numpy()
    notes: list[str] = []
    curves: dict[str, Sequence[float]] = {}
    rounds = 1
    for name, output in model.signature.outputs.items():
        target = batches.section(train, "targets")[name]
        valid = batches.section(train, "valid").get(name)
        there = valid.numpy() if isinstance(valid, Tensor) else np.ones(rows, bool)
        if not there.any():
            raise DataError(f"no training row has the target {name!r}", where=f"target {name!r}")
        loss = (losses or {}).get(name)
        asked = _Asked(
            model.described, name, output, loss, design[there], target.numpy()[there], model.design.categorical,
            seed, threads,
        )  # fmt: skip
        with warnings.catch_warnings(record=True) as told, _limited(threads):
            warnings.simplefilter("always")
            if isinstance(model, Linear):
                _linear(model, asked)
            else:
                assert isinstance(model, OfTrees)
                curve = _trees(model, asked, validation)
                if curve:
                    curves[name], rounds = curve, max(rounds, len(curve))
        if any(issubclass(each.category, part("exceptions").ConvergenceWarning) for each in told):
            notes.append(f"{name}: the solver stopped before it had converged; a larger model.l2 helps")
    model.check()
    if curves and isinstance(model.described, BoostingOptions):
        kept = ", ".join(f"{name} {1 + int(np.argmin(curve))}" for name, curve in curves.items())
        notes.append(f"rounds kept, up to the least validation loss, of {model.described.rounds}: {kept}")
    return Fitted(rows, rounds, curves, tuple(notes))


def _limited(threads: int | None) -> Any:
    """A context in which the numerical libraries of scikit-learn take no more threads; its histograms too."""
    return importlib.import_module("threadpoolctl").threadpool_limits(threads)


def _columns(asked: _Asked) -> Iterator[tuple[int, Array, Array | None]]:
    """What estimators learn one by one: the place among the output's values, the target (rows,), weights of rows."""
    output, target = asked.output, asked.target
    weights = getattr(asked.loss, "weights", None)
    if output.form in ("category", "ordinal"):
        yield 0, target.reshape(-1), None if weights is None else np.asarray(weights, np.float64)[target.reshape(-1)]
        return
    for place in range(output.size):
        column = target.reshape(len(target), -1)[:, place].astype(np.float64)
        weighted = None
        if output.form == "labels":
            column = column.astype(np.int64)
            weighted = None if weights is None else np.where(column == 1, float(weights[place]), 1.0)
        yield place, column, weighted


def _fitted(asked: _Asked, place: int, target: Array, weights: Array | None) -> Any:
    """A fitted estimator; None where the target is always the same, and there is nothing to tell apart."""
    design = asked.design
    if (isinstance(asked.options, BoostingOptions) or asked.output.form != "number") and (target == target[0]).all():
        return None
    made = estimator(
        asked.options, asked.output, asked.loss, len(target), name=asked.name, categorical=asked.categorical,
        seed=seeds.derive(asked.seed, "fit", asked.name, place) % 2**32, threads=asked.threads,
    )  # fmt: skip
    linear = getattr(asked.options, "kind", "") == "linear"
    return made.fit(design.astype(np.float64) if linear else design, target, sample_weight=weights)


def _constant(output: Output, target: Array, size: int) -> Array:
    """(size,) what an output is where the target is always the same: logits, numbers, the logarithm of a rate."""
    if output.form in ("category", "ordinal"):
        logits = np.full(size, np.log(FLOOR))
        logits[int(target[0])] = 0.0
        return logits
    if output.form == "labels":
        return np.full(size, np.log(1 / FLOOR - 1) * (1 if target[0] else -1))
    return np.full(size, np.log(max(target[0], FLOOR)) if output.form == "count" else target[0])


def _linear(model: Linear, asked: _Asked) -> None:
    output, size = asked.output, asked.output.size
    weight, bias = np.zeros((asked.design.shape[1], size)), np.zeros(size)
    classes = output.form in ("category", "ordinal")
    for place, target, weights in _columns(asked):
        found = _fitted(asked, place, target, weights)
        if found is None:
            chosen = slice(None) if classes else slice(place, place + 1)
            bias[chosen] = _constant(output, target, len(bias[chosen]))
        elif classes:
            bias[:] = np.log(FLOOR)
            # Of two classes the second is weighed against the first.
            seen = found.classes_
            bias[seen] = 0.0
            chosen = seen[1:] if len(seen) == 2 else seen
            weight[:, chosen], bias[chosen] = found.coef_.T, found.intercept_
        else:
            weight[:, place], bias[place] = found.coef_.reshape(-1), np.ravel(found.intercept_)[0]
    model.parts[asked.name].load_state_dict({"weight": torch.from_numpy(weight), "bias": torch.from_numpy(bias)})


def _trees(model: OfTrees, asked: _Asked, validation: Batch | None) -> list[float]:
    """Grow and put them; the validation loss after each round of boosting."""
    output, size = asked.output, asked.output.size
    boosting = isinstance(asked.options, BoostingOptions)
    base, divisor = np.zeros(size), np.ones(size)
    rounds: list[list[Branches]] = []
    known = [
        np.unique(asked.design[:, i]).astype(np.int64) if chosen else None for i, chosen in enumerate(asked.categorical)
    ]
    for place, target, weights in _columns(asked):
        found = _fitted(asked, place, target, weights)
        if boosting:
            _boosted(found, output, place, target, base, rounds, known)
        else:
            _grown(found, output, place, target, divisor, rounds)
    codes = max((c for c in model.design.labels if c <= MOST_LABELS), default=0)

    def put(count: int) -> None:
        model.put(asked.name, *growing.gather([tree for each in rounds[:count] for tree in each], base, divisor, codes))

    put(len(rounds))
    curve = _curve(model, asked, validation, [len(each) for each in rounds]) if boosting and validation else []
    if curve:
        put(1 + int(np.argmin(curve)))
    return curve


def _grown(found: Any, output: Output, place: int, target: Array, divisor: Array, rounds: list[list[Branches]]) -> None:
    """Add the trees of one estimator: shares of classes, means."""
    classes = output.form in ("category", "ordinal")
    if found is None:
        value = np.zeros((1, output.size if classes else 1))
        value[0, int(target[0]) if classes else 0] = 1.0 if classes else float(target[0])
        rounds.append([growing.leaf(value, len(target), place)])
        return
    trees = getattr(found, "estimators_", [found])
    seen = found.classes_ if output.form in ("category", "ordinal", "labels") else None
    size = output.size if classes else 1
    rounds.append([growing.of_decision_tree(tree.tree_, seen, size, place) for tree in trees])
    divisor[slice(None) if classes else slice(place, place + 1)] = len(trees)


def _boosted(
    found: Any, output: Output, place: int, target: Array, base: Array, rounds: list[list[Branches]],
    known: list[Array | None],
) -> None:  # fmt: skip
    """Add the trees of one estimator, round by round: logits, numbers, logarithms of rates."""
    classes = output.form in ("category", "ordinal")
    if found is None:
        chosen = slice(None) if classes else slice(place, place + 1)
        base[chosen] = _constant(output, target, len(base[chosen]))
        return
    places = [place]
    if classes:
        base[:] = np.log(FLOOR)
        base[found.classes_] = 0.0
        places = found.classes_[1:] if len(found.classes_) == 2 else found.classes_
    base[places] = found._baseline_prediction.reshape(-1)
    for index, predictors in enumerate(found._predictors):
        if index == len(rounds):
            rounds.append([])
        rounds[index] += [
            growing.of_predictor(predictor, known, int(column)) for predictor, column in zip(predictors, places)
        ]


def _curve(model: OfTrees, asked: _Asked, validation: Batch, sizes: Sequence[int]) -> list[float]:
    """The mean loss of the validation rows after each round; empty where no row has the target."""
    target = batches.section(validation, "targets")[asked.name]
    valid = batches.section(validation, "valid").get(asked.name)
    rows = valid.nonzero()[:, 0] if isinstance(valid, Tensor) else torch.arange(len(target))
    rows = rows[: max(1000, _AT_ONCE // max(1, sum(sizes)))]
    trees, head = model.parts[asked.name], model.heads[asked.name]
    if not len(rows) or not sizes:
        return []
    assert isinstance(trees, Trees)
    assert isinstance(head, Head)
    loss = row_loss(asked.loss, asked.output) if asked.loss is not None else head.loss
    said = trees.value[trees.leaves(model.design(batches.select(batches.section(validation, "inputs"), rows)))][..., 0]
    total = trees.base.expand(len(rows), -1).clone()
    curve, first = [], 0
    for size in sizes:
        there = slice(first, first + size)
        total.index_add_(1, trees.column[there].long(), said[:, there])
        curve.append(float(loss(total.float(), target[rows]).mean()))
        first += size
    return curve
