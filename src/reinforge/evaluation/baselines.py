"""What simple models of scikit-learn reach on the same rows: beside them a network's figures mean something.

They learn from the same training rows, through the same pipeline, and are measured on the same held-out rows. They are
kept quick, not tuned: at most `MOST_ROWS` rows are learned from, columns wider than `MOST_COLUMNS` are left alone, and
trees have fewer rounds the more classes there are.
"""

from __future__ import annotations

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
from reinforge.models.classic.design import MOST_LABELS, Design
from reinforge.models.classic.estimators import available, estimator, part
from reinforge.models.classic.options import BoostingOptions, LinearOptions
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
_LINEAR_STEPS = 300

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Baseline:
    """A simple model's word on one output: `name`, the estimator in words, rows and seconds of its training."""

    name: str
    about: str
    rows: int
    seconds: float
    judged: Judged


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
    tables = _of_tables(signature)
    linear, trees = Design(tables, coded=False, widest=MOST_LABELS), Design(tables, coded=True)
    if not linear.columns or not trees.columns:
        return
    chosen = _draw(rows, min(MOST_ROWS, max(1000, MOST_VALUES // linear.columns)), generator)
    learned_from = batches.section(batches.select(train, chosen), "inputs")
    asked = batches.section(batches.select(held, judged.rows), "inputs")
    for kind, design in ((LINEAR, linear), (TREES, trees)):
        if design.columns > MOST_COLUMNS:
            continue
        model, about = _estimator(kind, output, len(chosen), trees.categorical, seed)
        if model is None:
            continue
        began = time.perf_counter()
        learned = _learn(model, output, design(learned_from).numpy(), target[chosen].numpy(), design(asked).numpy())
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


def _of_tables(signature: Signature) -> Signature:
    """Without texts, which have a baseline of their own."""
    read = {name: block for name, block in signature.inputs.items() if block.form != "tokens"}
    return signature.model_copy(update={"inputs": read})


def _estimator(kind: str, output: Output, rows: int, categorical: list[bool], seed: int) -> tuple[Any, str]:
    """The estimator, and what it is in words; None where it would take too long."""
    several = output.form in ("labels", "number") and output.size > 1
    if kind == LINEAR:
        model = estimator(LinearOptions(), output, None, rows)
        about = type(model).__name__
        if "max_iter" in model.get_params():
            model.set_params(max_iter=_LINEAR_STEPS)
    elif output.size > _MOST_CLASSES:
        return None, ""
    else:
        models = output.size if output.form != "category" or output.size > 2 else 1
        rounds = max(10, min(100, _TREES // models))
        options = BoostingOptions(rounds=rounds, rate=max(0.1, 3 / rounds))
        model = estimator(options, output, None, rows, categorical=categorical, seed=seed)
        about = f"HistGradientBoosting, {rounds} rounds"
    if several:
        wrapped = part("multioutput")
        model = (wrapped.MultiOutputClassifier if output.form == "labels" else wrapped.MultiOutputRegressor)(model)
    return model, about


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
    pipeline, text, svm = (part(name) for name in ("pipeline", "feature_extraction.text", "svm"))
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


def _draw(rows: Tensor, most: int, generator: torch.Generator) -> Tensor:
    return rows if len(rows) <= most else rows[torch.randperm(len(rows), generator=generator)[:most].sort().values]
