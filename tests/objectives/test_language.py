"""Language modelling against a plain loop, whole, split and masked."""

from __future__ import annotations

import math
from typing import Literal

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from reinforge.core import batch as batches
from reinforge.core.contracts import Clock
from reinforge.engine.loop import Engine
from reinforge.errors import ComponentError
from reinforge.evaluation.text import TextEvaluator
from reinforge.models.decoder import Decoder
from reinforge.models.decoder_options import DecoderOptions
from reinforge.objectives.language import Language
from reinforge.objectives.options import LanguageOptions
from reinforge.recipe.sections import Learn, Stop
from reinforge.schema.signature import Input, Output, Signature
from reinforge.sources.options import TokenOptions
from reinforge.sources.tokens import TokenSource

SIGNATURE = Signature(
    inputs={"tokens": Input(form="tokens", sizes=(9,))}, outputs={"tokens": Output(form="tokens", size=9)}
)


def decoder() -> Decoder:
    torch.manual_seed(0)
    return Decoder(DecoderOptions(layers=1, width=16, heads=2, context=8), SIGNATURE)


def data() -> dict[str, dict[str, torch.Tensor]]:
    g = torch.Generator().manual_seed(1)
    return {
        "inputs": {"tokens": torch.randint(9, (6, 8), generator=g)},
        "targets": {"tokens": torch.randint(9, (6, 8), generator=g)},
        "valid": {"tokens": torch.rand(6, 8, generator=g) < 0.4},
    }


@pytest.mark.parametrize("masked", [False, True])
def test_loss_is_the_mean_over_valid_tokens_however_split(masked: bool) -> None:
    objective, whole = Language(LanguageOptions(), SIGNATURE), data()
    if not masked:
        del whole["valid"]
    learner = objective.build(decoder())
    counts = objective.counts(whole)
    logits = learner.model({"tokens": whole["inputs"]["tokens"]})[0]["tokens"]
    targets = whole["targets"]["tokens"]
    if masked:
        targets = targets.masked_fill(~whole["valid"]["tokens"], -100)
    oracle = F.cross_entropy(logits.flatten(0, 1), targets.flatten())
    for size in (6, 4, 1):
        total = torch.zeros(())
        for part in batches.split(whole, size):
            total = total + objective.loss(learner, part, counts).terms["tokens"].sum
        torch.testing.assert_close(total / counts["tokens"], oracle, atol=1e-6, rtol=1e-6)


def test_a_part_without_valid_tokens_gives_zero() -> None:
    objective, whole = Language(LanguageOptions(), SIGNATURE), data()
    whole["valid"]["tokens"][:] = False
    learner = objective.build(decoder())
    term = objective.loss(learner, whole, objective.counts(whole)).terms["tokens"]
    assert float(term.sum.detach()) == 0.0
    term.sum.backward()
    assert all(p.grad is None or not p.grad.any() for p in learner.parameters())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_learns_a_cycle_through_the_engine(precision: Literal["fp32", "bf16"]) -> None:
    stream = torch.arange(2000) % 9
    engine = Engine(
        Language(LanguageOptions(), SIGNATURE), decoder(),
        TokenSource(TokenOptions(block=8), stream[:1800], batch=16, seed=0),
        learn=Learn(batch=16, lr=1e-2, stop=Stop(updates=80), threads=1, precision=precision),
        evaluator=TextEvaluator(stream[1800:], block=8),
    )  # fmt: skip
    finished = engine.run()
    assert finished.metrics["loss"] < 0.05
    assert finished.clock.tokens == 80 * 16 * 8


def test_evaluation_predicts_each_token_but_the_first_once() -> None:
    objective = Language(LanguageOptions(), SIGNATURE)
    learner = objective.build(decoder())
    tokens = torch.randint(9, (101,), generator=torch.Generator().manual_seed(2), dtype=torch.int32)
    total = 0.0
    for start in range(0, 100, 8):
        window = tokens[start : start + 9].long()
        logits = learner.model({"tokens": window[None, :-1]})[0]["tokens"][0]
        total += float(F.cross_entropy(logits, window[1:], reduction="sum").detach())
    found = TextEvaluator(tokens, block=8, batch=5).evaluate(learner, Clock())
    assert found["loss"] == pytest.approx(total / 100, rel=1e-5)
    assert found["bits_per_character"] == pytest.approx(total / 100 / math.log(2), rel=1e-5)
    double = TextEvaluator(tokens, characters=202, block=8).evaluate(learner, Clock())
    assert double["bits_per_character"] == pytest.approx(found["bits_per_character"] / 2, rel=1e-5)


def test_refuses_other_models() -> None:
    with pytest.raises(ComponentError, match="needs a language model"):
        Language(LanguageOptions(), SIGNATURE).build(nn.Linear(2, 2))
