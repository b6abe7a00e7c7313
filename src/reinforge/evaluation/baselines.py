"""What simple models of scikit-learn reach on the same rows: beside them a network's figures mean something.

They learn from the same training rows, through the same pipeline, and are measured on the same held-out rows. They are
kept quick, not tuned: at most `MOST_ROWS` rows are learned from, columns wider than `MOST_COLUMNS` are left alone, and
trees have fewer rounds the more classes there are.
"""

from __future__ import annotations

import importlib.util
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reinforge.core import batch as batches
from reinforge.core.batch import Batch
from reinforge.evaluation.supervised import Judged, Units
from reinforge.messages import mark
from reinforge.schema.signature import Output, Signature

MOST_ROWS = 20_000
MOST_COLUMNS = 2_000
# Numbers that are learned from at once: above it fewer rows are.
MOST_VALUES = 4_000_000
CONSTANT, LINEAR, TREES, GRAMS = mark("always the same"), mark("linear"), mark("trees"), mark("character n-grams")
# Of margins, which are no probabilities, some metrics say nothing.
UNSOUND: Mapping[str, frozenset[str]] = {GRAMS: frozenset({"log-loss", "brier", "calibration-error"})}
# Trees of all classes together.
_TREES = 300
_MOST_CLASSES = 50
# A category with more values than this is no set of columns, and no category of scikit-learn's trees.
_MOST_VALUES = 255

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Baseline:
    """A simple model's word on one output: `name`, the estimator in words, rows and seconds of its training."""

    name: str
    about: str
    rows: int
    seconds: float
    judged: Judged


def available() -> bool:
    """Whether scikit-learn is installed."""
    return importlib.util.find_spec("sklearn") is not None


def baselines(
    name: str,
    signature: Signature,
    train: Batch,
    held: Batch,
    judged: Judged,
    *,
    texts: tuple[Sequence[str], Sequence[str]] | None = None,
    units: Units | None = None,
    seed: int = 0,
) -> Iterator[Baseline]:
    """Baselines of the output `name`; none for a form, or for inputs, that they can't serve.

    `held` and `judged`: the rows that the model was judged on. `texts`: of the training and the held-out rows, where
    one input is a text; they get a linear model of character n-grams. `units`: as for the evaluator. The first says the
    same of every row, and needs no scikit-learn; without that it is the only one.
    """
    output = signature.outputs[name]
    if output.form not in ("category", "ordinal", "labels", "number", "count"):
        return
    target = batches.section(train, "targets")[name].cpu()
    valid = batches.section(train, "valid").get(name)
    rows = valid.cpu().nonzero()[:, 0] if isinstance(valid, Tensor) else torch.arange(len(target))
    if not len(rows):
        return
    said = _constant(output, target[rows].double(), len(judged.target))
    yield Baseline(
        CONSTANT, "", len(rows), 0.0, Judged(_in_units(name, said, output, units), judged.target, judged.rows)
    )
    if not available():
        return
    generator = torch.Generator().manual_seed(seed)
    if texts is not None and output.form == "category":
        chosen = _draw(rows, MOST_ROWS, generator)
        yield from _grams(texts, target, chosen, judged)
    design = _design(signature, train)
    if design is None:
        return
    linear, trees, categorical = design
    chosen = _draw(rows, min(MOST_ROWS, max(1000, MOST_VALUES // max(1, linear.shape[1]))), generator)
    found = _design(signature, held)
    assert found is not None
    there = judged.rows.numpy()
    for kind, inputs, asked in ((LINEAR, linear, found[0]), (TREES, trees, found[1])):
        if inputs.shape[1] > MOST_COLUMNS:
            continue
        model, about = _estimator(kind, output, len(chosen), categorical, seed)
        if model is None:
            continue
        began = time.perf_counter()
        learned = _learn(model, output, inputs[chosen.numpy()], target[chosen].numpy(), asked[there])
        if learned is None:
            continue
        seconds = time.perf_counter() - began
        read = Judged(_in_units(name, learned, output, units), judged.target, judged.rows)
        yield Baseline(kind, about, len(chosen), seconds, read)


def _constant(output: Output, target: Tensor, asked: int) -> Tensor:
    """The training rows' shares of classes, or their mean, said of every row."""
    if output.form in ("category", "ordinal"):
        shares = torch.bincount(target.long(), minlength=output.size).double() / len(target)
        logits = shares.clamp(min=1e-12).log().expand(asked, -1)
        return logits if output.form == "category" else logits.argmax(1)
    mean = target.view(len(target), -1).mean(0)
    return (mean.clamp(1e-12, 1 - 1e-12).logit() if output.form == "labels" else mean).expand(asked, -1)


def _in_units(name: str, said: Tensor, output: Output, units: Units | None) -> Tensor:
    return torch.as_tensor(units(name, said)).view_as(said) if units is not None and output.form == "number" else said


def _design(signature: Signature, batch: Batch) -> tuple[Array, Array, list[bool]] | None:
    """(rows, columns) for linear models, with a column per category, and for trees, with their codes; which of the
    trees' columns are categories. None where no input is a table's or an image."""
    inputs = batches.section(batch, "inputs")
    linear: list[Array] = []
    trees: list[Array] = []
    categorical: list[bool] = []
    for name, block in signature.inputs.items():
        value = inputs[name]
        if block.form == "categories":
            codes = value.cpu().numpy()
            for column, size in enumerate(block.sizes):
                if size <= _MOST_VALUES:
                    linear.append(np.eye(size, dtype=np.float32)[codes[:, column]])
                trees.append(codes[:, column : column + 1].astype(np.float32))
                categorical.append(size <= _MOST_VALUES)
        elif block.form in ("numbers", "box", "image") and isinstance(value, Tensor):
            numbers = value.cpu().flatten(1).numpy().astype(np.float32)
            numbers = numbers / np.float32(255) if value.dtype == torch.uint8 else numbers
            linear.append(numbers)
            trees.append(numbers)
            categorical += [False] * numbers.shape[1]
        # Tokens are left out: texts have a baseline of their own.
    if not linear or not trees:
        return None
    return np.concatenate(linear, 1), np.concatenate(trees, 1), categorical


def _estimator(kind: str, output: Output, rows: int, categorical: list[bool], seed: int) -> tuple[Any, str]:
    """The estimator, and what it is in words; None where it would take too long."""
    ensemble, linear_model, multioutput = (_part(part) for part in ("ensemble", "linear_model", "multioutput"))

    several = output.form in ("labels", "number") and output.size > 1
    if kind == LINEAR:
        if output.form in ("category", "ordinal", "labels"):
            model = linear_model.LogisticRegression(max_iter=300)
            return (multioutput.MultiOutputClassifier(model) if several else model), "LogisticRegression"
        if output.form == "count":
            return linear_model.PoissonRegressor(alpha=1e-3, max_iter=300), "PoissonRegressor"
        return linear_model.Ridge(), "Ridge"
    if output.size > _MOST_CLASSES:
        return None, ""
    models = output.size if output.form != "category" or output.size > 2 else 1
    rounds = max(10, min(100, _TREES // models))
    common = {
        "max_iter": rounds, "learning_rate": max(0.1, 3 / rounds), "random_state": seed, "early_stopping": False,
        "categorical_features": categorical if any(categorical) else None,
        "min_samples_leaf": max(2, min(20, rows // 20)),
    }  # fmt: skip
    about = f"HistGradientBoosting, {rounds} rounds"
    if output.form in ("category", "ordinal", "labels"):
        model = ensemble.HistGradientBoostingClassifier(**common)
        return (multioutput.MultiOutputClassifier(model) if several else model), about
    loss = "poisson" if output.form == "count" else "squared_error"
    model = ensemble.HistGradientBoostingRegressor(loss=loss, **common)
    return (multioutput.MultiOutputRegressor(model) if several else model), about


def _learn(model: Any, output: Output, inputs: Array, target: Array, asked: Array) -> Tensor | None:
    """Fitted, and asked: what metrics of the output's form take. None where there is only one class to learn."""
    if output.form in ("category", "ordinal") and len(np.unique(target)) < 2:
        return None
    if output.form == "labels" and any(len(np.unique(column)) < 2 for column in target.T):
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it did not converge: it is a baseline
        if output.form == "labels" and output.size == 1:
            target = target[:, 0]
        elif output.form in ("number", "count") and output.size == 1:
            target = target.reshape(-1)
        model.fit(inputs, target)
        if output.form in ("category", "ordinal"):
            found = np.full((len(asked), output.size), 1e-12)
            found[:, model.classes_.astype(np.int64)] = model.predict_proba(asked)
            logits = torch.from_numpy(np.log(np.clip(found, 1e-12, 1)))
            return logits if output.form == "category" else logits.argmax(1)
        if output.form == "labels":
            parts = model.predict_proba(asked)
            parts = parts if isinstance(parts, list) else [parts]
            p = np.clip(np.stack([part[:, 1] for part in parts], 1), 1e-12, 1 - 1e-12)
            return torch.from_numpy(np.log(p / (1 - p)))
        return torch.from_numpy(np.asarray(model.predict(asked), dtype=np.float64).reshape(len(asked), -1))


def _grams(
    texts: tuple[Sequence[str], Sequence[str]], target: Tensor, chosen: Tensor, judged: Judged
) -> Iterator[Baseline]:
    pipeline, text, svm = (_part(part) for part in ("pipeline", "feature_extraction.text", "svm"))
    classes = target[chosen].numpy()
    if len(np.unique(classes)) < 2:
        return
    began = time.perf_counter()
    model = pipeline.make_pipeline(
        text.TfidfVectorizer(analyzer="char", ngram_range=(1, 3), sublinear_tf=True, max_features=200_000),
        svm.LinearSVC(),
    )
    model.fit([texts[0][row] for row in chosen.tolist()], classes)
    margins = model.decision_function([texts[1][row] for row in judged.rows.tolist()])
    margins = np.stack([-margins, margins], 1) / 2 if margins.ndim == 1 else margins
    found = torch.full((len(margins), judged.output.shape[1]), -1e3, dtype=torch.float64)
    found[:, torch.from_numpy(model.classes_.astype(np.int64))] = torch.from_numpy(margins)
    seconds = time.perf_counter() - began
    yield Baseline(GRAMS, "TfidfVectorizer, LinearSVC", len(chosen), seconds, Judged(found, judged.target, judged.rows))


def _part(name: str) -> Any:
    """A module of scikit-learn, which has no types."""
    return importlib.import_module(f"sklearn.{name}")


def _draw(rows: Tensor, most: int, generator: torch.Generator) -> Tensor:
    return rows if len(rows) <= most else rows[torch.randperm(len(rows), generator=generator)[:most].sort().values]
