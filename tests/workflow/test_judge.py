"""After training: readings from validation alone, findings, and the same figures from `evaluate`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score, log_loss

from reinforge.evaluation.findings import Findings
from reinforge.workflow import evaluate as verb
from reinforge.workflow.evaluate import evaluate
from reinforge.workflow.measured import read_findings
from reinforge.workflow.run import Run
from reinforge.workflow.train import train

ROWS = 900
SPLIT = {"kind": "given", "column": "side"}


def table(seed: int = 0, *, lying: bool = False) -> dict[str, list[Any]]:
    """One row in eight is "yes". Training rows are so few, and the training so long, that the model is far too sure.
    `lying`: the test's answers are turned round."""
    g = np.random.default_rng(seed)
    x = g.normal(size=(ROWS, 3))
    yes = x[:, 0] + 0.5 * x[:, 1] + g.normal(size=ROWS) > 1.7
    side = np.repeat(["train", "validation", "test"], ROWS // 3)
    if lying:
        yes = np.where(side == "test", ~yes, yes)
    columns: dict[str, list[Any]] = {f"x{i}": x[:, i].tolist() for i in range(3)}
    return {**columns, "group": g.choice(["a", "b"], ROWS).tolist(), "y": np.where(yes, "yes", "no").tolist(),
            "side": side.tolist()}  # fmt: skip


def recipe(**evaluate: Any) -> dict[str, Any]:
    return {
        "name": "judged",
        "data": {"kind": "table", "targets": ["y"], "split": SPLIT},
        "model": {"kind": "composed", "body": {"kind": "mlp", "sizes": [64, 64]}},
        "objective": {"kind": "supervised"},
        "learn": {"lr": 1e-2, "stop": {"epochs": 40}},
        "evaluate": {"monitor": "roc-auc", "mode": "max", "every": 40, **evaluate},
    }


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train(recipe(), data=table(), output=tmp_path_factory.mktemp("judged") / "run")


def findings(run: Run) -> Findings:
    found = read_findings(run.folder)
    assert found is not None
    return found


def test_an_overconfident_model_is_cooled_and_the_bundle_says_so(run: Run) -> None:
    reading = run.bundle.task.outputs["y"]
    assert reading.temperature > 1.5
    (found,) = findings(run).outputs
    assert found.reading is not None
    before, after = ({m.name: m.value for m in side} for side in (found.reading.before, found.reading.after))
    assert after["log-loss"] < before["log-loss"]


def test_predictions_are_read_as_the_metrics_were(run: Run) -> None:
    """What `predict` says of the test rows has, by scikit-learn, the run's metrics."""
    data = table()
    test = [i for i, side in enumerate(data["side"]) if side == "test"]
    said = run.bundle.predict([{name: values[i] for name, values in data.items() if name != "y"} for i in test])
    truth = [data["y"][i] for i in test]
    decided = [each["y"]["label"] for each in said]
    assert run.metrics["test/accuracy"] == pytest.approx(accuracy_score(truth, decided))
    assert run.metrics["test/f1"] == pytest.approx(f1_score(truth, decided, average="macro"))
    p = [[each["y"]["probabilities"][label] for label in ("no", "yes")] for each in said]
    assert run.metrics["test/log-loss"] == pytest.approx(log_loss(truth, p, labels=["no", "yes"]), rel=1e-4)


def test_the_tests_answers_set_nothing(run: Run, tmp_path: Path) -> None:
    lied = train(recipe(baselines=False, replicates=0), data=table(lying=True), output=tmp_path / "run")
    assert lied.bundle.task.outputs == run.bundle.task.outputs
    assert lied.metrics["test/accuracy"] != run.metrics["test/accuracy"]
    (found,) = findings(lied).outputs
    assert found.baselines == ()
    assert all(m.low is None for m in found.measures)


def test_what_is_switched_off_is_not_set(tmp_path: Path) -> None:
    made = train(
        recipe(calibrate=False, threshold="none", baselines=False, replicates=0), data=table(), output=tmp_path / "run"
    )
    assert made.bundle.task.outputs == {}


@pytest.mark.parametrize("chunk", [7, 100_000])
def test_evaluate_gives_the_runs_figures_in_parts_or_whole(
    run: Run, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verb, "_CHUNK", chunk)
    data = table()
    test = {name: values[2 * ROWS // 3 :] for name, values in data.items()}
    found = evaluate(run, test)
    assert found["rows"] == ROWS // 3
    for name, value in run.metrics.items():
        side, _slash, metric = name.partition("/")
        if side == "test":
            assert found[metric] == pytest.approx(value, rel=1e-5), metric
    low, high = found["intervals"]["accuracy"]
    assert low < found["accuracy"] < high


def test_metrics_are_a_file_for_scripts_too(run: Run) -> None:
    told = json.loads((run.folder / "metrics.json").read_text("utf-8"))
    assert told["metrics"] == run.metrics
    assert set(told["outputs"]["y"]["baselines"]) == {"always the same", "linear", "trees"}
    stated = told["outputs"]["y"]["metrics"]["roc-auc"]
    assert stated["low"] < stated["value"] < stated["high"]
    assert told["outputs"]["y"]["headline"] == "roc-auc", "what the recipe monitors comes first"
    assert told["outputs"]["y"]["reading"]["temperature"] == run.bundle.task.outputs["y"].temperature


def test_folds_are_summed_up_with_an_interval(tmp_path: Path) -> None:
    data = {name: values for name, values in table().items() if name != "side"}
    options = recipe(baselines=False, replicates=0)
    options["data"]["split"] = {"kind": "folds", "folds": 3}
    options["learn"]["stop"] = {"epochs": 2}
    made = train(options, data=data, output=tmp_path / "run")
    values = [child.metrics["test/accuracy"] for child in made.stages]
    assert made.metrics["mean/test/accuracy"] == pytest.approx(np.mean(values))
    assert made.metrics["deviation/test/accuracy"] == pytest.approx(np.std(values, ddof=1))
    assert made.metrics["low/test/accuracy"] <= made.metrics["mean/test/accuracy"] <= made.metrics["high/test/accuracy"]
    assert "Nadeau" in (made.folder / "report.html").read_text("utf-8")
