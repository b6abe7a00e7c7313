"""Training a recipe, from its data to a run with a bundle and a report."""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path

import torch
from torch import nn

from reinforge import recipe as recipes
from reinforge.bundle.bundle import Bundle
from reinforge.bundle.folders import bundle_folder
from reinforge.bundle.importing import is_model_folder
from reinforge.core import seeds
from reinforge.engine.checkpoint import CheckpointStore
from reinforge.engine.distributed import World, device_of
from reinforge.engine.loop import Engine, Finished
from reinforge.errors import (
    DataError,
    EnvironmentFault,
    PathError,
    RecipeError,
    ReinforgeError,
    TrainingDiverged,
)
from reinforge.messages import _
from reinforge.recipe.recipe import Recipe
from reinforge.recipe.user_code import load_user_code
from reinforge.storage.files import require_space
from reinforge.storage.folder import held
from reinforge.workflow.children import children, train_children
from reinforge.workflow.finishing import finish, machine
from reinforge.workflow.fitting import fit_once
from reinforge.workflow.machine import set_threads
from reinforge.workflow.progress import Progress, Silent
from reinforge.workflow.report import report
from reinforge.workflow.rescue import rescued
from reinforge.workflow.run import Run, forget
from reinforge.workflow.starting import begun, parent_of
from reinforge.workflow.tasks.assemble import assemble
from reinforge.workflow.tasks.task import Given, Task
from reinforge.workflow.watching import logbook as watched
from reinforge.workflow.watching import noticed


def train(
    recipe: str | Path | Mapping[str, object] | Recipe | None = None,
    overrides: Iterable[str] | Mapping[str, object] = (),
    *,
    model: nn.Module | None = None,
    data: object = None,
    target: str | Sequence[str] | None = None,
    start: str | Path | None = None,
    output: str | Path | None = None,
    resume: str | Path | None = None,
    seeds: int | None = None,
    jobs: int | None = 1,
    use: Iterable[str | Path] = (),
    progress: Progress | None = None,
) -> Run:
    """Train and return the run; its bundle is `run.bundle`.

    `recipe`: a file, a shipped name, a mapping or a Recipe, changed by `overrides` ("learn.lr=3e-4", ...). Without one,
    `data` (a frame, a mapping of columns, a list of rows, or a path) and `target` do, with `model` or a plain network;
    or batches (a DataLoader, any iterable of pairs of tensors) without a target.
    `start`: a bundle to begin with, whose schema and pipeline stay as they are. `output`: the run's folder, made new;
    by default runs/NAME-TIME. `resume`: an interrupted run's folder. `seeds`: train so many, from the recipe's own
    on; they are the run's children (`run.stages`), and its metrics are theirs together. `jobs`: so many of its seeds or
    folds at once, each in a process of its own, with the same result (None: as many as it pays for; 1 where data or a
    module were given).

    Raises RecipeError, DataError, BundleError and other ReinforgeErrors that name the place and the remedy. Ctrl-C
    checkpoints; the run's status is then "interrupted".
    """
    shown = progress or Silent()
    if resume is not None:
        load_user_code(use)
        run = Run.open(resume)
        resolved, status = run.recipe, run.status
        if run.finished:
            return run
        if status.get("in_memory") and data is None and model is None:
            raise RecipeError(
                _("the run was given data or a module in Python, which are not in its folder"), where=str(run.folder),
                remedy=_("Resume in Python: {call}").format(call="train(resume=..., data=..., model=...)"),
            )  # fmt: skip
    else:
        resolved = resolve(recipe, overrides, data=data, target=target, start=start, use=use, model=model)
        if seeds is not None:
            resolved = recipes.load(resolved, {"seeds": seeds})
        run = None
    device = device_of(resolved.learn.device)
    world = World.join(device)
    made = run is None
    if run is None:
        run = _create(resolved, output, world, in_memory=data is not None or model is not None)
    with held(run.folder) if world.main else nullcontext():
        return _train_in(run, resolved, Given(data, model), made, world, shown, jobs)


def _train_in(
    run: Run, recipe: Recipe, given: Given, made: bool, world: World, shown: Progress, jobs: int | None
) -> Run:
    """Train the recipe in its run's folder, which was `made` just now, or goes on."""
    try:
        if children(recipe):
            if given.data is not None or given.module is not None:
                # Another process has neither.
                jobs = 1
            return train_children(
                run, recipe, lambda r, o, s: _train_child(r, o, s, given, world, shown), world, shown, jobs
            )
        return train_one(run, recipe, given, world, shown)
    except ReinforgeError as error:
        if made and world.main and not isinstance(error, TrainingDiverged):
            forget(run)
        raise
    except KeyboardInterrupt:
        # Before the engine listens, or a second time: at once, without a checkpoint.
        if made and world.main:
            forget(run)
        if not world.main or not run.folder.exists():
            raise
        run.write_status(state="interrupted", reason="interrupted")
        return run


def train_one(run: Run, recipe: Recipe, given: Given, world: World, progress: Progress) -> Run:
    """Train a recipe without children in its run's folder, from its newest checkpoint if there is one."""
    device = device_of(recipe.learn.device)
    before = torch.get_num_threads()
    began = time.time()
    try:
        parent = parent_of(recipe, run.folder, world)
        seeds.seed_everything(recipe.seed, "model")
        start = recipe.start
        # What takes parts alone has data of its own.
        task = assemble(recipe, None if start.take else parent, given)
        if task.fit is not None:
            if world.main:
                fit_once(run, recipe, task, task.fit, progress, began)
            world.barrier()
            return run
        recipe = begun(recipe, task.model, parent, run.folder, fresh=task.fresh, world=world)
        set_threads(recipe.learn.threads, task.model)
        recipe = with_defaults(recipe, task)
        store = CheckpointStore(run.folder / "checkpoints", recipe.checkpoint.keep)
        require_space(run.folder, _space(task.model, recipe))
        state = store.latest()
        if state is not None:
            _refuse_other_data(run, task)
        if world.main:
            run.write_status(state="running", notes=list(task.notes), data=task.digest, machine=machine(device))
        logbook = watched(run, recipe, task.signature, progress) if world.main else None
        engine = Engine(
            task.objective, task.model, task.source,
            learn=recipe.learn, start=recipe.start, seed=recipe.seed,
            evaluate=recipe.evaluate, evaluator=task.evaluator, checkpoint=recipe.checkpoint, store=store,
            log=recipe.log, logbook=logbook, world=world,
            report=lambda fraction, text: progress.update(fraction, 1.0, text),
            note=lambda text: progress.update(0.0, None, text),
        )  # fmt: skip
        if state is not None:
            engine.load_state_dict(state)
            progress.update(0.0, None, _("resumed at update {n}").format(n=engine.clock.updates))
        elif logbook is not None:
            logbook.clear()
        try:
            with noticed(run if world.main else None, progress) as told:
                finished = engine.run()
            if logbook is not None:
                logbook.close()
            if world.main:
                _finish(run, recipe, task, engine, finished, parent, (*store.notes, *told), began)
        except EnvironmentFault as fault:
            raise rescued(fault, run, engine, world) from fault.__cause__
        world.barrier()
    finally:
        torch.set_num_threads(before)
    return run


def _refuse_other_data(run: Run, task: Task) -> None:
    """Raise DataError where the data are no longer those that the run began with."""
    stated = run.status.get("data")
    if stated and stated != task.digest:
        raise DataError(
            _("the data are not those that the run began with"), where=str(run.folder),
            remedy=_("Put them back, or train anew: --from its bundle goes on from another run's weights."),
        )  # fmt: skip


def with_defaults(recipe: Recipe, task: Task) -> Recipe:
    """The recipe with what it left to the task: when to evaluate, and by which metric to choose."""
    if task.monitor is None:
        return recipe
    evaluate = recipe.evaluate
    changes: dict[str, object] = {}
    if evaluate.monitor is None:
        changes["monitor"], changes["mode"] = task.monitor
    if evaluate.every is None and recipe.learn.stop.epochs:
        # A validation per epoch; for very many epochs, two hundred in all.
        changes |= {"every": max(1.0, recipe.learn.stop.epochs / 200), "unit": "epochs"}
    return recipe.model_copy(update={"evaluate": evaluate.model_copy(update=changes)})


def _finish(
    run: Run, recipe: Recipe, task: Task, engine: Engine, finished: Finished, parent: Bundle | None,
    notes: Sequence[str], began: float,
) -> None:  # fmt: skip
    clock = {name: value for name, value in vars(finished.clock).items() if value}
    run.write_status(clock=clock, reason=finished.reason, skipped_updates=engine.updater.skipped)
    if finished.reason == "interrupted":
        run.write_status(state="interrupted")
        return
    learner = engine.learner
    with engine.deployed():
        if task.ships == "best" and finished.best is not None:
            learner.get_submodule("model").load_state_dict(finished.best)
        finish(run, recipe, task, learner, clock=clock, device=engine.device, began=began, notes=notes, parent=parent)
    report(run)


def resolve(
    recipe: str | Path | Mapping[str, object] | Recipe | None,
    overrides: Iterable[str] | Mapping[str, object] = (),
    *,
    data: object = None,
    target: str | Sequence[str] | None = None,
    start: str | Path | None = None,
    use: Iterable[str | Path] = (),
    model: nn.Module | None = None,
) -> Recipe:
    """The recipe that `train` would follow, every option resolved; arguments as there."""
    if recipe is None:
        if data is None or (target is None and not is_batches(data)):
            raise RecipeError(_("train needs a recipe, or data and a target"), remedy="train(data=frame, target='y')")
        kind = "iterable" if is_batches(data) else "table"
        own = {"kind": "given", "name": type(model).__qualname__} if model is not None else {"kind": "composed"}
        recipe = {"data": {"kind": kind}, "model": own, "objective": {"kind": "supervised"}}
        if isinstance(data, str | Path) and (name := _named_after(data)):
            recipe["name"] = name
    if isinstance(recipe, Mapping):
        recipe = {key: dict(value) if isinstance(value, Mapping) else value for key, value in recipe.items()}
        section = recipe.get("data")
        if target is not None and isinstance(section, dict):
            section.setdefault("targets", [target] if isinstance(target, str) else list(target))
        if isinstance(data, str | Path) and isinstance(section, dict):
            section.setdefault("path", str(data))
    resolved = recipes.load(recipe, overrides, use=use)
    if start is not None:
        path = str((Path(start) if is_model_folder(start) else bundle_folder(start)).resolve())
        resolved = resolved.model_copy(update={"start": resolved.start.model_copy(update={"bundle": path})})
    return resolved


def _named_after(data: str | Path) -> str:
    """A run's name by the file or folder that it learns from: "birds" of "data/birds.csv.gz"; nothing where none is."""
    stem = str(data).rstrip("/\\*").replace("\\", "/").rpartition("/")[2].rpartition(":")[2].partition(".")[0]
    return re.sub(r"[^\w-]+", "-", stem).strip("-")[:100]


def is_batches(data: object) -> bool:
    """Whether data are batches to iterate over, rather than a table: anything iterable that is no path, no mapping of
    columns, no frame, no array and no list of rows."""
    if data is None or isinstance(data, str | Path | Mapping) or hasattr(data, "columns") or hasattr(data, "shape"):
        return False
    if isinstance(data, Sequence):
        return len(data) > 0 and isinstance(data[0], tuple | list) and hasattr(data[0][0], "shape")
    return isinstance(data, Iterable)


def _create(recipe: Recipe, output: str | Path | None, world: World, *, in_memory: bool) -> Run:
    """The run's new folder, with the resolved recipe in it."""
    if output is None and world.size > 1:
        raise RecipeError(_("several processes need one folder"), remedy=_("Name it: {option}").format(option="-o RUN"))
    folder = Path(output) if output is not None else _fresh(Path("runs"), recipe.name)
    if world.main:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            remedy = _("Name another with -o, or remove it.")
            if (folder / "recipe.yaml").is_file() and not Run(folder).finished:
                command = f"reinforge train --resume {shlex.quote(str(folder))}"
                remedy = _("Go on with it: {command}").format(command=command)
            raise PathError(_("the run's folder is there already, and not empty"), where=str(folder), remedy=remedy)
        Run.create(folder, recipe, in_memory=in_memory)
    world.barrier()
    return Run(folder)


def _fresh(parent: Path, name: str) -> Path:
    stamp = time.strftime("%Y%m%d-%H%M%S")
    folder, serial = parent / f"{name}-{stamp}", 1
    while folder.exists():
        folder, serial = parent / f"{name}-{stamp}-{serial}", serial + 1
    return folder


def _train_child(
    recipe: Recipe, output: Path, start: Path | None, given: Given, world: World, progress: Progress
) -> Run:
    # Rank 0 makes the folder, maybe before another looks for it.
    if world.broadcast(torch.tensor(float((output / "recipe.yaml").is_file()))):
        return train(resume=output, data=given.data, model=given.module, progress=progress)
    return train(recipe, output=output, start=start, data=given.data, model=given.module, progress=progress)


def _space(model: nn.Module, recipe: Recipe) -> int:
    """Bytes that checkpoints and bundle may take: weights, gradient moments and best weights, per kept checkpoint."""
    weights = sum(p.numel() * 4 for p in model.parameters())
    return weights * 4 * (recipe.checkpoint.keep + 1) + weights + (16 << 20)
