"""A reward model from a recipe: begun from a language bundle, asked, measured, and as the reward of another."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import reinforge
from reinforge.bundle.loading import load
from reinforge.data.prompts import Prompt
from reinforge.data.reward_options import ExactOptions, ModelOptions, WeightedOptions
from reinforge.data.rewards import judged
from reinforge.errors import DataError, RecipeError
from reinforge.registry import REGISTRY
from reinforge.workflow.evaluate import evaluate
from reinforge.workflow.evaluate_language import Asking
from reinforge.workflow.run import Run
from tests.bundle import made

WORDS = ("why", "how", "who", "what", "when", "where", "which", "whose")
# The better answer has an a where the other has a b.
PAIRS = [
    {"prompt": word, "chosen": f"{word} aa {other}", "rejected": f"{word} bb {other}"}
    for word in WORDS
    for other in ("x", "yes", "no", "so be it")
]
RECIPE: dict[str, Any] = {
    "name": "scores",
    "data": {"kind": "preferences", "validation": 0.25},
    "model": {"kind": "decoder"},
    "objective": {"kind": "reward-model"},
    "learn": {"batch": 8, "lr": 5e-3, "stop": {"updates": 60}, "threads": 1, "compile": "off"},
    "log": {"updates": 10},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("rewards")
    made.chat_bundle(folder / "start")
    path = folder / "pairs.jsonl"
    path.write_text("".join(json.dumps(pair) + "\n" for pair in PAIRS))
    recipe = {**RECIPE, "data": {**RECIPE["data"], "path": str(path)}}
    return reinforge.train(recipe, start=folder / "start", output=folder / "run")


def test_the_bundle_scores_what_was_chosen_higher(run: Run) -> None:
    assert run.metrics["validation/accuracy"] > 0.9
    bundle = load(run.bundle_path)
    assert bundle.form.kind == "score"
    rows = [{"prompt": "whom", "completion": text} for text in ("whom aa x", "whom bb x")]
    better, worse = (found["score"]["value"] for found in bundle.predict(rows))
    assert better > worse + 1
    # Alone and in a batch, as a prompt with its answer and as messages.
    assert bundle.predict(rows[:1])[0]["score"]["value"] == pytest.approx(better, abs=1e-5)
    chat = [{"role": "user", "content": "whom"}, {"role": "assistant", "content": "whom aa x"}]
    assert bundle.predict([{"messages": chat}])[0]["score"]["value"] == pytest.approx(better, abs=1e-5)
    with pytest.raises(DataError, match="row 0"):
        bundle.predict([{"text": ""}])


def test_it_is_measured_on_pairs(run: Run, tmp_path: Path) -> None:
    found = evaluate(run)
    assert found["on"] == "validation part"
    assert found["accuracy"] == pytest.approx(run.metrics["validation/accuracy"])
    assert found["margin"] == pytest.approx(run.metrics["validation/margin"], rel=1e-3)
    low, high = found["intervals"]["margin"]
    assert low < found["margin"] < high
    turned = [{**pair, "chosen": pair["rejected"], "rejected": pair["chosen"]} for pair in PAIRS]
    other = evaluate(run, turned, output=tmp_path / "pairs.jsonl")
    assert other["accuracy"] < 0.1
    assert len((tmp_path / "pairs.jsonl").read_text().splitlines()) == other["pairs"] == len(PAIRS)
    with pytest.raises(DataError, match="is not evaluated by --samples"):
        evaluate(run, asking=Asking(samples=2))


def test_it_rewards_another_models_completions(run: Run, tmp_path: Path) -> None:
    reward = REGISTRY.build("reward", ModelOptions(bundle=str(run.folder), device="cpu"))
    prompts, texts = [Prompt("whom", "")] * 2, ["whom aa x", "whom bb x"]
    bundle = load(run.bundle_path)
    values = [
        found["score"]["value"] for found in bundle.predict([{"prompt": "whom", "completion": text} for text in texts])
    ]
    assert judged(reward, prompts, texts) == pytest.approx(values, abs=1e-5)
    mixed = WeightedOptions(
        of=(
            ModelOptions(bundle=str(run.folder), shift=1.0, scale=2.0, device="cpu"),
            ExactOptions(),
        ),
        weights=(0.5, 10.0),
    )
    found = judged(REGISTRY.build("reward", mixed), [Prompt("whom", "whom bb x")] * 2, texts)
    assert found == pytest.approx([values[0] - 1, values[1] - 1 + 10], abs=1e-5)
    made.chat_bundle(tmp_path / "start")
    with pytest.raises(RecipeError, match="gives no scores"):
        REGISTRY.build("reward", ModelOptions(bundle=str(tmp_path / "start")))
    policy = reinforge.train(
        {
            "name": "rewarded",
            "data": {
                "kind": "questions",
                "reward": {"kind": "model", "bundle": str(run.folder)},
                "asked": 4,
                "tokens": 8,
            },
            "model": {"kind": "decoder"},
            "objective": {"kind": "grpo", "preset": "dapo", "mask_truncated": False},
            "source": {"kind": "completions", "prompts": 4, "group": 8, "max_tokens": 8},
            "learn": {"batch": 32, "lr": 1e-2, "stop": {"updates": 12}, "threads": 1},
            "log": {"updates": 1},
        },
        data=[{"prompt": word, "answer": ""} for word in WORDS],
        start=tmp_path / "start",
        output=tmp_path / "run",
    )
    log = [row["model/reward"] for row in policy.log() if "model/reward" in row]
    assert log[-1] > log[0] + 0.2


def test_it_begins_from_adapters_and_from_untied_weights(run: Run, tmp_path: Path) -> None:
    few = {**RECIPE["learn"], "stop": {"updates": 2}}
    short = {**RECIPE, "learn": few, "start": {"adapter": {"kind": "lora", "rank": 2}}}
    lora = reinforge.train(short, data=PAIRS, start=run.folder.parent / "start", output=tmp_path / "lora")
    one, other = load(run.folder.parent / "start").model, load(lora.bundle_path).model
    assert "score.weight" in other.state_dict()
    assert torch.equal(one.state_dict()["embedding.weight"], other.state_dict()["embedding.weight"])
    again = {**RECIPE, "learn": {**RECIPE["learn"], "stop": {"updates": 1}}}
    more = reinforge.train(again, data=PAIRS, start=run.folder, output=tmp_path / "more")
    assert more.metrics["validation/accuracy"] > 0.9
