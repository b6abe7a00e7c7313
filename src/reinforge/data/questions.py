"""Questions with answers that can be verified: read, split, and rendered as a model is asked them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from reinforge.data.chats import Message, Question, question_of
from reinforge.data.language_data import Rows, told
from reinforge.data.language_options import QuestionsOptions
from reinforge.data.prompts import Prompt
from reinforge.data.reading.objects import Row
from reinforge.data.rewards import AnyReward, judged
from reinforge.data.text import TextPipeline
from reinforge.errors import RecipeError
from reinforge.messages import _
from reinforge.registry import REGISTRY


@dataclass(frozen=True)
class QuestionData:
    """Questions to learn from and those held back, with their reward."""

    training: tuple[Prompt, ...]
    validation: tuple[Prompt, ...]
    reward: AnyReward
    digest: str
    origin: str
    examples: tuple[Row, ...]
    notes: tuple[str, ...]


class QuestionTask:
    """A task that draws from given questions."""

    alphabet = ""

    def __init__(self, questions: Sequence[Prompt], reward: AnyReward) -> None:
        self.questions, self._reward = tuple(questions), reward

    def draw(self, generator: torch.Generator) -> Prompt:
        """Any of them."""
        return self.questions[int(torch.randint(len(self.questions), (), generator=generator))]

    def reward(self, prompt: Prompt, completion: str) -> float:
        """By the answer, or what else the reward looks at."""
        return judged(self._reward, [prompt], [completion])[0]

    def rewards(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float]:
        """The same of many at once."""
        return judged(self._reward, prompts, completions)


def prepare_questions(
    options: QuestionsOptions, pipeline: TextPipeline | None = None, *, seed: int = 0, data: object = None
) -> QuestionData:
    """Read and split. Raises DataError that names file, line, field and remedy; RecipeError without a pipeline: a model
    must have learned to write before it can learn from rewards."""
    if pipeline is None:
        raise RecipeError(
            _("rewards teach a model that writes already, and there is none to begin with"), where="start.bundle",
            remedy=_("Train on documents or chats first (a stage before this one, or --from BUNDLE)."),
        )  # fmt: skip
    rows = Rows.read(options, seed, data)
    prompts = [prompt_of(question, options.system) for question in rows.each(question_of)]
    # A prompt that the template can't say is told now, with its place.
    rows.each_of(prompts, lambda prompt: prompt.ids(pipeline))
    sides: tuple[list[Prompt], list[Prompt]] = ([], [])
    for prompt, side in zip(prompts, rows.sides):
        sides[side].append(prompt)
    held = [row for row, side in zip(rows.rows, rows.sides) if side]
    return QuestionData(
        tuple(sides[0]), tuple(sides[1]), REGISTRY.build("reward", options.reward), rows.digest, rows.name,
        tuple(_example(row) for row in held[:4]), (*rows.notes, *told(pipeline)),
    )  # fmt: skip


def prompt_of(question: Question, system: str | None = None) -> Prompt:
    """As it is asked."""
    chat = question.prompt
    if system is not None and chat.messages[0].role != "system":
        chat = replace(chat, messages=(Message("system", system), *chat.messages))
    return Prompt(chat.messages[-1].content, question.answer, chat)


def _example(row: Row) -> Row:
    return {"messages": row["messages"]} if "messages" in row else {"text": str(row["prompt"])}
