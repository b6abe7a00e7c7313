"""Completions of several turns: which tokens they are, whose, and how likely."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from reinforge.core.contracts import Clock, Experience
from reinforge.core.ragged import Ragged
from reinforge.data.chats import Chat, Message
from reinforge.data.interaction_options import GuessOptions
from reinforge.data.interactions import LONGEST, Guess
from reinforge.data.prompts import Prompt
from reinforge.data.questions import QuestionTask
from reinforge.data.templates import TEMPLATES
from reinforge.data.text import TextPipeline
from reinforge.errors import ComponentError, DataError, TrainingWarning
from reinforge.inference.engine import GenerationEngine
from reinforge.inference.sampling import Sampling
from reinforge.inference.turns import Trajectory, play
from reinforge.models.decoder import Decoder
from reinforge.models.decoder_options import DecoderOptions
from reinforge.objectives.grpo import GRPO, completion_lengths, log_probs
from reinforge.objectives.language import LanguageLearner
from reinforge.objectives.reward_options import GRPOOptions
from reinforge.sources.completions import CompletionSource
from reinforge.sources.options import CompletionOptions
from tests.bundle.made import chat_pipeline

PIPELINE = chat_pipeline()
PLAIN = TextPipeline(PIPELINE.tokenizer, PIPELINE.marks, None)
PROMPTS = [Prompt("who?", "a"), Prompt("how?", "b"), Prompt("a long question, why?", "c")]


def decoder(pipeline: TextPipeline = PIPELINE, context: int = 1500) -> Decoder:
    """Its end of an answer is likely enough for turns to end."""
    torch.manual_seed(0)
    model = Decoder(DecoderOptions(layers=2, width=32, heads=4, kv_heads=2, context=context), pipeline.signature)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(2)
    return model


class Scripted:
    """Says the same in every episode, and keeps what it was told."""

    def __init__(self, says: Sequence[str | Exception | None], stop: Sequence[str] = (), role: str = "user") -> None:
        self.says, self.stop, self.role = says, stop, role
        self.told: list[list[str]] = []

    def begin(self, prompt: Prompt, seed: int) -> Script:
        self.told.append([])
        return Script(self.says, self.told[-1])


class Script:
    reward: float | None = None

    def __init__(self, says: Sequence[str | Exception | None], told: list[str]) -> None:
        self.says, self.told = iter(says), told

    def answer(self, written: str) -> str | None:
        self.told.append(written)
        said = next(self.says)
        if isinstance(said, (Exception, SystemExit)):
            raise said
        return said


def played(
    interaction: Scripted, pipeline: TextPipeline = PIPELINE, *, turns: int = 4, sampling: Sampling | None = None,
    model: Decoder | None = None, seeds: Sequence[int] = (0, 1, 2), slots: int = 2,
) -> list[Trajectory]:  # fmt: skip
    engine = GenerationEngine(model or decoder(pipeline), slots=slots)
    chosen = sampling or Sampling(300, 1.0, stop=pipeline.stops)
    return play(engine, pipeline, interaction, PROMPTS, chosen, seeds, turns=turns)


def segments(found: Trajectory) -> list[tuple[bool, tuple[int, ...]]]:
    grouped = itertools.groupby(zip(found.own, found.tokens), key=lambda each: each[0])
    return [(own, tuple(token for _own, token in part)) for own, part in grouped]


def test_a_trajectory_is_what_was_written_and_what_was_told() -> None:
    """By the template: each answer is a message of its own, encoded alone, and appended."""
    interaction = Scripted(["go on", "and then?", None])
    for found, prompt, told in zip(played(interaction), PROMPTS, interaction.told):
        assert found.reason == "stop"
        assert found.turns == 3
        parts = segments(found)
        assert [own for own, _ids in parts] == [True, False, True, False, True]
        assert [PIPELINE.tokenizer.decode(ids) for own, ids in parts if own] == told
        assert found.said == told[-1]
        end = PIPELINE.stops[0]
        assert all(ids[-1] in PIPELINE.stops and not set(ids[:-1]) & set(PIPELINE.stops) for own, ids in parts if own)
        for said, (_own, ids) in zip(("go on", "and then?"), [part for part in parts if not part[0]]):
            start = PIPELINE.tokenizer.special("<|im_start|>")
            text = [PIPELINE.tokenizer.encode(each).tolist() for each in ("\n", f"user\n{said}", "\n", "assistant\n")]
            assert list(ids) == [*text[0], start, *text[1], end, *text[2], start, *text[3]]
        # The same chat, written by the template at once, in which answers are single tokens of this tokenizer.
        messages = [Message("user", prompt.text), Message("assistant", told[0]), Message("user", "go on")]
        whole = PIPELINE.chat(Chat(tuple(messages)), answer=True)[0].tolist()
        ids = prompt.ids(PIPELINE).tolist() + [token for _own, part in parts[:2] for token in part]
        if not any(token >= PIPELINE.tokenizer.base.size and token != end for token in parts[0][1]):
            assert ids == whole
        assert len(found.log_probs) == sum(found.own)


def test_log_probs_are_those_of_training() -> None:
    """Of each own token given all before it, what it was told included."""
    model = decoder()
    for found, prompt in zip(played(Scripted(["go on", "and then?", None]), model=model), PROMPTS):
        ids = torch.cat([prompt.ids(PIPELINE), torch.tensor(found.tokens)])
        with torch.no_grad():
            logits = model({"tokens": ids[None]})[0]["tokens"][0].log_softmax(-1)
        start = len(ids) - len(found.tokens)
        own = torch.tensor(found.own).nonzero().squeeze(1) + start
        oracle = logits[own - 1].gather(1, ids[own][:, None]).squeeze(1)
        torch.testing.assert_close(torch.tensor(found.log_probs), oracle, atol=1e-4, rtol=0)


def test_tokens_are_kept_where_encoding_again_would_give_others() -> None:
    """A model may write "th" as t, h where its tokenizer says th: the trajectory has what it wrote."""

    class Pairs:
        """ab is one token, and so are a and b."""

        size = 4

        def encode(self, text: str, limit: int | None = None) -> Tensor:
            return torch.tensor(
                [{"ab": 3, "a": 1, "b": 2}.get(text, 0)] if text in ("ab", "a", "b") else [0] * len(text)
            )

        def decode(self, ids: Sequence[int] | Tensor) -> str:
            return "".join("-ab"[int(each)] if int(each) < 3 else "ab" for each in ids)

        offsets = to_json = None

    pipeline = TextPipeline(Pairs())  # type: ignore[arg-type]
    model = Decoder(DecoderOptions(layers=1, width=16, heads=2, context=40), pipeline.signature)
    found = play(
        GenerationEngine(model, slots=1), pipeline, Scripted(["ab", "ab", None], stop=("ab",)), [Prompt("ab", "")],
        Sampling(30, 1.0), [3], turns=3,
    )[0]  # fmt: skip
    ids = [list(part) for own, part in segments(found) if own]
    assert any(part[-2:] == [1, 2] for part in ids), "the pair of single tokens must occur"
    assert [part for own, part in segments(found) if not own] == [(3,)] * (found.turns - 1)


def test_texts_that_stop_a_turn_go_on_within_the_message() -> None:
    for pipeline in (PIPELINE, PLAIN):
        sampling = Sampling(300, 1.0, stop=pipeline.stops)
        interaction = Scripted(["xyz", "xyz", None], stop=("e",))
        found = played(interaction, pipeline, sampling=sampling)
        assert any(told[0].endswith("e") for told in interaction.told)
        for each, told in zip(found, interaction.told):
            inside = [ids for own, ids in segments(each) if not own]
            for ids, text in zip(inside, told):
                if text.endswith("e"):
                    assert list(ids) == pipeline.tokenizer.encode("xyz").tolist()


def test_limits_of_turns_tokens_and_context() -> None:
    endless = Scripted(["go on"] * 50)
    for found in played(endless, turns=3):
        assert (found.turns, found.reason) == (3, "length")
        assert found.own[-1], "what nobody reads is not appended"
    for found in played(Scripted(["go on"] * 50), turns=50, model=decoder(context=100)):
        assert found.reason == "length"
        assert 1 <= found.turns < 50
        assert len(found.tokens) <= 100
    assert all(found.reason == "length" and found.turns == 1 for found in played(endless, sampling=Sampling(1, 1.0)))


def test_faults_are_told_to_the_model() -> None:
    """Whatever a tool raises; what it says is cut where it is too long."""
    interaction = Scripted([ZeroDivisionError("by zero"), "x" * (LONGEST + 99), None], stop=("e",))
    model = decoder(context=3 * LONGEST)
    found = played(interaction, sampling=Sampling(400, 1.0, stop=PIPELINE.stops), model=model)
    assert all(each.fault == "ZeroDivisionError: by zero" for each in found)
    texts = [PIPELINE.tokenizer.decode([t for t, own in zip(each.tokens, each.own) if not own]) for each in found]
    assert all("by zero " in text for text in texts)
    assert all(0 < text.count("x") <= LONGEST for text in texts)


def test_what_is_no_answer_is_a_fault_of_the_tool() -> None:
    for wrong, fault in ((5, "TypeError: an answer is a text or None, not int"), (SystemExit(3), "SystemExit: 3")):
        interaction = Scripted([wrong, None], stop=("e",))  # type: ignore[list-item]
        found = played(interaction, sampling=Sampling(400, 1.0, stop=PIPELINE.stops))
        assert all(each.fault == fault for each in found)


def test_a_question_with_which_no_episode_begins_is_named() -> None:
    engine = GenerationEngine(decoder(), slots=2)
    asked = [Prompt("which?", "3"), Prompt("how much?", "12.5")]
    with pytest.raises(DataError, match=r"(?s)how much\?.*12\.5"):
        play(engine, PIPELINE, Guess(GuessOptions()), asked, Sampling(5, 1.0), [0, 1], turns=2)
    assert engine.idle, "nothing was begun"


@pytest.mark.parametrize("reward", [float("nan"), float("inf"), "much"])
def test_rewards_are_finite_numbers(reward: float) -> None:
    interaction = Scripted([None])
    over = Winning()
    over.reward = reward
    interaction.begin = lambda prompt, seed: over  # type: ignore[assignment, method-assign, return-value]
    with pytest.raises(ComponentError, match="reward"):
        played(interaction)


@pytest.mark.parametrize(
    "template", [name for name in TEMPLATES if name in ("chatml", "llama3", "gemma", "qwen", "qwen3")]
)
def test_what_a_tool_says_stays_text(template: str) -> None:
    """Special tokens spelled out in an answer never become one, in any template, nor in the middle of a message."""
    form = TEMPLATES[template]
    from reinforge.data.special_tokens import Marks, SpecialTokenizer
    from reinforge.data.text import CharacterTokenizer

    marks = Marks(*form.documents)
    named = dict.fromkeys((marks.pad, marks.bos, marks.eos, *form.specials))
    letters = CharacterTokenizer("".join(sorted({"\n", *map(chr, range(32, 127))})))
    pipeline = TextPipeline(SpecialTokenizer(letters, [text for text in named if text]), marks, form)
    hostile = "".join(pipeline.tokenizer.specials)
    first = letters.size
    calm, attacked = (
        play(
            GenerationEngine(decoder(pipeline), slots=1), pipeline, Scripted([says, None]), PROMPTS[:1],
            Sampling(300, 1.0, stop=pipeline.stops), [1], turns=2,
        )[0]
        for says in ("x", hostile)
    )  # fmt: skip
    special = [
        [token for token in next(ids for own, ids in segments(each) if not own) if token >= first]
        for each in (calm, attacked)
    ]
    assert special[0] == special[1]
    told = next(ids for own, ids in segments(attacked) if not own)
    assert hostile in pipeline.tokenizer.decode(told)


def experience(
    says: Sequence[str | Exception | None], **options: object
) -> tuple[CompletionSource, Decoder, Experience]:
    model = decoder()
    chosen = CompletionOptions.model_validate({"prompts": 2, "group": 3, "max_tokens": 300, **options})
    task = QuestionTask(PROMPTS, lambda answer, written: float(len(written) % 2))
    source = CompletionSource(chosen, seed=1, task=task, pipeline=PIPELINE, interaction=Scripted(says), turns=3)
    source.publish(LanguageLearner(model), Clock())
    return source, model, source.next(Clock())


@pytest.mark.parametrize("preset", ["grpo", "dr-grpo", "dapo", "gspo", "rloo", "reinforce", "ppo"])
def test_only_the_models_own_tokens_are_learned_from(preset: str) -> None:
    """The loss is the same whatever log-probabilities observations have, and its gradient is that of own tokens."""
    _source, model, found = experience(["go on", "and?", None])
    objective = GRPO(GRPOOptions.model_validate({"kind": "grpo", "preset": preset, "mask_truncated": False}),
                     PIPELINE.signature)  # fmt: skip
    learner = objective.build(model)
    batch = objective.prepare(learner, found).batch
    own = batch["own"]
    assert isinstance(own, Ragged)
    lengths = completion_lengths(batch)
    assert lengths.tolist() == [int(own.row(row).sum()) for row in range(6)]
    assert (lengths < batch["tokens"].lengths - batch["prompt"]).any()  # type: ignore[union-attr, operator]
    new = log_probs(model, batch, 1.0)
    sampled = batch["sampled_log_probs"]
    torch.testing.assert_close(new.detach(), sampled.values, atol=1e-4, rtol=0)  # type: ignore[union-attr]
    # By hand: rows one at a time.
    oracle = []
    for row in range(6):
        ids = batch["tokens"].row(row)  # type: ignore[union-attr]
        logits = model({"tokens": ids[None]})[0]["tokens"][0].log_softmax(-1)
        place = own.row(row).nonzero().squeeze(1)
        oracle.append(logits[place - 1].gather(1, ids[place][:, None]).squeeze(1))
    torch.testing.assert_close(new, torch.cat(oracle), atol=1e-4, rtol=0)
    loss = objective.loss(learner, batch, objective.counts(batch))
    assert float(loss.terms["mismatch"].sum) < 1e-4 * int(lengths.sum())
    assert int(objective.counts(batch)["mismatch"]) == int(lengths.sum())
    assert bool(torch.isfinite(loss.terms["policy"].sum))


def test_rewards_are_of_the_last_turn_or_the_episodes_own() -> None:
    source, _model, found = experience(["go on", None])
    said = [each.said for _prompt, members, _rewards in source._last for each in members]  # type: ignore[attr-defined]
    assert found.batch["reward"].tolist() == [float(len(text) % 2) for text in said]  # type: ignore[union-attr]
    source.interaction.begin = lambda prompt, seed: Winning()  # type: ignore[union-attr, method-assign]
    again = source.next(Clock())
    assert again.batch["reward"].tolist() == [0.25] * 6  # type: ignore[union-attr]


class Winning:
    reward = 0.25

    def answer(self, written: str) -> str | None:
        return None


def test_a_tool_that_never_works_is_reported() -> None:
    with pytest.warns(TrainingWarning, match="failed in every completion, the last time by KeyError"):
        experience([KeyError("x"), KeyError("x"), None])


def test_it_is_a_function_of_seed_and_weights() -> None:
    make: Callable[[], Experience] = lambda: experience(["go on", "and?", None])[2]  # noqa: E731
    one, two = make().batch, make().batch
    assert torch.equal(one["tokens"].values, two["tokens"].values)  # type: ignore[union-attr]
    alone = played(Scripted(["go on", None]), slots=1)
    together = played(Scripted(["go on", None]), slots=3)
    assert [each.tokens for each in alone] == [each.tokens for each in together]
