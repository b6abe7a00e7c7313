"""Questions with answers to choose from, as tokens: multiple choice, and pairs of a better and a worse answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from reinforge.data.chats import Chat, Message, asked, pair_of
from reinforge.data.language_data import shortened
from reinforge.data.text import TextPipeline
from reinforge.data.values import MEMORY, Origin
from reinforge.errors import DataError
from reinforge.messages import _

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Choices:
    """A question with answers to choose from, of which the one at `right` is right. `ids` (n,) are the tokens of the
    question with each answer, of which those in `own` (n,) bool are the answer's."""

    prompt: str
    answers: tuple[str, ...]
    right: int
    ids: tuple[Tensor, ...]
    own: tuple[Tensor, ...]


def choices_of(row: Row, pipeline: TextPipeline, context: int, origin: Origin = MEMORY, index: int = 0) -> Choices:
    """From {"text", "choices", "answer"}, whose answers go on where the text ends; the same with "prompt" or "messages"
    in place of "text", asked by the chat template; or a pair {"prompt", "chosen", "rejected"}. An answer is the right
    choice or its number, from 0 on. What the context has no room for loses its beginning. Raises DataError.
    """
    if "chosen" in row:
        pair = pair_of(row, origin, index)
        answers, right = (pair.chosen, pair.rejected), 0
        texts = tuple("\n".join(message.content for message in answer) for answer in answers)
        pairs = [_answered(pipeline, pair.prompt, answer, origin, index) for answer in answers]
        prompt = pair.prompt.messages[-1].content
    else:
        texts, right = _listed(row, origin, index)
        if isinstance(row.get("text"), str):
            prompt = row["text"]
            pairs = [continued(pipeline, prompt, text, origin, index) for text in texts]
        elif pipeline.template is None and isinstance(row.get("prompt"), str):
            prompt = row["prompt"]
            pairs = [continued(pipeline, prompt, text, origin, index) for text in texts]
        else:
            chat = asked(row, origin, index)
            prompt = chat.messages[-1].content
            pairs = [_answered(pipeline, chat, (Message("assistant", text),), origin, index) for text in texts]
    cut = [shortened(ids, own, context)[0] for ids, own in pairs]
    return Choices(prompt, texts, right, tuple(ids for ids, _own in cut), tuple(own for _ids, own in cut))


def _listed(row: Row, origin: Origin, index: int) -> tuple[tuple[str, ...], int]:
    """The choices, and the number of the right one."""
    given, answer = row.get("choices"), row.get("answer")
    if (
        not isinstance(given, Sequence) or isinstance(given, str) or len(given) < 2
        or not all(isinstance(text, str) and text for text in given)
    ):  # fmt: skip
        raise DataError(_("choices must be a list of two texts or more"), where=origin.at(index, "choices"))
    texts = tuple(given)
    if isinstance(answer, str) and texts.count(answer) == 1:
        return texts, texts.index(answer)
    if isinstance(answer, int) and not isinstance(answer, bool) and 0 <= answer < len(texts):
        return texts, answer
    raise DataError(
        _("the answer is none of the choices"), where=origin.at(index, "answer"),
        remedy=_("Give the right choice as it stands among the choices, or its number: 0 is the first."),
    )  # fmt: skip


def continued(pipeline: TextPipeline, text: str, answer: str, origin: Origin, index: int) -> tuple[Tensor, Tensor]:
    """Text and answer encoded as one, since tokens may span where they meet; from the first token that the text alone
    does not have, all is the answer's."""
    alone, ids = pipeline.opened(text), pipeline.opened(text + answer)
    shared = min(len(alone), len(ids))
    apart = (alone[:shared] != ids[:shared]).nonzero()
    first = int(apart[0]) if len(apart) else shared
    if first == 0:
        raise DataError(
            _("there is nothing before the answer"), where=origin.at(index, "text"),
            remedy=_("A first token can't be judged: give a text to go on from."),
        )  # fmt: skip
    return ids, torch.arange(len(ids)) >= first


def _answered(
    pipeline: TextPipeline, prompt: Chat, answer: tuple[Message, ...], origin: Origin, index: int
) -> tuple[Tensor, Tensor]:
    """Prompt and answer by the template; the end of the answer is its own too."""
    try:
        ids, own, turns = pipeline.chat(replace(prompt, messages=prompt.messages + answer))
    except DataError as error:
        raise DataError(error.problem, where=origin.at(index, error.where), remedy=error.remedy) from None
    return ids, own & (turns >= len(prompt.messages))
