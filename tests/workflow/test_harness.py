"""A language bundle under lm-evaluation-harness, on a task of our own: its figures are ours."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from reinforge.bundle.loading import load
from reinforge.cli import main
from reinforge.errors import DataError
from reinforge.workflow.evaluate import evaluate, evaluate_tasks
from reinforge.workflow.generate import writer_of
from reinforge.workflow.harness import Spoken
from tests.bundle import made

ROWS = [
    {"text": "the quick", "choices": [" brown", " fox"], "answer": 0},
    {"text": "brown", "choices": [" the fox", " quick", " ox"], "answer": 1},
    {"text": "fox.", "choices": [" the", " not"], "answer": 0},
]
TASK = """
task: own-choices
dataset_path: json
dataset_kwargs: {{data_files: {{test: {path}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{text}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{answer}}}}"
target_delimiter: ""
metric_list: [{{metric: acc}}]
"""


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    made.text_bundle(tmp_path / "bundle")
    return tmp_path / "bundle"


@pytest.mark.slow
def test_its_figures_are_ours(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("lm_eval")
    (tmp_path / "tasks").mkdir()
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (tmp_path / "tasks" / "own.yaml").write_text(TASK.format(path=tmp_path / "rows.jsonl"))
    found = evaluate_tasks(load(bundle), ["own-choices"], include=tmp_path / "tasks", output=tmp_path / "answers.jsonl")
    assert found["own-choices/acc"] == pytest.approx(evaluate(load(bundle), ROWS)["accuracy"])
    low, high = found["intervals"]["own-choices/acc"]
    assert low <= found["own-choices/acc"] <= high
    assert len((tmp_path / "answers.jsonl").read_text().splitlines()) == 3
    told = ["evaluate", str(bundle), "--tasks", "own-choices", "--include", str(tmp_path / "tasks"), "--limit", "1"]
    assert main([*told, "--json"]) == 0
    assert "own-choices/acc" in capsys.readouterr().out.splitlines()[-1]
    with pytest.raises(DataError, match="no task 'none-such'"):
        evaluate_tasks(load(bundle), ["none-such"])


def test_likelihoods_and_texts_are_those_of_full_passes(bundle: Path) -> None:
    loaded = load(bundle)
    model, pipeline = writer_of(loaded)
    spoken = Spoken(loaded, model, pipeline)

    def logs(text: str) -> tuple[torch.Tensor, torch.Tensor]:
        ids = pipeline.opened(text).long()
        with torch.no_grad():
            found = model({"tokens": ids[None]})[0]["tokens"][0].log_softmax(-1)[:-1]
        return found.gather(-1, ids[1:, None]).squeeze(-1), found.argmax(-1) == ids[1:]

    pairs = [("the quick", " brown"), ("fo", "x. the")]
    for (context, text), (value, greedy) in zip(pairs, spoken.loglikelihood(pairs), strict=True):
        each, best = logs(context + text)
        own = len(context) - 1
        assert value == pytest.approx(float(each[own:].sum()), rel=1e-4)
        assert greedy == bool(best[own:].all())
    text = "the quick brown fox. " * 5
    (found,) = spoken.loglikelihood_rolling([(text,)])
    # Windows of the context of 48, each beginning with the last token of the one before.
    parts = [text[start : start + 48] for start in range(0, len(text) - 1, 47)]
    assert found == pytest.approx(sum(float(logs(part)[0].sum()) for part in parts if len(part) > 1), rel=1e-4)
    greedy = {"until": ["."], "max_gen_toks": 12}
    one, other = spoken.generate_until([("the", greedy), ("fox", {**greedy, "until": []})])
    assert "." not in one
    assert len(one) <= 12
    assert len(other) <= 12
