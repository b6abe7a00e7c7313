"""`doctor`: is this machine fit for Reinforge, and for this recipe?"""

from __future__ import annotations

import importlib.metadata
import platform
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch

from reinforge import __version__
from reinforge.core import seeds
from reinforge.engine.compilation import pays
from reinforge.engine.distributed import device_of
from reinforge.environments.build import is_native
from reinforge.environments.check import check as look
from reinforge.environments.options import EnvironmentOptions
from reinforge.evaluation.report_html import duration, size
from reinforge.inference import native
from reinforge.messages import _
from reinforge.models import native_tape
from reinforge.recipe import Recipe, load
from reinforge.workflow import machine
from reinforge.workflow.columns import aligned
from reinforge.workflow.measure import Cost, measure
from reinforge.workflow.starting import begun, parent_of
from reinforge.workflow.tasks.assemble import assemble
from reinforge.workflow.train import with_defaults

LEAST_PYTHON = (3, 11)
# A run writes its log, checkpoints and a bundle; below this, even small ones are in danger.
LEAST_DISK = 1 << 30
# What a process needs besides its tensors, and what others may take meanwhile.
HEADROOM = 1.2
# Seconds of an environment's step from which a process of its own costs less than waiting for others.
SLOW_STEP = 5e-4
Verdict = Literal["good", "open", "bad"]


@dataclass(frozen=True)
class Check:
    """One thing that was looked at; `remedy` mends it. `open`: not there, but needed for some purposes only."""

    name: str
    found: str
    verdict: Verdict = "good"
    remedy: str | None = None


@dataclass(frozen=True)
class Diagnosis:
    """What was looked at; for a recipe also what it costs, and whether it fits."""

    checks: tuple[Check, ...]
    recipe: str | None = None
    cost: Cost | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def healthy(self) -> bool:
        """Whether nothing is bad."""
        return all(check.verdict != "bad" for check in self.checks)

    def summary(self) -> dict[str, Any]:
        """All of it as JSON can say it."""
        told: dict[str, Any] = {"healthy": self.healthy, "checks": [vars(check) for check in self.checks]}
        if self.cost is not None:
            told |= {"recipe": self.recipe, **self.facts, "cost": {**vars(self.cost), "memory": self.cost.memory}}
        return told

    def text(self) -> str:
        """The same for people."""
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        signs = {"good": "ok", "open": "-", "bad": "!"}
        yield from aligned([(signs[c.verdict], c.name, c.found) for c in self.checks], indent="")
        for check in self.checks:
            if check.remedy:
                yield f"   {check.name}: {check.remedy}"
        if self.cost is None:
            return
        cost = self.cost
        rows = [
            (_("parameters"), f"{cost.parameters:,}" + (f" + {cost.learning:,}" if cost.learning else "")),
            (_("memory"), size(cost.memory)),
            (_("of it weights"), size(cost.weights)),
            (_("of it gradients"), size(cost.gradients)),
            (_("of it optimiser"), size(cost.optimizer)),
            (_("of it activations"), size(cost.activations)),
            (_("of it data"), size(cost.data)),
            (_("a checkpoint"), size(cost.checkpoint)),
            (_("an update"), duration(cost.seconds_per_update)),
            (_("an evaluation"), duration(cost.seconds_per_evaluation)),
            (_("the whole run"), self._length(cost)),
            (_("device"), str(self.facts["device"])),
            (_("compiled"), _("yes") if self.facts["compiled"] else _("no")),
        ]
        yield from ("", self.recipe or "", *aligned(rows, indent="  "))

    def _length(self, cost: Cost) -> str:
        if cost.seconds is None:
            return _("without an end: no stop bounds it")
        if cost.bound == "fit":
            return _("{time}: it was fitted whole").format(time=duration(cost.seconds))
        text = _("at most {time}, by learn.stop.{stop}; from {n} measured updates")
        return text.format(time=duration(cost.seconds), stop=cost.bound, n=cost.updates_measured)


def doctor(
    recipe: str | Path | Mapping[str, object] | Recipe | None = None,
    overrides: Iterable[str] | Mapping[str, object] = (),
    *,
    start: str | Path | None = None,
    use: Iterable[str | Path] = (),
    seconds: float = 3.0,
) -> Diagnosis:
    """Look at this machine; for a recipe, train it for some `seconds` and tell what it needs and whether it fits.

    `start`: the bundle, or the folder of transformers, to begin with. Nothing is kept of that training. Raises
    RecipeError and DataError as training would.
    """
    checks = [*_software(), *_hardware()]
    if recipe is None:
        return Diagnosis((*checks, *_extras()))
    whole = load(recipe, overrides, use=use)
    if start is not None:
        whole = whole.model_copy(update={"start": whole.start.model_copy(update={"bundle": str(start)})})
    device = device_of(whole.learn.device)
    with tempfile.TemporaryDirectory(prefix="reinforge-") as folder, machine.same_threads():
        parent = parent_of(whole, Path(folder))
        seeds.seed_everything(whole.seed, "model")
        task = assemble(whole, None if whole.start.take else parent)
        if task.fit is None:
            whole = begun(whole, task.model, parent, Path(folder), fresh=task.fresh)
        del parent
        compiled = task.fit is None and pays(whole.learn, task.model, device)
        machine.set_threads(whole.learn.threads, task.model)
        cost = measure(task, with_defaults(whole, task), seconds=seconds)
    facts = {"device": str(device), "compiled": compiled}
    if isinstance(whole.data, EnvironmentOptions):
        checks += _environment(whole.data, whole.seed)
    return Diagnosis((*checks, *_fit(cost, whole, device)), whole.name, cost, facts)


def _software() -> Iterator[Check]:
    version = platform.python_version()
    good = sys.version_info >= LEAST_PYTHON
    yield Check("Python", version, "good" if good else "bad", None if good else _("Python 3.11 or newer is needed"))
    yield Check("Reinforge", __version__)
    yield Check("torch", torch.__version__)
    if (clash := _torchvision()) is not None:
        yield clash


def _torchvision() -> Check | None:
    """torchvision made for another build of torch breaks the import of libraries that look for it."""
    try:
        version = importlib.metadata.version("torchvision")
    except importlib.metadata.PackageNotFoundError:
        return None
    # In a process of its own: a clash may end it.
    tried = subprocess.run([sys.executable, "-c", "import torchvision"], capture_output=True, check=False)
    if tried.returncode == 0:
        return Check("torchvision", version)
    found = _("{version}, made for another build of torch").format(version=version)
    return Check("torchvision", found, "bad", "pip uninstall torchvision")


def _hardware() -> Iterator[Check]:
    device = device_of("auto")
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    yield Check(_("device"), f"{device} {name}".strip())
    count = machine.processors()
    found = _("{threads} of {processors} processors").format(threads=torch.get_num_threads(), processors=count)
    yield Check(_("threads"), found)
    memory = machine.memory()
    of = _("{free} free of {total}")
    yield Check(_("memory"), of.format(free=size(memory.available), total=size(memory.total)))
    if device.type != "cpu":
        own = machine.device_memory(device)
        yield Check(_("device memory"), of.format(free=size(own.available), total=size(own.total)))
    yield _compiled(_("generation"), (partial(native.attempt, dtype) for dtype in native.HALF))
    yield _compiled(_("policies' layers"), [native_tape.attempt])
    free = machine.disk(Path())
    few = free < LEAST_DISK
    remedy = _("Free some space, or write runs elsewhere with -o.") if few else None
    yield Check(_("disk"), _("{free} free").format(free=size(free)), "bad" if few else "good", remedy)


def _compiled(name: str, attempts: Iterable[Callable[[], tuple[object, str]]]) -> Check:
    """Whether what is computed on a CPU has its compiled functions."""
    for attempt in attempts:
        found, reason = attempt()
        if found is None:
            text = _("by torch alone, without compiled functions: {reason}")
            return Check(name, text.format(reason=reason), "open")
    return Check(name, _("by compiled functions on a CPU"))


def _extras() -> Iterator[Check]:
    """The package's own optional dependencies, by purpose."""
    needed: dict[str, list[str]] = {}
    for requirement in importlib.metadata.requires("reinforge") or ():
        extra = re.search(r"""extra\s*==\s*["']([\w-]+)["']""", requirement)
        package = re.match(r"[\w.-]+", requirement)
        if extra and package:
            needed.setdefault(extra[1], []).append(package[0])
    for name, packages in needed.items():
        missing = [package for package in packages if not _installed(package)]
        if missing:
            found = _("without {packages}").format(packages=", ".join(missing))
            yield Check(f"[{name}]", found, "open", f"pip install 'reinforge[{name}]'")
        else:
            yield Check(f"[{name}]", ", ".join(packages))


def _installed(package: str) -> bool:
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _environment(options: EnvironmentOptions, seed: int) -> Iterator[Check]:
    """What a short look at the environment found; what breaks its contract was raised before."""
    found = look(options, seed)
    time = f"{found.seconds * 1e3:.3g} ms"
    same = _("{time} a step; the same seed gives the same episode").format(time=time)
    other = _("{time} a step; the same seed gives another episode").format(time=time)
    mend = _("Resuming is not exact. Let it draw everything from self.np_random, seeded by super().reset(seed=seed).")
    good: Verdict = "good" if found.repeats else "open"
    yield Check(_("environment"), same if found.repeats else other, good, None if found.repeats else mend)
    if found.outside:
        text = _("observations leave the bounds of their space ({parts})").format(parts=", ".join(found.outside))
        yield Check(_("environment"), text, "open", _("State the bounds that hold in its observation_space."))
    slow = found.seconds > SLOW_STEP and options.vectorization == "auto" and options.count > 1
    if slow and machine.processors() > 1 and not is_native(options):
        yield Check(
            _("environment"), _("a step is slow, and its copies take turns"), "open",
            _("Share them out: {option}").format(option="data.vectorization=processes"),
        )  # fmt: skip


def _fit(cost: Cost, recipe: Recipe, device: torch.device) -> Iterator[Check]:
    available = machine.device_memory(device).available
    # On a CPU this process already holds much of it.
    needed = cost.memory * HEADROOM
    fits = needed <= available + (machine.process_memory() if device.type == "cpu" else 0)
    found = _("{needed} needed, {free} free").format(needed=size(needed), free=size(available))
    remedy = _("Set a smaller learn.microbatch, or learn.precision=bf16; a smaller source.capacity for replay.")
    yield Check(_("fits in memory"), found, "good" if fits else "bad", None if fits else remedy)
    # One more than are kept, since the oldest goes after the newest is there; the bundle; some room for the log.
    space = cost.checkpoint * (recipe.checkpoint.keep + 1) + cost.parameters * 4 + (16 << 20)
    free = machine.disk(Path())
    found = _("{needed} needed, {free} free").format(needed=size(space), free=size(free))
    few = _("Set a smaller checkpoint.keep, or write the run elsewhere with -o.")
    yield Check(_("fits on disk"), found, "good" if space <= free else "bad", None if space <= free else few)
