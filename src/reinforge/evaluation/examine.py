"""A judgement of held-out rows as findings: metrics with intervals, baselines, confusion, calibration, curves."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from reinforge.bundle.task import Reading
from reinforge.core import batch as batches
from reinforge.core.batch import Batch
from reinforge.data.table import Table
from reinforge.evaluation import findings
from reinforge.evaluation.baselines import UNSOUND, baselines
from reinforge.evaluation.examples import slices, worst
from reinforge.evaluation.findings import Bin, Class, Curve, Findings, Found, Measure
from reinforge.evaluation.intervals import LEVEL, REPLICATES, difference, interval
from reinforge.evaluation.metrics.category import bin_of
from reinforge.evaluation.metrics.metric import Confused, Metric, confusions
from reinforge.evaluation.metrics.ranking import Ranking, area_under_roc, average_precision, roc_curve
from reinforge.evaluation.metrics.ranking import precision_recall_curve as precision_recall
from reinforge.evaluation.readings import as_pairs
from reinforge.evaluation.supervised import Judged, Judgement, SupervisedEvaluator, decide, read
from reinforge.schema.fields import sources
from reinforge.schema.schema import Schema

# Which metric says most of an output, by its form, where the recipe monitors none.
HEADLINES = {
    "category": "accuracy", "labels": "labels-f1", "ordinal": "quadratic-kappa", "number": "r2",
    "count": "poisson-deviance", "span": "exact-match",
}  # fmt: skip
# Of a baseline, what is shown beside the network's.
_BASELINE_REPLICATES = 300
MOST_CLASSES = 12
BINS = 10
_CURVE_POINTS = 120
_MOST_CURVES = 6
_SCATTER = 400


@dataclass(frozen=True)
class Held:
    """Held-out rows, as tensors and as they were read. `rows`: their numbers in the data; `train`, `training`: the
    training rows in both forms, for baselines."""

    batch: Batch
    table: Table
    rows: Sequence[int]
    train: Batch | None = None
    training: Table | None = None


@dataclass(frozen=True)
class Asked:
    """What to find out, and how thoroughly. `readings` were set by `criterion` on `validation` rows."""

    on: findings.Side = "test"
    monitor: str | None = None
    replicates: int = REPLICATES
    seed: int = 0
    baselines: bool = True
    readings: Mapping[str, Reading] = field(default_factory=dict)
    criterion: str = "none"
    validation: int = 0


def examine(evaluator: SupervisedEvaluator, judgement: Judgement, schema: Schema, held: Held, asked: Asked) -> Findings:
    """What the judgement of the held-out rows shows."""
    began = time.perf_counter()
    found = tuple(_output(name, judged, evaluator, schema, held, asked) for name, judged in judgement.outputs.items())
    seconds = time.perf_counter() - began
    return Findings(
        on=asked.on, rows=batches.rows(held.batch), replicates=asked.replicates, level=LEVEL, seconds=seconds,
        outputs=found,
    )  # fmt: skip


def _output(
    name: str, judged: Judged, evaluator: SupervisedEvaluator, schema: Schema, held: Held, asked: Asked
) -> Found:
    output, metrics = evaluator.signature.outputs[name], evaluator.metrics[name]
    reading = asked.readings.get(name, Reading())
    labels = tuple(getattr(schema.field(name), "labels", ()))
    wanted = (asked.monitor or "").removeprefix(f"{name}/")
    headline = wanted if wanted in metrics else HEADLINES.get(output.form, next(iter(metrics), ""))
    more: dict[str, object] = {}
    if output.form == "category":
        more = _category(judged, reading, labels, asked)
    elif output.form == "labels":
        more = _labels(judged, reading, labels)
    elif output.form == "ordinal":
        more = _confusion(judged.output.long(), judged.target, labels, asked)
    elif output.form in ("number", "count"):
        more = _residuals(judged, asked.seed)
    decided = {kind: read(judged.output, metric, reading) for kind, metric in metrics.items()}
    return Found(
        name=name, form=output.form, labels=labels, headline=headline,
        measures=tuple(
            measure(kind, metric, decided[kind], judged.target, asked.replicates, asked.seed)
            for kind, metric in metrics.items()
        ),
        baselines=_baselines(name, headline, judged, decided, evaluator, schema, held, asked),
        reading=_reading(judged, reading, metrics, asked),
        worst=worst(judged, output.form, reading, labels, schema, held.table, held.rows, held.batch),
        slices=slices(judged, output.form, reading, metrics, schema, held.table, asked.seed),
        **more,
    )  # fmt: skip


def measure(
    name: str, metric: Metric, output: Tensor, target: Tensor, replicates: int = REPLICATES, seed: int = 0
) -> Measure:
    """The metric's value and interval at rows that are read as it takes them."""
    value = metric(output, target)
    found = interval(metric, output, target, replicates=replicates, seed=seed) if not math.isnan(value) else None
    return Measure(
        name=name, value=_finite(value), low=_finite(found.low) if found else None,
        high=_finite(found.high) if found else None, best=getattr(metric, "best", "high"),
    )  # fmt: skip


def _baselines(
    name: str, headline: str, judged: Judged, decided: Mapping[str, Tensor], evaluator: SupervisedEvaluator,
    schema: Schema, held: Held, asked: Asked,
) -> tuple[findings.Baseline, ...]:  # fmt: skip
    if not asked.baselines or held.train is None:
        return ()
    metrics = evaluator.metrics[name]
    found = []
    for made in baselines(
        name, evaluator.signature, held.train, held.batch, judged,
        texts=_texts(schema, held), units=evaluator.units, seed=asked.seed,
    ):  # fmt: skip
        sound = {kind: metric for kind, metric in metrics.items() if kind not in UNSOUND.get(made.name, ())}
        said, target = made.judged.output, made.judged.target
        replicates = min(asked.replicates, _BASELINE_REPLICATES)
        gap = None
        if headline in sound and replicates:
            gap = difference(metrics[headline], decided[headline], said, target, replicates=replicates, seed=asked.seed)
        found.append(
            findings.Baseline(
                name=made.name, about=made.about, rows=made.rows, seconds=made.seconds,
                measures=tuple(
                    measure(kind, metric, said, target, replicates if kind == headline else 0, asked.seed)
                    for kind, metric in sound.items()
                ),
                low=gap.low if gap else None, high=gap.high if gap else None,
            )
        )  # fmt: skip
    return tuple(found)


def _texts(schema: Schema, held: Held) -> tuple[list[str], list[str]] | None:
    """Of the first input that is a text, those of the training rows and of the held-out ones."""
    name = next((sources(f)[0] for f in schema.inputs if f.kind == "text"), None)
    if name is None or held.training is None or name not in held.table.columns:
        return None
    both = [
        ["" if value is None else str(value) for value in table.column(name)] for table in (held.training, held.table)
    ]
    return both[0], both[1]


def _reading(judged: Judged, reading: Reading, metrics: Mapping[str, Metric], asked: Asked) -> findings.Read | None:
    """What the reading changed: of the metrics, those that look at probabilities or decisions."""
    if reading == Reading():
        return None
    sides: list[list[Measure]] = [[], []]
    for kind, metric in metrics.items():
        values = [
            measure(kind, metric, read(judged.output, metric, each), judged.target, 0) for each in (Reading(), reading)
        ]
        if values[0].value != values[1].value:
            for side, value in zip(sides, values):
                side.append(value)
    return findings.Read(
        temperature=reading.temperature, threshold=reading.threshold, thresholds=reading.thresholds,
        criterion=asked.criterion, rows=asked.validation, before=tuple(sides[0]), after=tuple(sides[1]),
    )  # fmt: skip


def _category(judged: Judged, reading: Reading, labels: Sequence[str], asked: Asked) -> dict[str, object]:
    """Confusion, reliability and ranking of a category."""
    probabilities = (judged.output.double() / reading.temperature).softmax(1)
    found = _confusion(decide(judged.output, "category", reading).argmax(1), judged.target, labels, asked)
    found["reliability"] = _reliability(probabilities, judged.target)
    if reading.temperature != 1.0:
        found["uncalibrated"] = _reliability(judged.output.double().softmax(1), judged.target)
    codes = [1] if probabilities.shape[1] == 2 else range(probabilities.shape[1])
    margins = judged.output.double()[:, 1] - judged.output.double()[:, 0]
    pairs = [
        (
            labels[c] if c < len(labels) else str(c),
            margins if len(codes) == 1 else probabilities[:, c],
            judged.target == c,
        )
        for c in codes
    ]
    return {**found, **_rankings(pairs)}


def _labels(judged: Judged, reading: Reading, labels: Sequence[str]) -> dict[str, object]:
    """Every label for itself, and the reliability of them all."""
    logits, target = judged.output.double(), judged.target > 0.5
    decided = decide(logits, "labels", reading) > 0
    classes = []
    for code in range(logits.shape[1]):
        hits = int((decided[:, code] & target[:, code]).sum())
        said, holds = int(decided[:, code].sum()), int(target[:, code].sum())
        classes.append(_class(labels[code] if code < len(labels) else str(code), hits, said, holds))
    pairs, truth = as_pairs(logits / reading.temperature, judged.target)
    ranked = [
        (labels[code] if code < len(labels) else str(code), logits[:, code], target[:, code])
        for code in range(logits.shape[1])
    ]
    found: dict[str, object] = {
        "classes": tuple(classes), "reliability": _reliability(pairs.softmax(1), truth), **_rankings(ranked),
    }  # fmt: skip
    if reading.temperature != 1.0:
        found["uncalibrated"] = _reliability(as_pairs(logits, judged.target)[0].softmax(1), truth)
    return found


def _confusion(decided: Tensor, target: Tensor, labels: Sequence[str], asked: Asked) -> dict[str, object]:
    """The matrix where there are few classes, what is confused most where there are many, and each class for itself."""
    size = max(len(labels), int(torch.maximum(decided.max(), target.max())) + 1)
    names = [*labels, *(str(code) for code in range(len(labels), size))]
    ones = torch.ones(1, len(target), dtype=torch.float64)
    matrix = confusions(decided, target.long(), size, ones)[0].long()
    off = matrix.clone().fill_diagonal_(0)
    order = off.flatten().argsort(descending=True)[:10].tolist()
    confused = [(names[i // size], names[i % size], int(off.flatten()[i])) for i in order if off.flatten()[i] > 0]
    classes = []
    for code, label in enumerate(names):
        f1 = interval(_ClassF1(code, size), decided, target, replicates=asked.replicates, seed=asked.seed)
        classes.append(
            _class(label, int(matrix[code, code]), int(matrix[:, code].sum()), int(matrix[code].sum())).model_copy(
                update={"low": f1.low, "high": f1.high} if f1 and size <= 4 * MOST_CLASSES else {}
            )
        )
    rows = tuple(tuple(row) for row in matrix.tolist()) if size <= MOST_CLASSES else ()
    return {"confusion": rows, "confused": tuple(confused), "classes": tuple(classes)}


class _ClassF1(Confused):
    """F1 of one class, from decided classes (rows,)."""

    def __init__(self, code: int, size: int) -> None:
        self.code, self.size = code, size

    def confusion(self, output: Tensor, target: Tensor, weights: Tensor) -> Tensor:
        """(replicates, 2, 2): this class against all others."""
        return confusions((output == self.code).long(), (target == self.code).long(), 2, weights)

    def of(self, confusion: Tensor) -> Tensor:
        """(replicates,)."""
        return 2 * confusion[:, 1, 1] / (2 * confusion[:, 1, 1] + confusion[:, 0, 1] + confusion[:, 1, 0])


def _class(label: str, hits: int, decided: int, holds: int) -> Class:
    return Class(
        label=label, rows=holds, decided=decided, precision=hits / decided if decided else None,
        recall=hits / holds if holds else None, f1=2 * hits / (decided + holds) if decided + holds else None,
    )  # fmt: skip


def _reliability(probabilities: Tensor, target: Tensor) -> tuple[Bin, ...]:
    confidence, decided = probabilities.max(1)
    right, place = (decided == target).double(), bin_of(confidence, BINS)
    found = []
    for index in range(BINS):
        here = place == index
        if here.any():
            mean = float(confidence[here].mean())
            found.append(Bin(confidence=mean, accuracy=float(right[here].mean()), rows=int(here.sum())))
    return tuple(found)


def _rankings(ranked: Sequence[tuple[str, Tensor, Tensor]]) -> dict[str, object]:
    """ROC and precision-recall of so many, those with the least area first where there are too many to draw."""
    roc, pr = [], []
    for label, scores, positive in ranked:
        if not 0 < int(positive.sum()) < len(positive):
            continue
        ranking = Ranking.of(scores, positive)
        ones = torch.ones(1, len(scores), dtype=torch.float64)
        area, precision = float(area_under_roc(ranking, ones)), float(average_precision(ranking, ones))
        roc.append(Curve(label=label, points=_thinned(*roc_curve(ranking)), area=area))
        pr.append(Curve(label=label, points=_thinned(*precision_recall(ranking)), area=precision))
    return {
        name: tuple(sorted(curves, key=lambda curve: curve.area)[:_MOST_CURVES])
        for name, curves in (("roc", roc), ("precision_recall", pr))
    }


def _thinned(x: Tensor, y: Tensor) -> findings.Points:
    if len(x) > _CURVE_POINTS:
        chosen = torch.linspace(0, len(x) - 1, _CURVE_POINTS).round().long()
        x, y = x[chosen], y[chosen]
    return tuple((round(float(a), 5), round(float(b), 5)) for a, b in zip(x, y))


def _residuals(judged: Judged, seed: int) -> dict[str, object]:
    """Truth against value of some rows, and how errors are spread; of vectors, all their values as one."""
    said = judged.output.double().flatten()
    true = judged.target.double().flatten()
    error = said - true
    generator = torch.Generator().manual_seed(seed)
    some = torch.randperm(len(said), generator=generator)[:_SCATTER]
    points = tuple((float(a), float(b)) for a, b in zip(true[some], said[some]) if math.isfinite(a + b))
    # The outermost hundredth would leave one bin for all the others.
    edge = float(error.abs().quantile(0.99)) if len(error) <= 1_000_000 else float(error[some].abs().max())
    if not edge > 0 or not math.isfinite(edge):
        return {"scatter": points}
    count = 2 * min(15, max(4, round(math.sqrt(len(error)) / 2))) + 1
    width = 2 * edge / count
    counts = torch.histc(error.clamp(-edge, edge), count, -edge, edge).long().tolist()
    middles = [-edge + width * (index + 0.5) for index in range(count)]
    return {"scatter": points, "errors": tuple(zip(middles, counts)), "error_width": width}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
