"""Options of data for language models: documents, chats, preferences, questions. Free of torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field, PositiveInt

from reinforge.data.cleaning.options import TextCleanOptions
from reinforge.data.options import BytePairOptions
from reinforge.data.reward_options import NumericOptions
from reinforge.recipe.component import OneOf
from reinforge.registry import Options, register

TemplateName = Literal["chatml", "llama3", "gemma", "qwen", "qwen3", "plain"]


class LanguageDataOptions(Options):
    """What data for language models share."""

    path: str | tuple[str, ...] | None = Field(
        None,
        description="JSON Lines (.jsonl), JSON, Parquet or a table of texts; several (a list, or parts/*.jsonl); a "
        "folder of texts; package:NAME/PATH in an installed package; datasets:NAME, of the package datasets (a hub id "
        "or a folder, with :SPLIT after it if wanted); made:NAME (chats, shouting, preferences, sums, ...). None where "
        "given in Python.",
    )
    held: str | tuple[str, ...] | None = Field(
        None, description="The validation rows, where they are not taken from `path`."
    )
    validation: float = Field(
        0.05, gt=0, lt=1, description="Part of the rows kept for validation, drawn by their content: copies of a row "
        "are on one side.",
    )  # fmt: skip
    tokenizer: Annotated[Options, OneOf("tokenizer")] = Field(
        BytePairOptions(), description="How text becomes tokens: fitted on the training rows, or a pretrained one."
    )
    template: TemplateName | None = Field(
        None, description="How chats are written; by default that of the bundle to begin with, else chatml. Documents "
        "take their marks from it, so that a model that learns chats later knows all tokens already.",
    )  # fmt: skip


@register("data", "reinforge.data.language_data:prepare_documents")
class DocumentsOptions(LanguageDataOptions):
    """Documents to continue: rows {"text"}, each a document of its own."""

    usual: ClassVar[Mapping[str, str]] = {"model": "decoder", "objective": "language"}
    kind: Literal["documents"] = "documents"
    clean: TextCleanOptions | None = Field(None, description="What is mended and left out first; nothing where null.")


@register("data", "reinforge.data.language_data:prepare_chats")
class ChatsOptions(LanguageDataOptions):
    """Chats to answer in: rows {"messages"}, with "tools" if there are any, or {"prompt", "completion"}."""

    usual: ClassVar[Mapping[str, str]] = {"model": "decoder", "objective": "language"}
    kind: Literal["chats"] = "chats"
    learn: Literal["answers", "last", "all"] = Field(
        "answers", description="What is learned: all answers of the assistant, its last one, or every token."
    )
    system: str | None = Field(None, description="A system message for chats that have none.")


@register("data", "reinforge.data.language_data:prepare_preferences")
class PreferencesOptions(LanguageDataOptions):
    """Which of two answers is better: rows {"prompt", "chosen", "rejected"}; or judged answers: rows {"prompt",
    "completion", "label"}, for the objective kto."""

    usual: ClassVar[Mapping[str, str]] = {"model": "decoder", "objective": "dpo"}
    kind: Literal["preferences"] = "preferences"
    system: str | None = Field(None, description="A system message for prompts that have none.")
    length: Annotated[int, Field(ge=2)] | None = Field(
        None, description="Tokens of prompt and answer, at most; longer ones lose the beginning of the prompt. By "
        "default the model's context.",
    )  # fmt: skip


@register("data", "reinforge.data.questions:prepare_questions")
class QuestionsOptions(LanguageDataOptions):
    """Prompts with answers that can be verified: rows {"prompt" or "messages", "answer"}, or a task that draws them."""

    usual: ClassVar[Mapping[str, str]] = {"model": "decoder", "objective": "grpo"}
    kind: Literal["questions"] = "questions"
    task: Annotated[Options, OneOf("task")] | None = Field(
        None, description="What draws prompts without end, in place of rows; it has a reward of its own."
    )
    reward: Annotated[Options, OneOf("reward")] = Field(
        NumericOptions(), description="What a completion gets, by the answer; yours comes by --use."
    )
    interaction: Annotated[Options, OneOf("interaction")] | None = Field(
        None,
        description="What answers between the model's turns: a tool, a game, your own by --use. One turn where null.",
    )
    turns: PositiveInt = Field(4, description="Turns that the model has at most, where something answers.")
    system: str | None = Field(None, description="A system message for prompts that have none.")
    asked: PositiveInt = Field(200, description="Questions held back that each evaluation asks, at most.")
    tokens: PositiveInt = Field(64, description="Tokens of an answer in evaluations, at most.")
