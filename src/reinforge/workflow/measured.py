"""What a run found: findings.json, explanation.json and answers.json about its model and data-card.json about its data,
which the report draws, and metrics.json, for people and scripts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from reinforge.errors import IntegrityError
from reinforge.evaluation.answers import Answers
from reinforge.evaluation.data_card import DataCard
from reinforge.evaluation.explanation import Explanation
from reinforge.evaluation.findings import Findings, Measure
from reinforge.storage import strict_json
from reinforge.storage.files import write_atomic

FINDINGS, METRICS, CARD = "findings.json", "metrics.json", "data-card.json"
EXPLANATION, ANSWERS, CLIP = "explanation.json", "answers.json", "clip.webp"
_LIMIT = 64 << 20
Read = TypeVar("Read")


def write_measured(folder: Path, metrics: Mapping[str, float | None], findings: Findings | None) -> None:
    """Write metrics.json and, where there are findings, findings.json into a run's folder."""
    told: dict[str, Any] = {"metrics": dict(metrics)}
    if findings is not None:
        write_atomic(folder / FINDINGS, strict_json.compact(findings.model_dump(mode="json")).decode())
        told |= _told(findings)
    write_atomic(folder / METRICS, strict_json.pretty(told))


def write_card(folder: Path, card: DataCard) -> None:
    """Write data-card.json into a run's folder."""
    write_atomic(folder / CARD, strict_json.compact(TypeAdapter(DataCard).dump_python(card, mode="json")).decode())


def write_explanation(folder: Path, explanation: Explanation) -> None:
    """Write explanation.json into a run's folder."""
    write_atomic(folder / EXPLANATION, strict_json.pretty(explanation.model_dump(mode="json")))


def write_answers(folder: Path, answers: Answers) -> None:
    """Write answers.json into a run's folder."""
    write_atomic(folder / ANSWERS, strict_json.pretty(TypeAdapter(Answers).dump_python(answers, mode="json")))


def read_answers(folder: Path) -> Answers | None:
    """What a run's model wrote; None where nothing was kept. Raises IntegrityError for a file that is none of ours."""
    return _read(folder / ANSWERS, Answers)


def read_explanation(folder: Path) -> Explanation | None:
    """What a run's model goes by; None where it doesn't say. Raises IntegrityError for a file that is none of ours."""
    return _read(folder / EXPLANATION, Explanation)


def read_findings(folder: Path) -> Findings | None:
    """The findings of a run; None where it has none. Raises IntegrityError for a file that is none of ours."""
    return _read(folder / FINDINGS, Findings)


def read_card(folder: Path) -> DataCard | None:
    """What a run's data card shows; None where it has none. Raises IntegrityError for a file that is none of ours."""
    return _read(folder / CARD, DataCard)


def _read(path: Path, kind: type[Read]) -> Read | None:
    if not path.is_file():
        return None
    try:
        return TypeAdapter(kind).validate_python(strict_json.read(path, limit=_LIMIT))
    except ValidationError as error:
        first = error.errors()[0]
        raise IntegrityError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}"[:300], where=str(path)) from None


def _told(findings: Findings) -> dict[str, Any]:
    """Intervals, baselines and readings by output, without what is only drawn."""
    outputs = {}
    for found in findings.outputs:
        outputs[found.name] = {
            "headline": found.headline,
            "metrics": _by_name(found.measures),
            "baselines": {
                each.name: {
                    "about": each.about, "rows": each.rows, "seconds": each.seconds,
                    "metrics": _by_name(each.measures), "advantage": [each.low, each.high],
                }
                for each in found.baselines
            },
            "reading": None if found.reading is None else {
                "temperature": found.reading.temperature, "threshold": found.reading.threshold,
                "thresholds": found.reading.thresholds, "criterion": found.reading.criterion,
                "before": _by_name(found.reading.before), "after": _by_name(found.reading.after),
            },
            "classes": [each.model_dump(mode="json") for each in found.classes],
        }  # fmt: skip
    return {
        "on": findings.on, "rows": findings.rows, "replicates": findings.replicates, "level": findings.level,
        "outputs": outputs,
    }  # fmt: skip


def _by_name(measures: Sequence[Measure]) -> dict[str, Any]:
    return {each.name: {"value": each.value, "low": each.low, "high": each.high} for each in measures}
