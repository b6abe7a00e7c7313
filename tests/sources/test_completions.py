"""Completions and the tasks that reward them."""

from __future__ import annotations

import pytest
import torch

from reinforge.core.contracts import Clock
from reinforge.core.ragged import Ragged
from reinforge.data.prompts import Prompt
from reinforge.errors import ComponentError
from reinforge.models.decoder import Decoder
from reinforge.models.decoder_options import DecoderOptions
from reinforge.objectives.language import LanguageLearner
from reinforge.sources.completions import CompletionSource, task_pipeline
from reinforge.sources.options import CompletionOptions, CopyOptions, ReasoningGymOptions, SumOptions
from reinforge.sources.tasks import CopyTask, ReasoningGymTask, SumTask


def test_tasks_reward_what_is_right() -> None:
    copy, add = CopyTask(CopyOptions(digits=2)), SumTask(SumOptions(digits=2))
    prompt = Prompt("37>", "37")
    assert [copy.reward(prompt, text) for text in ("37\n", "37", "3x\n", "", "99")] == [1.0, 2 / 3, 2 / 3, 0.0, 0.0]
    assert [add.reward(Prompt("3+4=", "7"), text) for text in ("7\n", "7", "8\n")] == [1.0, 0.0, 0.0]
    drawn = add.draw(torch.Generator().manual_seed(0))
    terms = drawn.text.rstrip("=").split("+")
    assert drawn.answer == str(sum(map(int, terms)))
    assert set(drawn.text + drawn.answer) <= set(add.alphabet)


def test_source_resumes_exactly() -> None:
    torch.manual_seed(0)
    signature = task_pipeline(CopyTask(CopyOptions())).signature
    model = Decoder(DecoderOptions(layers=1, width=32, heads=2, context=16), signature)
    options = CompletionOptions(task=CopyOptions(digits=1), prompts=2, group=3)
    source, other = CompletionSource(options, seed=4), CompletionSource(options, seed=4)
    learner = LanguageLearner(model)
    source.publish(learner, Clock())
    other.publish(learner, Clock())
    source.next(Clock())
    other.load_state_dict(source.state_dict())
    one, two = source.next(Clock()).batch["tokens"], other.next(Clock()).batch["tokens"]
    assert one.values.equal(two.values)  # type: ignore[union-attr]
    assert [len(completions) for _prompt, completions in source.samples] == [3, 3]
    text, last = source.pipeline.tokenizer.decode(two.row(5)), source.samples[1]  # type: ignore[union-attr]
    assert text == other.samples[1][0].text + other.samples[1][1][2][0]
    assert last[1][2][1] == source.task.reward(last[0], last[1][2][0])
    with pytest.raises(ComponentError, match="no model was published"):
        CompletionSource(options).next(Clock())


def test_rows_are_prompt_and_completion_group_after_group() -> None:
    torch.manual_seed(0)
    signature = task_pipeline(CopyTask(CopyOptions())).signature
    options = CompletionOptions(task=CopyOptions(digits=1), prompts=3, group=4, max_tokens=5)
    source = CompletionSource(options, seed=1)
    source.publish(
        LanguageLearner(Decoder(DecoderOptions(layers=1, width=32, heads=2, context=16), signature)), Clock()
    )
    experience = source.next(Clock())
    batch, decode = experience.batch, source.pipeline.tokenizer.decode
    tokens, log_probs = batch["tokens"], batch["sampled_log_probs"]
    assert isinstance(tokens, Ragged)
    assert isinstance(log_probs, Ragged)
    assert batch["group"].tolist() == [0] * 4 + [1] * 4 + [2] * 4  # type: ignore[union-attr]
    for i in range(12):
        text = decode(tokens.row(i))
        prompt, completion = text[:2], text[2:]
        assert prompt == decode(tokens.row(i - i % 4))[:2], "a group shares its prompt"
        right = prompt[0] + "\n"
        reward = sum(a == b for a, b in zip(right, completion)) / 2
        assert float(batch["reward"][i]) == reward  # type: ignore[index]
        assert bool(batch["truncated"][i]) == (not completion.endswith("\n"))  # type: ignore[index]
        assert len(log_probs.row(i)) == len(completion) <= 5
    assert experience.samples == 12
    assert experience.tokens == len(log_probs.values)


def test_generators_of_reasoning_gym() -> None:
    """The right answer gets the full reward, with or without marks around it, and a wrong one does not."""
    pytest.importorskip("reasoning_gym")
    task = ReasoningGymTask(ReasoningGymOptions(name="chain_sum", size=20, settings={"max_terms": 3}))
    draws = torch.Generator().manual_seed(0)
    prompts = [task.draw(draws) for _number in range(5)]
    assert [task.reward(prompt, prompt.answer) for prompt in prompts] == [1.0] * 5
    assert task.reward(prompts[0], f"So <answer> {prompts[0].answer} </answer>.") == 1.0
    assert task.reward(prompts[0], "no idea") < 1.0
    with pytest.raises(ComponentError, match=r"no generator 'chain_sums'.*\n?.*chain_sum"):
        ReasoningGymTask(ReasoningGymOptions(name="chain_sums"))


def test_groups_without_spread_are_drawn_anew() -> None:
    """With enough tries, all groups of a task whose rewards vary have spread."""
    torch.manual_seed(0)
    signature = task_pipeline(CopyTask(CopyOptions())).signature
    model = Decoder(DecoderOptions(layers=1, width=32, heads=2, context=16), signature)

    def spread(redraw: int) -> int:
        options = CompletionOptions(task=CopyOptions(digits=1), prompts=6, group=2, max_tokens=2, redraw=redraw)
        source = CompletionSource(options, seed=2)
        source.publish(LanguageLearner(model), Clock())
        reward = source.next(Clock()).batch["reward"].view(6, 2)  # type: ignore[union-attr]
        return int((reward[:, 0] != reward[:, 1]).sum())

    assert spread(0) < 6
    assert spread(60) == 6
