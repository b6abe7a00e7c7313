"""Completions of several turns: the model writes, something answers, the model goes on.

Tokens are appended, and none is ever encoded again: what the model is trained on is, token by token, what it wrote and
what it was told."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field

from reinforge.core import seeds
from reinforge.data.chats import Chat, Message
from reinforge.data.interactions import LONGEST, Episode, Interaction
from reinforge.data.prompts import Prompt
from reinforge.data.text import TextPipeline
from reinforge.errors import ComponentError, DataError, ReinforgeError
from reinforge.inference.engine import GenerationEngine
from reinforge.inference.requests import Completion, Request
from reinforge.inference.sampling import Sampling
from reinforge.inference.text import TextWriter
from reinforge.messages import _


@dataclass(frozen=True)
class Trajectory(Completion):
    """`tokens` of all turns and answers; `own` (as many): whether the model wrote it; `log_probs` of its own alone.
    `reason`: "length" where a limit of tokens, turns or context cut it. `said`: the text of its last turn. `reward`:
    what the episode gives, None where the data's reward is to judge. `fault`: what went wrong last in the episode."""

    own: tuple[bool, ...] = ()
    said: str = ""
    turns: int = 1
    reward: float | None = None
    fault: str | None = None


@dataclass(eq=False)
class _Playing:
    """A trajectory on its way."""

    prompt: tuple[int, ...]
    messages: list[Message]
    episode: Episode
    seed: int
    tokens: list[int] = field(default_factory=list)
    own: list[bool] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)
    turn: int = 0
    # Where its newest turn begins.
    begins: int = 0
    said: str = ""
    # What the model wrote of its newest message, turn by turn.
    message: str = ""
    fault: str | None = None


def play(
    engine: GenerationEngine, pipeline: TextPipeline, interaction: Interaction, prompts: Sequence[Prompt],
    sampling: Sampling, numbers: Sequence[int], *, turns: int,
) -> list[Trajectory]:  # fmt: skip
    """A trajectory for each prompt, of `turns` of the model at most, each of `sampling.max_tokens`.

    `numbers`: a seed for each, which alone decides its draws. Whoever's turn has ended is answered at once and goes on
    while the others write. Raises DataError for a prompt that does not fit the context, or with which no episode can
    begin, and ComponentError for a reward that is no finite number.
    """
    found: list[Trajectory | None] = [None] * len(prompts)
    at_work: dict[int, tuple[int, _Playing]] = {}

    def write(place: int, playing: _Playing) -> None:
        watch = TextWriter(pipeline.tokenizer.decode, interaction.stop) if interaction.stop else None
        seed = seeds.derive(playing.seed, "turn", playing.turn)
        ids = (*playing.prompt, *playing.tokens)
        playing.turn, playing.begins = playing.turn + 1, len(playing.tokens)
        at_work[engine.add(Request(ids, sampling, seed, watch=watch))] = place, playing

    # All of them before anything is written: where one can't begin, the engine is still free.
    episodes = [_begun(interaction, prompt, seed) for prompt, seed in zip(prompts, numbers, strict=True)]
    for place, (prompt, seed, episode) in enumerate(zip(prompts, numbers, episodes)):
        chat = prompt.chat or Chat((Message("user", prompt.text),))
        write(place, _Playing(tuple(prompt.ids(pipeline).tolist()), list(chat.messages), episode, seed))
    while not engine.idle:
        for token in engine.step():
            place, playing = at_work[token.request]
            playing.tokens.append(token.token)
            playing.own.append(True)
            playing.log_probs.append(token.log_prob)
            if token.reason is None:
                continue
            playing.said = pipeline.tokenizer.decode(playing.tokens[playing.begins :])
            goes_on, reason = False, token.reason
            if token.reason == "stop":
                answer = _answer(playing)
                room = engine.model.options.context
                if answer is not None:
                    told = _told(playing, answer, pipeline, interaction, token.token in sampling.stop)
                    goes_on = playing.turn < turns and len(playing.prompt) + len(playing.tokens) + len(told) <= room
                    reason = "length"
                    if goes_on:
                        playing.tokens += told
                        playing.own += [False] * len(told)
                        write(place, playing)
            if not goes_on:
                found[place] = Trajectory(
                    tuple(playing.tokens), tuple(playing.log_probs), reason, tuple(playing.own), playing.said,
                    playing.turn, _reward(playing.episode, prompts[place]), playing.fault,
                )  # fmt: skip
    return [each for each in found if each is not None]


def _begun(interaction: Interaction, prompt: Prompt, seed: int) -> Episode:
    try:
        return interaction.begin(prompt, seeds.derive(seed, "episode"))
    except ReinforgeError:
        raise
    except Exception as error:
        raise DataError(
            _("the interaction can't begin: {kind}: {error}").format(kind=type(error).__name__, error=error),
            where=_question(prompt),
            remedy=_("Its answer is {answer}: mend or leave out the question, or take another interaction.").format(
                answer=repr(prompt.answer)
            ),
        ) from error


def _reward(episode: Episode, prompt: Prompt) -> float | None:
    reward = episode.reward
    if reward is None:
        return None
    if not isinstance(reward, (int, float)) or not math.isfinite(reward):
        raise ComponentError(
            _("the interaction gave the reward {reward}").format(reward=repr(reward)), where=_question(prompt),
            remedy=_("A reward is a finite number, or None for what the data's reward gives."),
        )  # fmt: skip
    return float(reward)


def _question(prompt: Prompt) -> str:
    return _("question {text}").format(text=repr(textwrap.shorten(prompt.text, 80)))


def _answer(playing: _Playing) -> str | None:
    try:
        answer = playing.episode.answer(playing.said)
        if not isinstance(answer, (str, type(None))):
            raise TypeError(f"an answer is a text or None, not {type(answer).__name__}")
    except (Exception, SystemExit) as error:  # noqa: BLE001 (a tool's fault is told to the model, which may do better)
        playing.fault = f"{type(error).__name__}: {error}"
        answer = f"error: {error} "
    return None if answer is None else answer[:LONGEST]


def _told(playing: _Playing, answer: str, pipeline: TextPipeline, interaction: Interaction, ended: bool) -> list[int]:
    """The tokens of an answer: a message of its own where the model has ended its own, else a text within that."""
    playing.message += playing.said
    if not ended or pipeline.template is None:
        playing.message += answer
        return [int(token) for token in pipeline.tokenizer.encode(answer).tolist()]
    playing.messages += [Message("assistant", playing.message), Message(interaction.role, answer)]
    playing.message = ""
    return pipeline.added(playing.messages)
