"""Recipes of several labels, and of several inputs and targets: they meet their bars beside the baselines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from reinforge.workflow.train import train


def told(folder: Path) -> dict[str, Any]:
    outputs: dict[str, Any] = json.loads((folder / "metrics.json").read_text("utf-8"))["outputs"]
    return outputs


def best(output: dict[str, Any], metric: str) -> float:
    return max(float(each["metrics"][metric]["value"]) for each in output["baselines"].values())


@pytest.mark.slow
def test_several_labels_meet_their_bar(tmp_path: Path) -> None:
    run = train("multi-label", output=tmp_path / "run")
    found = told(run.folder)["digits"]
    assert run.metrics["test/labels-f1"] >= 0.9 > best(found, "labels-f1") + 0.2
    assert run.metrics["test/subset-accuracy"] >= 0.65 > best(found, "subset-accuracy") + 0.2
    assert run.metrics["test/hamming-loss"] <= 0.05
    assert len(found["classes"]) == 10
    assert min(each["f1"] for each in found["classes"]) > 0.6  # 8 is the hardest


@pytest.mark.slow
def test_neither_picture_nor_table_is_enough(tmp_path: Path) -> None:
    plain = ["evaluate.baselines=false", "evaluate.replicates=0"]
    both = train("image-and-table", output=tmp_path / "both")
    picture = train(
        "image-and-table", [*plain, "data.inputs=[quantity]", "data.fields={}"], output=tmp_path / "picture"
    )
    typed = ["data.inputs=[price, weight, customer]", "model.encoders={}", "source.augment=[]"]
    table = train("image-and-table", [*plain, *typed], output=tmp_path / "table")
    for metric, bar in (("test/amount/r2", 0.9), ("test/delivery/accuracy", 0.92)):
        assert both.metrics[metric] >= bar > max(picture.metrics[metric], table.metrics[metric]) + 0.1
    found = told(both.folder)
    for name, metric in (("amount", "r2"), ("delivery", "accuracy")):
        assert both.metrics[f"test/{name}/{metric}"] > best(found[name], metric)


def test_a_slip_is_answered_from_its_picture_and_its_columns(tmp_path: Path) -> None:
    run = train("image-and-table", ["learn.stop.epochs=1", "evaluate.baselines=false"], output=tmp_path / "run")
    slip = {"quantity": [[0] * 8] * 8, "price": 2.5, "weight": 0.1, "customer": "trade"}
    (answer,) = run.bundle.predict([slip])
    assert set(answer) == {"amount", "delivery"}
    assert answer["amount"]["value"] is not None
    assert set(answer["delivery"]["probabilities"]) == {"letter", "parcel", "freight"}
