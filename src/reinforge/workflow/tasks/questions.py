"""Learning from rewards for answers: a model that writes already, questions, and what tells right from wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from reinforge.bundle.bundle import Bundle
from reinforge.bundle.text_form import TextForm
from reinforge.core import seeds
from reinforge.core.contracts import Clock
from reinforge.data.interactions import Interaction
from reinforge.data.language_options import QuestionsOptions
from reinforge.data.prompts import Prompt
from reinforge.data.questions import QuestionTask, prepare_questions
from reinforge.data.reward_options import ModelOptions
from reinforge.data.text import TextPipeline
from reinforge.errors import RecipeError
from reinforge.evaluation.answers import Answers, Group
from reinforge.evaluation.questions import QuestionEvaluator
from reinforge.messages import _
from reinforge.recipe.recipe import Recipe
from reinforge.registry import REGISTRY
from reinforge.sources.completions import CompletionSource
from reinforge.sources.options import CompletionOptions
from reinforge.sources.tasks import Task as Asking
from reinforge.workflow.tasks.language import decoder_options
from reinforge.workflow.tasks.task import Given, Task, Tested, source_options, unfit

# As many are kept for the report.
MOST_QUESTIONS, MOST_GROUPS = 16, 16


def question_task(recipe: Recipe, start: Bundle | None, given: Given) -> Task:
    """Read the questions, or take what draws them, and put the training together. `start` gives decoder, tokenizer and
    template."""
    options = recipe.data
    assert isinstance(options, QuestionsOptions)
    if start is None:
        raise RecipeError(
            _("rewards teach a model that writes already, and there is none to begin with"), where="start.bundle",
            remedy=_("Train on documents or chats first (a stage before this one, or --from BUNDLE)."),
        )  # fmt: skip
    if not isinstance(start.form, TextForm):
        raise unfit(start, "text")
    pipeline = start.form.pipeline
    chosen = decoder_options(recipe.model, start)
    signature = pipeline.signature
    model: nn.Module = REGISTRY.build("model", chosen, signature)
    objective = REGISTRY.build("objective", recipe.objective, signature)
    named = source_options(recipe.source, recipe.objective)
    if not isinstance(named, CompletionOptions):
        raise RecipeError(_("questions go with the source completions"), where="source")
    asked = asking(options, pipeline, recipe.seed, given.data)
    turns: dict[str, Any] = {"interaction": interaction_of(options), "turns": options.turns}
    source = CompletionSource(named, seed=recipe.seed, task=asked.task, pipeline=pipeline, **turns)
    evaluator = QuestionEvaluator(
        asked.held, asked.task.reward, pipeline, tokens=options.tokens, seed=recipe.seed, **turns
    )  # fmt: skip

    def test(learner: nn.Module) -> Tested:
        found = evaluator.evaluate(learner, Clock())
        answers = Answers(
            tuple(evaluator.answered[:MOST_QUESTIONS]),
            tuple(
                Group(prompt.text, prompt.answer, tuple(completions))
                for prompt, completions in source.samples[:MOST_GROUPS]
            ),
        )
        return Tested({f"validation/{name}": value for name, value in found.items()}, answers=answers)

    return Task(
        signature=signature, model=model, model_options=chosen, objective=objective, source=source,
        form=TextForm(pipeline), examples=asked.examples, test=test, evaluator=evaluator,
        monitor=("reward" if isinstance(options.reward, ModelOptions) else "accuracy", "max"),
        ships="last", digest=asked.digest, notes=asked.notes,
    )  # fmt: skip


def interaction_of(options: QuestionsOptions) -> Interaction | None:
    """What answers between the model's turns."""
    built: Interaction | None = (
        None if options.interaction is None else REGISTRY.build("interaction", options.interaction)
    )
    return built


@dataclass(frozen=True)
class Asked:
    """What asks to learn from, the questions held back, and raw rows of some for golden replay."""

    task: Asking
    held: Sequence[Prompt]
    examples: Sequence[Mapping[str, Any]]
    digest: str = ""
    notes: tuple[str, ...] = ()


def asking(options: QuestionsOptions, pipeline: TextPipeline, seed: int, data: object = None) -> Asked:
    """The recipe's questions: read, or drawn. Raises DataError."""
    if options.task is not None:
        task: Asking = REGISTRY.build("task", options.task)
        draws = seeds.generator(seed, "questions held back")
        held = [task.draw(draws) for _number in range(options.asked)]
        return Asked(task, held, [{"text": prompt.text} for prompt in held[:4]])
    found = prepare_questions(options, pipeline, seed=seed, data=data)
    told = _("{n} questions from {origin}, {held} held back").format(
        n=len(found.training), origin=found.origin, held=len(found.validation)
    )
    task, held = QuestionTask(found.training, found.reward), list(found.validation[: options.asked])
    return Asked(task, held, found.examples, found.digest, (told, *found.notes))
