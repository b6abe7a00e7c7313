"""Measuring a bundle: on labelled data, on its own test split, on text, or in its environment."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from reinforge.bundle.bundle import Bundle
from reinforge.bundle.forms import TableForm
from reinforge.bundle.observation_form import ObservationForm
from reinforge.bundle.score_form import ScoreForm
from reinforge.bundle.text_form import TextForm
from reinforge.core.batch import Batch
from reinforge.data.pipeline import Pipeline, complete
from reinforge.data.prepared import prepare
from reinforge.data.readers import read
from reinforge.data.values import take
from reinforge.environments.options import EnvironmentOptions
from reinforge.errors import BundleError, DataError
from reinforge.evaluation.episodes import EpisodeEvaluator
from reinforge.evaluation.seeds import together
from reinforge.evaluation.supervised import SupervisedEvaluator
from reinforge.messages import _, mark
from reinforge.models.policy import Policy
from reinforge.recipe import load as load_recipe
from reinforge.recipe.recipe import Recipe
from reinforge.registry import REGISTRY
from reinforge.storage.files import storage_errors
from reinforge.workflow.evaluate_language import Asking, evaluate_language, write_lines
from reinforge.workflow.evaluate_scores import evaluate_scores
from reinforge.workflow.opened import opened
from reinforge.workflow.progress import Progress, Silent
from reinforge.workflow.run import Run

_EPISODES = 100
# Rows that are tensors at once.
_CHUNK = 65_536
_ASKED = "--samples, --temperature, --tokens, --reward, --output"
_LABELLED = mark("Give labelled data: --data FILE.")
_TEXT = mark("Give text, documents, questions or choices: --data FILE.")
_PAIRS = mark("Give pairs of answers: --data FILE.")
# What is no metric, though a number.
_GIVEN = ("seed", "episodes", "rows", "tokens", "documents", "questions", "drawn", "pairs")


def evaluate(
    bundle: str | Path | Bundle | Run,
    data: object = None,
    episodes: int | None = None,
    *,
    seed: int | None = None,
    stochastic: bool = False,
    asking: Asking | None = None,
    output: str | Path | None = None,
    use: Iterable[str | Path] = (),
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Metrics of a bundle by name, outputs read as its predictions are; of a table with their "intervals" [low, high].

    Tables: `data` (a file, a frame) with the targets, of which few rows are tensors at once; without, the test split of
    the recipe's own data, which must still be the same. Language models: documents, chats, questions, choices or plain
    text, or what the recipe held back; questions are asked as `asking` says; what was measured goes to `output`, a line
    each, by default into the run's folder. Policies: `episodes` fresh episodes (100 by default) in the recipe's
    environment, given by `seed`; the best action each time, or with `stochastic` one drawn from the policy.

    A run of several seeds: each one's bundle, on the same rows or episodes, and what they say together: "iqm" (the
    interquartile mean over seeds) with its "intervals", "mean", "deviation", and "each" by metric. Raises DataError and
    BundleError.
    """
    (progress or Silent()).update(0.0, None, _("evaluating"))
    if runs := _seeds(bundle):
        found = [
            evaluate(run, data, episodes, seed=seed, stochastic=stochastic, asking=asking, use=use) for run in runs
        ]
        return _together(found, [run.recipe.name for run in runs])
    made = bundle.bundle if isinstance(bundle, Run) else opened(bundle, use)
    if isinstance(made.form, TableForm):
        _refuse(episodes, "--episodes", made, _LABELLED)
        _refuse(stochastic or None, "--stochastic", made, _LABELLED)
        _refuse(asking or output, _ASKED, made, _LABELLED)
        return _table(made, made.form, data)
    if isinstance(made.form, TextForm):
        _refuse(episodes, "--episodes", made, _TEXT)
        _refuse(stochastic or None, "--stochastic", made, _TEXT)
        how = asking or Asking()
        how = how if seed is None else dataclasses.replace(how, seed=seed)
        return evaluate_language(made, made.form, _recipe(made), data, how, _beside(bundle, data, output))
    if isinstance(made.form, ScoreForm):
        _refuse(episodes, "--episodes", made, _PAIRS)
        _refuse(stochastic or None, "--stochastic", made, _PAIRS)
        _refuse(asking, "--samples, --temperature, --tokens, --reward", made, _PAIRS)
        return evaluate_scores(made, made.form, _recipe(made), data, _beside(bundle, data, output))
    assert isinstance(made.form, ObservationForm)
    _refuse(asking or output, _ASKED, made, mark("Give a number of episodes: --episodes N."))
    _refuse(data, "--data", made, mark("Give a number of episodes: --episodes N."))
    return _episodes(made, _EPISODES if episodes is None else episodes, seed, stochastic)


def _recipe(bundle: Bundle) -> Recipe | None:
    """The recipe that a bundle was trained by; a bundle from elsewhere has none."""
    return recipe_of(bundle) if isinstance(bundle.provenance, Mapping) and "recipe" in bundle.provenance else None


def evaluate_tasks(
    bundle: str | Path | Bundle,
    tasks: Sequence[str],
    *,
    shots: int | None = None,
    limit: int | None = None,
    include: Path | None = None,
    output: str | Path | None = None,
    use: Iterable[str | Path] = (),
) -> dict[str, Any]:
    """A language bundle's metrics on tasks of lm-evaluation-harness (extra `harness`), with their "intervals"; what was
    answered goes to `output`, by default into the run's folder. Raises MissingExtra, DataError and BundleError."""
    from reinforge.workflow.harness import harness

    found, lines = harness(opened(bundle, use), tasks, shots=shots, limit=limit, include=include)
    target = _beside(bundle, "-".join(tasks), output)
    return {**found, **({"samples": write_lines(target, lines)} if target is not None else {})}


def _beside(bundle: str | Path | Bundle | Run, data: object, output: str | Path | None) -> Path | None:
    """Where a language model's answers are kept: where asked for, or in the run that the bundle belongs to."""
    if output is not None:
        return Path(output)
    folder = bundle.folder if isinstance(bundle, Run) else Path(bundle) if isinstance(bundle, str | Path) else None
    if folder is None:
        return None
    folder = folder.parent if folder.name == "bundle" else folder
    if not (folder / "recipe.yaml").is_file():
        return None
    name = re.sub(r"\W+", "-", Path(data).name) if isinstance(data, str | Path) else "held" if data is None else "given"
    with storage_errors(folder):
        (folder / "evaluations").mkdir(exist_ok=True)
    return folder / "evaluations" / f"{name}.jsonl"


def _seeds(bundle: str | Path | Bundle | Run) -> list[Run]:
    """The runs of each seed, where this is a run of several; else none."""
    run = Run(Path(bundle)) if isinstance(bundle, str | Path) else bundle
    return run.stages if isinstance(run, Run) and run.status.get("reason") == "seeds" else []


def _together(found: Sequence[Mapping[str, Any]], names: Sequence[str]) -> dict[str, Any]:
    """What was found of each seed, by metric."""
    numbers = [
        {name: value for name, value in one.items() if isinstance(value, int | float) and name not in _GIVEN}
        for one in found
    ]
    over = together(numbers)
    given = {name: found[0][name] for name in ("on", *_GIVEN, "actions") if name in found[0]}
    return {
        **given, "seeds": list(names),
        "iqm": {name: each.iqm for name, each in over.items()},
        "intervals": {name: [each.low, each.high] for name, each in over.items() if each.low is not None},
        "mean": {name: each.mean for name, each in over.items()},
        "deviation": {name: each.deviation for name, each in over.items() if each.deviation is not None},
        "each": {name: list(each.values) for name, each in over.items()},
    }  # fmt: skip


def recipe_of(bundle: Bundle) -> Recipe:
    """The recipe that a bundle was trained by. Raises BundleError where it doesn't say."""
    provenance = bundle.provenance
    stored = provenance.get("recipe") if isinstance(provenance, Mapping) else None
    if not isinstance(stored, Mapping):
        raise BundleError(_("it doesn't say by which recipe it was trained"), where=str(bundle.path))
    return load_recipe({key: value for key, value in stored.items() if key != "use"})


def _table(bundle: Bundle, form: TableForm, data: object) -> dict[str, Any]:
    recipe = recipe_of(bundle)
    if data is not None:
        parts = _batches(form.pipeline, data)
        what = str(data) if isinstance(data, str | Path) else "given data"
    else:
        prepared = prepare(recipe.data, recipe.seed, pipeline=form.pipeline, base=Path.cwd())
        stated = bundle.provenance.get("data") if isinstance(bundle.provenance, Mapping) else None
        if prepared.digest != stated:
            raise DataError(
                _("the recipe's data are no longer those it was trained on: their test split may hold training rows"),
                remedy=_(_LABELLED),
            )
        if prepared.test is None:
            raise DataError(_("the recipe holds back no test rows"), remedy=_(_LABELLED))
        parts, what = iter([prepared.test]), "test split"
    objective = REGISTRY.build("objective", recipe.objective, bundle.signature)
    learner = objective.build(bundle.model)
    evaluator = SupervisedEvaluator(
        objective, bundle.signature, {}, more=recipe.evaluate.metrics, units=form.pipeline.inverse
    )
    judgement, readings = evaluator.judge(learner, parts), bundle.task.outputs
    bundle.model.eval()
    if not judgement.outputs:
        raise DataError(_("no row has its targets"), where=what)
    metrics = evaluator.measure(judgement, readings)
    intervals = evaluator.intervals(judgement, readings, recipe.evaluate.replicates)
    return {"on": what, "rows": judgement.rows, **metrics, "intervals": intervals}


def _batches(pipeline: Pipeline, data: object) -> Iterator[Batch]:
    """Labelled rows as tensors, so many at once; those without their target are left out."""
    schema = pipeline.schema
    table = read(data, absent=schema.absent)
    for start in range(0, len(table), _CHUNK):
        part = table.take(np.arange(start, min(start + _CHUNK, len(table))))
        columns = part.plain(schema)
        kept = np.flatnonzero(complete(columns, schema, part.origin))
        if len(kept) < len(part):
            columns = {name: take(column, kept) for name, column in columns.items()}
        if len(kept):
            yield pipeline.transform(columns, origin=part.origin.take(kept))


def _episodes(bundle: Bundle, episodes: int, seed: int | None, stochastic: bool) -> dict[str, Any]:
    recipe = recipe_of(bundle)
    environment = recipe.data
    assert isinstance(environment, EnvironmentOptions)
    model = bundle.model
    assert isinstance(model, Policy)
    chosen = recipe.evaluate.seed if seed is None else seed
    evaluator = EpisodeEvaluator(environment, episodes=episodes, seed=chosen, name="evaluate", stochastic=stochastic)
    played = evaluator.run(model, "command")
    actions = "stochastic" if stochastic else "deterministic"
    told = {"on": environment.id, "seed": chosen, "actions": actions, **played.metrics()}
    return {**told, "intervals": played.intervals()}


def _refuse(value: object, option: str, bundle: Bundle, remedy: str) -> None:
    if value is not None:
        text = _("a bundle of the form {form!r} is not evaluated by {option}")
        raise DataError(text.format(form=bundle.form.kind, option=option), where=str(bundle.path), remedy=_(remedy))
