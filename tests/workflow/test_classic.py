"""Models that are fitted at once, by the same verbs as any other."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import accuracy_score

import reinforge
from reinforge.errors import ComponentError, RecipeError, StorageError
from reinforge.evaluation.report_explained import as_text
from reinforge.workflow.doctor import doctor
from reinforge.workflow.evaluate import evaluate
from reinforge.workflow.measured import read_explanation
from reinforge.workflow.predict import predict
from reinforge.workflow.rehearsal import rehearse
from reinforge.workflow.run import Run
from reinforge.workflow.train import train
from reinforge.workflow.verify import verify

KINDS = ("linear", "tree", "forest", "boosting")
SMALL = {"forest": {"kind": "forest", "trees": 10}, "boosting": {"kind": "boosting", "rounds": 20}}


def rows(count: int = 240, seed: int = 0) -> list[dict[str, Any]]:
    """Something of everything: numbers, some missing; labels; a set; five targets, some missing."""
    g = np.random.default_rng(seed)
    found = []
    for _row in range(count):
        a, b, c = g.normal(50, 10), g.exponential(3.0), str(g.choice(["red", "green", "blue"]))
        z = (a - 50) / 10 + (2 if c == "red" else 0) - 0.2 * b
        found.append(
            {
                "a": None if g.random() < 0.1 else round(float(a), 1), "b": round(float(b), 2), "c": c,
                "tags": json.dumps([tag for tag in ("x", "y") if g.random() < 0.5]),
                "kind": "yes" if z + 0.3 * g.normal() > 0.5 else "no",
                "grade": None if g.random() < 0.2 else int(np.clip(round(z) + 1, 0, 2)),
                "size": round(float(100 + 20 * z), 2), "often": int(g.poisson(np.exp(np.clip(z, -1, 1.5)))),
                "signs": json.dumps([sign for sign, on in (("p", z > 0), ("q", b > 3)) if on]),
            }
        )  # fmt: skip
    return found


FIELDS = {
    "a": {"kind": "number", "indicator": True, "missing": "mean"}, "tags": {"kind": "labels"},
    "kind": {"kind": "category"}, "grade": {"kind": "category", "ordered": True, "missing": "mask"},
    "size": {"kind": "number"}, "often": {"kind": "number", "count": True}, "signs": {"kind": "labels"},
}  # fmt: skip


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "rows.csv"
    table = rows()
    with path.open("w", newline="") as opened:
        writer = csv.DictWriter(opened, list(table[0]))
        writer.writeheader()
        writer.writerows(table)
    return path


def recipe(file: Path, kind: str, *targets: str, **changes: Any) -> dict[str, Any]:
    wanted = targets or ("kind", "grade", "size", "often", "signs")
    return {
        "name": kind,
        "data": {
            "kind": "table", "path": str(file), "targets": {name: FIELDS[name] for name in wanted},
            "fields": {name: FIELDS[name] for name in ("a", "tags")},
            "drop": [name for name in ("kind", "grade", "size", "often", "signs") if name not in wanted],
        },
        "model": SMALL.get(kind, {"kind": kind}),
        "objective": "supervised",
        "evaluate": {"replicates": 50, "baselines": False},
        **changes,
    }  # fmt: skip


@pytest.fixture(scope="module")
def runs(file: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    folder = tmp_path_factory.mktemp("runs")
    return {kind: train(recipe(file, kind), output=folder / kind) for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
def test_the_whole_road(runs: dict[str, Run], file: Path, kind: str) -> None:
    run = runs[kind]
    there = {path.name for path in run.folder.iterdir()}
    assert there >= {"recipe.yaml", "run.json", "log.jsonl", "bundle", "report.html", "explanation.json"}
    assert "checkpoints" not in there
    assert (run.finished, run.status["reason"]) == (True, "fitted")
    assert run.status["parameters"] > 0
    assert not list(run.folder.rglob("*.pkl"))
    assert {path.suffix for path in run.bundle_path.iterdir()} == {".json", ".jsonl", ".safetensors", ".md"}
    verify(run.bundle_path)
    again = evaluate(run.bundle_path)
    tested = {name.removeprefix("test/"): value for name, value in run.metrics.items() if name.startswith("test/")}
    assert {name.split("/")[0] for name in tested} >= {"kind", "grade", "size", "often", "signs"}
    for name, value in tested.items():
        assert again[name] == pytest.approx(value, rel=1e-5, abs=1e-7), name
    assert run.metrics["test/kind/accuracy"] > 0.75
    assert run.metrics["test/size/r2"] > 0.5
    raw = [{key: row[key] for key in ("a", "b", "c", "tags")} for row in rows(30, 1)]
    raw[0] |= {"a": None, "c": "never seen"}
    together = run.bundle.predict(raw)
    for row, found in zip(raw, together):
        (alone,) = run.bundle.predict([row])
        assert alone["kind"]["label"] == found["kind"]["label"]
        assert alone["size"]["value"] == pytest.approx(found["size"]["value"], rel=1e-6)
        assert found["often"]["value"] >= 0
        assert sum(found["grade"]["probabilities"].values()) == pytest.approx(1, abs=1e-5)
    out = run.folder.parent / f"{kind}.csv"
    assert predict(run.bundle_path, file, output=out)
    assert "explanation" in run.bundle.provenance  # type: ignore[operator]


def test_predicting_needs_no_scikit_learn(runs: dict[str, Run]) -> None:
    program = (
        "import sys; sys.modules['sklearn'] = None; sys.modules['threadpoolctl'] = None\n"
        "import reinforge\n"
        "for folder in sys.argv[1:]:\n"
        "    (found,) = reinforge.load(folder).predict([{'a': 51, 'b': 1.5, 'c': 'red', 'tags': '[]'}])\n"
        "    print(found['size']['value'])\n"
    )
    paths = [str(run.bundle_path) for run in runs.values()]
    done = subprocess.run([sys.executable, "-c", program, *paths], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    row = {"a": 51, "b": 1.5, "c": "red", "tags": "[]"}
    expected = [run.bundle.predict([row])[0]["size"]["value"] for run in runs.values()]
    assert [float(line) for line in done.stdout.split()] == pytest.approx(expected)


def test_a_killed_run_is_fitted_anew_and_a_finished_one_stays(runs: dict[str, Run], tmp_path: Path) -> None:
    shutil.copytree(runs["forest"].folder, tmp_path / "killed")
    killed = Run(tmp_path / "killed")
    shutil.rmtree(killed.bundle_path)
    killed.write_status(state="running")
    weights = (runs["forest"].bundle_path / "weights.safetensors").read_bytes()
    resumed = train(resume=killed.folder)
    assert resumed.finished
    assert (resumed.bundle_path / "weights.safetensors").read_bytes() == weights
    assert len(list(resumed.log())) == 1
    before = (resumed.folder / "run.json").read_bytes()
    assert train(resume=resumed.folder).finished
    assert (resumed.folder / "run.json").read_bytes() == before


def test_interrupted_while_it_is_fitted_nothing_is_left(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_arguments: Any, **_keywords: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("reinforge.workflow.tasks.classic.fit", stop)
    with pytest.raises(KeyboardInterrupt):
        train(recipe(file, "tree", "kind"), output=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_without_room_the_run_waits_for_more(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, size: int) -> None:
        raise StorageError("no space is left", where=str(path))

    with monkeypatch.context() as patched:
        patched.setattr("reinforge.workflow.fitting.require_space", full)
        with pytest.raises(StorageError, match="no space"):
            train(recipe(file, "tree", "kind"), output=tmp_path / "run")
    assert not Run(tmp_path / "run").finished
    assert train(resume=tmp_path / "run").finished


def test_folds(file: Path, tmp_path: Path) -> None:
    made = recipe(file, "tree", "kind")
    made["data"]["split"] = {"kind": "folds", "folds": 3}
    run = train(made, output=tmp_path / "run")
    assert len(run.stages) == 3
    assert 0.6 < run.metrics["mean/test/accuracy"] <= 1
    assert "What it goes by" in (run.folder / "report.html").read_text()


def test_boosting_logs_its_rounds(runs: dict[str, Run]) -> None:
    logged = list(runs["boosting"].log())
    assert [row["updates"] for row in logged] == list(range(1, 21))
    losses = [row["evaluation/kind/loss"] for row in logged]
    kept = runs["boosting"].metrics["validation/kind/loss"]
    # Readings come after: the loss is of logits as they were.
    assert min(losses) == pytest.approx(kept, rel=1e-4)
    assert any("rounds kept" in note for note in runs["boosting"].status["notes"])


def test_class_weights_reach_the_fit(file: Path, tmp_path: Path) -> None:
    made = recipe(file, "boosting", "kind")
    plain = train(made, output=tmp_path / "plain")
    made["objective"] = {
        "kind": "supervised", "losses": {"kind": {"kind": "cross-entropy", "weights": [1.0, 30.0]}},
    }  # fmt: skip
    heavy = train(made, output=tmp_path / "heavy")
    raw = rows(200, 2)
    yes = [sum(p["kind"]["probabilities"]["yes"] for p in run.bundle.predict(raw)) for run in (plain, heavy)]
    assert yes[1] > yes[0] + 10


@pytest.mark.parametrize(
    ("change", "where", "told"),
    [
        ({"source": {"kind": "loader", "sample": "balanced"}}, "source", "weights: balanced"),
        ({"objective": {"kind": "supervised", "weighting": "uncertainty"}}, "objective", "fixed weights"),
        ({"objective": "gan"}, "objective", "model=composed"),
        ({"data": {"kind": "environment", "id": "CartPole-v1"}}, "model", "learns from a table alone"),
    ],
)
def test_what_it_cannot_do_is_refused(
    file: Path, tmp_path: Path, change: dict[str, Any], where: str, told: str
) -> None:
    with pytest.raises(RecipeError, match=told) as raised:
        train(recipe(file, "forest", **change), output=tmp_path / "run")
    assert raised.value.where == where
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("kind", KINDS)
def test_no_tuning_of_what_is_fitted_at_once(runs: dict[str, Run], file: Path, tmp_path: Path, kind: str) -> None:
    with pytest.raises(RecipeError, match="can't begin with a bundle") as raised:
        train(recipe(file, kind), start=runs[kind].bundle_path, output=tmp_path / "run")
    assert "Train it anew" in str(raised.value)
    network = recipe(file, kind) | {"model": {"kind": "composed"}}
    with pytest.raises(ComponentError, match="weights don't fit the model"):
        train(network, start=runs[kind].bundle_path, output=tmp_path / "run")


def test_doctor_and_dry_runs(file: Path) -> None:
    found = doctor(recipe(file, "forest", "kind"))
    assert found.cost is not None
    assert found.cost.bound == "fit"
    assert found.cost.parameters > 100
    assert "it was fitted whole" in found.text()
    estimated = rehearse(recipe(file, "boosting", "kind")).estimated_seconds
    assert estimated is not None
    assert 0 < estimated < 60


def test_scikit_learn_by_hand_says_the_same(file: Path, tmp_path: Path) -> None:
    """From the raw file, with nothing of ours: numbers as they are, since trees don't mind the scale."""
    made = recipe(file, "boosting", "kind")
    made["data"] |= {"drop": [*made["data"]["drop"], "c", "tags", "a"], "fields": {}}
    made["data"]["split"] = {"kind": "random", "validation": 0.0, "test": 0.3}
    made["model"] = {"kind": "boosting", "rounds": 15, "leaf_rows": 10}
    run = train(made, output=tmp_path / "run")
    from reinforge.data.prepared import prepare
    from reinforge.recipe import load

    sides = prepare(load(made).data, 0).rows
    b, y = np.array([[row["b"]] for row in rows()]), np.array([row["kind"] for row in rows()])
    by_hand = HistGradientBoostingClassifier(max_iter=15, min_samples_leaf=10, early_stopping=False)
    by_hand.fit(b[sides.train], y[sides.train])
    assert run.metrics["test/accuracy"] == pytest.approx(accuracy_score(y[sides.test], by_hand.predict(b[sides.test])))


def test_the_report_says_what_it_goes_by(runs: dict[str, Run]) -> None:
    rules = read_explanation(runs["tree"].folder)
    assert rules is not None
    page = (runs["tree"].folder / "report.html").read_text()
    assert "Its rules" in page
    text = as_text(rules.outputs[0].rules["kind"])
    assert "c is red" in text
    assert text.splitlines()[0].split(" ≤ ")[0] in ("a", "b", "c is not red")
    weights = read_explanation(runs["linear"].folder)
    assert weights is not None
    named = {weight.name: weight.values[0] for weight in weights.outputs[2].weights}
    # size = 100 + 20 z, and z rises by 1 with a deviation of a (10), by 2 with red, and falls with b.
    assert named["a"] == pytest.approx(20, rel=0.15)
    assert named["c = red"] - named["c = blue"] == pytest.approx(40, rel=0.15)
    assert named["b"] < -5
    assert "It ended because it was fitted at once." in (runs["linear"].folder / "report.html").read_text()


def test_torch_is_left_as_it_was(runs: dict[str, Run]) -> None:
    assert torch.get_default_dtype() == torch.float32
    assert reinforge.load(runs["tree"].bundle_path).model.training is False
