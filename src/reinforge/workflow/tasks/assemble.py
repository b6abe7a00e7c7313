"""From a recipe to its task, by the kind of its data."""

from __future__ import annotations

import dataclasses

from reinforge.bundle.bundle import Bundle
from reinforge.data.language_options import LanguageDataOptions, QuestionsOptions
from reinforge.data.options import IterableDataOptions, TextOptions
from reinforge.environments.options import EnvironmentOptions
from reinforge.messages import _
from reinforge.recipe.recipe import Recipe
from reinforge.workflow.tasks.classic import refuse
from reinforge.workflow.tasks.task import Given, Task


def assemble(recipe: Recipe, start: Bundle | None = None, given: Given | None = None) -> Task:
    """Data, model, objective, source and evaluation of a recipe. `start`: a bundle whose schema and pipeline are kept.

    Any kind of data other than text, language, environments and iterables gives a prepared table. Notes say where
    resuming is not exact.
    """
    refuse(recipe)
    task = _task(recipe, start, given or Given())
    if task.source.exact:
        return task
    note = "source: " + _("its state can't be restored bit for bit, so resuming is not exact")
    return dataclasses.replace(task, notes=(*task.notes, note))


def _task(recipe: Recipe, start: Bundle | None, given: Given) -> Task:
    match recipe.data:
        case EnvironmentOptions():
            from reinforge.workflow.tasks.environment import environment_task

            return environment_task(recipe, start)
        case TextOptions():
            from reinforge.workflow.tasks.text import text_task

            return text_task(recipe, start)
        case QuestionsOptions():
            from reinforge.workflow.tasks.questions import question_task

            return question_task(recipe, start, given)
        case LanguageDataOptions():
            from reinforge.workflow.tasks.language import language_task

            return language_task(recipe, start, given)
        case IterableDataOptions():
            from reinforge.workflow.tasks.iterable import iterable_task

            return iterable_task(recipe, given)
        case _:
            from reinforge.workflow.tasks.table import table_task

            return table_task(recipe, start, given)
