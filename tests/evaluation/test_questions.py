"""Answers measured: pass@k against brute force, the interval against its definition."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch

from reinforge.core.contracts import Clock
from reinforge.data.prompts import Prompt
from reinforge.data.questions import QuestionTask
from reinforge.data.reward_options import ExactOptions
from reinforge.data.rewards import exact
from reinforge.evaluation.questions import QuestionEvaluator, pass_at
from reinforge.evaluation.resampling import wilson
from reinforge.models.decoder import Decoder
from reinforge.models.decoder_options import DecoderOptions
from reinforge.objectives.language import LanguageLearner
from tests.bundle import made


@pytest.mark.parametrize(("samples", "right", "k"), [(5, 0, 2), (5, 1, 2), (6, 3, 3), (4, 4, 1), (8, 2, 8)])
def test_pass_at_k_is_the_part_of_all_choices_with_one_that_is_right(samples: int, right: int, k: int) -> None:
    chosen = list(combinations(range(samples), k))
    assert pass_at(samples, right, k) == pytest.approx(sum(min(each) < right for each in chosen) / len(chosen))


def test_interval() -> None:
    low, high = wilson(8, 10)
    # Where |p - 0.8| is 1.96 deviations of p.
    for p in (low, high):
        assert abs(p - 0.8) == pytest.approx(1.959964 * (p * (1 - p) / 10) ** 0.5)
    assert wilson(0, 5)[0] == 0.0
    assert wilson(5, 5)[1] == 1.0


def test_greedy_answers_and_their_rewards() -> None:
    torch.manual_seed(0)
    pipeline = made.chat_pipeline()
    model = Decoder(DecoderOptions(layers=1, width=32, heads=2, context=64), pipeline.signature)
    prompts = [Prompt("why", "a"), Prompt("how", "b"), Prompt("who", "c")]
    evaluator = QuestionEvaluator(prompts, QuestionTask((), exact(ExactOptions())).reward, pipeline, tokens=6)
    evaluator.evaluate(LanguageLearner(model), Clock())
    known = [Prompt(each.prompt, each.written) for each in evaluator.answered]
    half = [known[0], known[1]._replace(answer="?"), known[2]]
    metrics = QuestionEvaluator(half, QuestionTask((), exact(ExactOptions())).reward, pipeline, tokens=6).evaluate(
        LanguageLearner(model), Clock()
    )
    assert metrics["accuracy"] == pytest.approx(2 / 3)
    assert (metrics["low"], metrics["high"]) == wilson(2, 3)
    several = QuestionEvaluator(known, QuestionTask((), exact(ExactOptions())).reward, pipeline, tokens=6, samples=4)
    found = several.evaluate(LanguageLearner(model), Clock())
    assert found["pass@1"] <= found["pass@2"] <= found["pass@4"]
    assert len(several.answered) == 12


def test_each_question_is_rewarded_by_itself() -> None:
    """Two with one answer are two: a puzzle's check may look at more than its answer."""
    torch.manual_seed(0)
    pipeline = made.chat_pipeline()
    model = Decoder(DecoderOptions(layers=1, width=32, heads=2, context=64), pipeline.signature)
    prompts = [Prompt("why", "a"), Prompt("how", "a")]
    evaluator = QuestionEvaluator(prompts, lambda prompt, _written: float(prompt.text == "how"), pipeline, tokens=4)
    assert evaluator.evaluate(LanguageLearner(model), Clock())["accuracy"] == 0.5
    assert [each.reward for each in evaluator.answered] == [0.0, 1.0]
