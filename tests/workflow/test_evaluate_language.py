"""`evaluate` of language models: by likelihood, by answers and by choices, each with its interval and its samples."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

import reinforge
from reinforge.bundle.bundle import Bundle
from reinforge.bundle.loading import load
from reinforge.cli import main
from reinforge.errors import DataError, RecipeError
from reinforge.evaluation.questions import pass_at
from reinforge.evaluation.resampling import wilson
from reinforge.workflow.evaluate import evaluate
from reinforge.workflow.evaluate_language import Asking
from reinforge.workflow.run import Run
from tests.bundle import made

TEXTS = ["the quick brown fox", "a lazy dog sleeps here", "why not", "hello, hello, hello!", "who is it?"] * 6
RECIPE = {
    "name": "documents",
    "data": {"kind": "documents", "tokenizer": "character", "template": "plain", "validation": 0.3},
    "model": {"kind": "decoder", "layers": 1, "width": 32, "heads": 2, "context": 24},
    "source": {"kind": "tokens", "block": 24},
    "learn": {"batch": 2, "lr": 1e-2, "stop": {"updates": 30}, "threads": 1, "compile": "off"},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("documents")
    path = folder / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": f"{text} {n}"}) + "\n" for n, text in enumerate(TEXTS)))
    recipe = {**RECIPE, "data": {**RECIPE["data"], "path": str(path)}}  # type: ignore[dict-item]
    return reinforge.train(recipe, output=folder / "run")


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("chat") / "bundle"
    made.chat_bundle(folder)
    return folder


def lines(path: Path | str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text("utf-8").splitlines()]


def log_probs(bundle: Bundle, ids: torch.Tensor) -> torch.Tensor:
    """Of each token but the first, by one full forward pass."""
    with torch.no_grad():
        logits = bundle.model({"tokens": ids[None].long()})[0]["tokens"][0].double()
    return logits.log_softmax(-1)[:-1].gather(-1, ids[1:, None].long()).squeeze(-1)


def test_what_was_held_back_is_measured_again_with_intervals(run: Run) -> None:
    found = evaluate(run)
    assert found["on"] == "validation part"
    for name in ("loss", "perplexity", "accuracy", "bits_per_byte"):
        assert found[name] == pytest.approx(run.metrics[f"validation/{name}"], rel=1e-6)
        low, high = found["intervals"][name]
        assert low <= found[name] <= high
        assert low < high
    kept = lines(found["samples"])
    assert len(kept) == found["documents"]
    total = sum(each["loss"] * each["tokens"] for each in kept)
    assert total / sum(each["tokens"] for each in kept) == pytest.approx(found["loss"])
    assert found["perplexity"] == pytest.approx(math.exp(found["loss"]))


def test_given_documents_are_measured_whole(run: Run, tmp_path: Path) -> None:
    bundle = load(run.bundle_path)
    rows = [{"text": text} for text in TEXTS[:5]]
    found = evaluate(bundle, rows, output=tmp_path / "out.jsonl")
    pipeline = bundle.form.pipeline  # type: ignore[attr-defined]
    each = [log_probs(bundle, pipeline.document(row["text"])[:25]) for row in rows]
    assert found["loss"] == pytest.approx(-float(torch.cat(each).mean()), rel=1e-4)
    for line, expected in zip(lines(tmp_path / "out.jsonl"), each, strict=True):
        assert line["loss"] == pytest.approx(-float(expected.mean()), rel=1e-4)
    # Documents longer than the context are cut, and have no bits per byte.
    whole = [row for row, found in zip(rows, each) if len(found) < 24]
    bits = -sum(float(found.sum()) for found in each if len(found) < 24) / math.log(2)
    assert 0 < len(whole) <= len(rows)
    assert found["bits_per_byte"] == pytest.approx(bits / sum(len(row["text"]) for row in whole), rel=1e-4)


def test_a_text_file_is_read_in_blocks(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_text("the quick brown fox. " * 20)
    found = evaluate(run, path)
    assert found["bits_per_byte"] == pytest.approx(found["loss"] / math.log(2), rel=1e-6)
    assert found["intervals"]["loss"][0] < found["loss"] < found["intervals"]["loss"][1]
    assert Path(found["samples"]).parent == run.folder / "evaluations"


def test_data_that_changed_since_are_refused(run: Run, tmp_path: Path) -> None:
    path = Path(run.recipe.data.path)  # type: ignore[attr-defined]
    before = path.read_text()
    try:
        path.write_text(before + json.dumps({"text": "one more"}) + "\n")
        with pytest.raises(DataError, match=r"(?s)no longer those it was trained on.*--data FILE"):
            evaluate(run)
    finally:
        path.write_text(before)


def test_choices_by_likelihood_as_a_full_pass_says(run: Run, tmp_path: Path) -> None:
    bundle = load(run.bundle_path)
    rows = [
        {"text": "the quick", "choices": [" fox", " dog sleeps"], "answer": 0},
        {"text": "a lazy", "choices": [" fox", " dog", " it?"], "answer": " dog"},
        {"text": "why", "choices": [" not", "l"], "answer": 1},
    ]
    found = evaluate(bundle, rows, output=tmp_path / "out.jsonl")
    pipeline = bundle.form.pipeline  # type: ignore[attr-defined]
    right, by_byte = 0, 0
    for row, line in zip(rows, lines(tmp_path / "out.jsonl"), strict=True):
        start = len(pipeline.opened(row["text"]))
        sums = [
            float(log_probs(bundle, pipeline.opened(f"{row['text']}{choice}"))[start - 1 :].sum())
            for choice in row["choices"]
        ]
        assert line["log_probs"] == pytest.approx(sums, rel=1e-4)
        answer = row["answer"] if isinstance(row["answer"], int) else row["choices"].index(row["answer"])
        right += sums.index(max(sums)) == answer
        per_byte = [value / len(choice) for value, choice in zip(sums, row["choices"])]
        by_byte += per_byte.index(max(per_byte)) == answer
    assert found["accuracy"] == pytest.approx(right / 3)
    assert found["accuracy_by_byte"] == pytest.approx(by_byte / 3)
    assert found["chance"] == pytest.approx((1 / 2 + 1 / 3 + 1 / 2) / 3)
    assert found["intervals"]["accuracy"] == list(wilson(right, 3))


def test_pairs_are_choices_of_two_in_the_models_own_template(chat: Path) -> None:
    bundle = load(chat)
    rows = [{"prompt": "why", "chosen": "because", "rejected": "no"}, {"prompt": "who", "chosen": "a", "rejected": "b"}]
    found = evaluate(bundle, rows)
    assert found["questions"] == 2
    assert found["chance"] == 0.5
    again = evaluate(
        bundle, [{"prompt": row["prompt"], "choices": [row["chosen"], row["rejected"]], "answer": 0} for row in rows]
    )
    assert again["accuracy"] == found["accuracy"]


def test_choices_that_mean_nothing_are_told_with_their_row(chat: Path) -> None:
    with pytest.raises(DataError, match=r"(?s)row 1.*choices.*two texts or more"):
        evaluate(chat, [{"prompt": "a", "choices": ["b", "c"], "answer": 0}, {"prompt": "a", "choices": ["b"]}])
    with pytest.raises(DataError, match=r"(?s)none of the choices.*0 is the first"):
        evaluate(chat, [{"prompt": "a", "choices": ["b", "c"], "answer": "d"}])
    with pytest.raises(DataError, match="there is nothing before the answer"):
        evaluate(made_without_marks(), [{"text": "", "choices": ["f", "o"], "answer": 0}])


def made_without_marks() -> Bundle:
    import tempfile

    folder = Path(tempfile.mkdtemp()) / "bundle"
    made.text_bundle(folder)
    return load(folder)


def test_several_answers_give_pass_at_k_over_questions(chat: Path, tmp_path: Path) -> None:
    rows = [{"prompt": "why", "answer": "a"}, {"prompt": "who", "answer": "b"}, {"prompt": "how", "answer": "c"}]
    how = Asking(samples=4, tokens=5, reward={"kind": "regex", "pattern": "[a-h]"})
    found = evaluate(chat, rows, asking=how, output=tmp_path / "answers.jsonl")
    kept = lines(tmp_path / "answers.jsonl")
    assert len(kept) == 12
    right = [sum(line["reward"] for line in kept if line["question"] == number) for number in range(3)]
    for k in (1, 2, 4):
        assert found[f"pass@{k}"] == pytest.approx(sum(pass_at(4, int(n), k) for n in right) / 3)
        low, high = found["intervals"][f"pass@{k}"]
        assert low <= found[f"pass@{k}"] <= high
    assert found["accuracy"] == pytest.approx(found["pass@1"])
    assert not {"low", "high"} & set(found)
    # Another seed, other answers; the same, the same.
    assert evaluate(chat, rows, asking=how) == {k: v for k, v in found.items() if k != "samples"}
    evaluate(chat, rows, asking=how, seed=1, output=tmp_path / "other.jsonl")
    assert lines(tmp_path / "other.jsonl") != kept


def test_an_answer_is_exact_where_nothing_else_is_said(chat: Path, tmp_path: Path) -> None:
    first = evaluate(chat, [{"prompt": "why", "answer": "?"}], asking=Asking(tokens=6), output=tmp_path / "a.jsonl")
    assert first["accuracy"] == 0.0
    written = lines(tmp_path / "a.jsonl")[0]["written"]
    assert evaluate(chat, [{"prompt": "why", "answer": written}], asking=Asking(tokens=6))["accuracy"] == 1.0
    with pytest.raises(RecipeError, match=r"(?s)data\.reward"):
        evaluate(chat, [{"prompt": "why", "answer": "a"}], asking=Asking(reward="exactly"))


def test_on_the_command_line(chat: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "questions.jsonl"
    path.write_text('{"prompt": "why", "answer": "a"}\n{"prompt": "how", "answer": "5"}\n')
    told = ["evaluate", str(chat), "--data", str(path), "--samples", "2", "--tokens", "4", "--reward", "numeric"]
    assert main([*told, "-o", str(tmp_path / "out.jsonl"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["questions"] == 2
    assert found["samples"] == str(tmp_path / "out.jsonl")
    assert len(lines(tmp_path / "out.jsonl")) == 4
    assert main([*told, "--samples", "0"]) == 2
    assert "--samples must be at least 1, not 0" in capsys.readouterr().err
    made.table_bundle(tmp_path / "table")
    assert main(["evaluate", str(tmp_path / "table"), "--samples", "3"]) == 2
    assert "is not evaluated by --samples" in capsys.readouterr().err


def test_a_bundle_without_a_recipe_says_that_data_are_needed(chat: Path) -> None:
    with pytest.raises(DataError, match=r"(?s)doesn't say what was held back.*--data FILE"):
        evaluate(chat)
