"""`compress`: a smaller or faster bundle of the same model, measured before and after, or a refusal."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import nn

from reinforge.bundle import golden
from reinforge.bundle.bundle import Bundle
from reinforge.bundle.loading import load
from reinforge.bundle.task import Tolerance
from reinforge.bundle.writing import write_bundle
from reinforge.compress.aware import rounding
from reinforge.compress.calibration import round_biases, static
from reinforge.compress.decoders import pruned_decoder
from reinforge.compress.judged import Judged, judged, lost
from reinforge.compress.matching import NEW_POLICY, RATE, inputs_of, match, more_of
from reinforge.compress.shrinking import in_8_bits, of_low_rank, pruned, share
from reinforge.core.batch import Batch
from reinforge.core.seeds import undisturbed
from reinforge.errors import PathError, RecipeError
from reinforge.messages import _
from reinforge.models.compressed import Compressed
from reinforge.models.decoder import Decoder
from reinforge.models.decoder_options import DecoderOptions
from reinforge.models.policy import Policy
from reinforge.recipe.user_code import load_user_code
from reinforge.registry import REGISTRY, Options

EIGHT = ("int8", "int8-static", "int8-weight")
METHODS = (*EIGHT, "prune", "low-rank", "distill")
GOALS = ("size", "latency")
# What golden rows are held to where layers compute in 8 bits.
EIGHT_BITS = Tolerance(relative=5e-2, absolute=5e-2)
# What a method keeps of the numbers, and how many updates it takes to recover; in 8 bits next to nothing is lost.
KEEP, UPDATES = 0.4, 1000
# How fast weights learn that stay nearly what they are.
AWARE = 1e-4


@dataclass(frozen=True)
class Smaller:
    """The new bundle, what was measured before and after, and what that comes to: `loss` of the deciding metric, and
    how many times smaller and faster it is."""

    bundle: Path
    method: str
    before: Judged
    after: Judged
    loss: float
    smaller: float
    faster: float


def compress(
    bundle: str | Path,
    method: str,
    output: str | Path | None = None,
    *,
    goal: str | None = None,
    tolerance: float = 0.01,
    keep: float = KEEP,
    updates: int | None = None,
    options: Mapping[str, Any] | None = None,
    data: object = None,
    train: object = None,
    episodes: int | None = None,
    force: bool = False,
    use: Sequence[str | Path] = (),
) -> Smaller:
    """Write a bundle of a smaller network, whose parent is the given one (a run's folder stands for its own).

    `method`: int8, weights stored in 8 bits and large linear layers computed in 8 bits; int8-static, linear layers and
    convolutions computed so by onnxruntime, in grids found from rows; int8-weight, stored alone; prune, narrower layers
    of the units with the largest weights; low-rank, linear layers as products of two; distill, a network of other
    `options` from new weights. The last three keep `keep` of the numbers and learn for `updates` (1,000) to give the
    original's outputs, on the rows of `train`, or the rows or texts that the recipe trained on, or what a policy sees.
    Those in 8 bits learn as well where `updates` are given, rounded as they will be; from the same rows come grids.
    `goal`: what must have become better, size or latency, of int8-static in ONNX. `tolerance`: how much of the deciding
    metric may be lost, in parts of 1 for shares such as accuracy, else relative. Measured on `data`, or the recipe's
    test split, or by `episodes`. Raises RecipeError where goal or tolerance is missed, unless `force`.
    """
    _check(method, goal, tolerance, keep, updates)
    load_user_code(use)
    parent = load(bundle)
    target = Path(output) if output is not None else parent.path.with_name(f"{parent.path.name}-{method}")
    if target.exists():
        raise PathError(_("it is there already"), where=str(target), remedy=_("Name another with -o."))
    own = parent.blueprint.options
    if parent.blueprint.compressed is not None:
        raise RecipeError(
            _("the bundle is compressed already"), where=str(parent.path), remedy=_("Compress the one it came from.")
        )
    seed = 0
    shown = cache(partial(inputs_of, parent, train, seed))
    model, described, change = _made(parent, own, method, keep, options, shown)
    eight, as_onnx = method in EIGHT, method == "int8-static"
    updates = (0 if eight else UPDATES) if updates is None else updates
    if updates:
        more = more_of(parent, train, seed)
        rate = NEW_POLICY if method == "distill" and isinstance(parent.model, Policy) else AWARE if eight else RATE
        with rounding(model, change) if eight and change is not None else nullcontext():
            match(model, parent.model, shown(), parent.signature, updates, seed, more, rate)
    if as_onnx:
        round_biases(model)
    before = judged(parent, data, episodes, as_onnx)
    written = _write(parent, target, model, described, change, method, before)
    try:
        after = judged(written, data, episodes, as_onnx)
        found = Smaller(
            target, method, before, after, lost(before, after), before.weights / after.weights,
            before.milliseconds / after.milliseconds,
        )  # fmt: skip
        if not force:
            _hold(found, goal, tolerance)
    except BaseException:
        shutil.rmtree(target, ignore_errors=True)
        raise
    return found


def _check(method: str, goal: str | None, tolerance: float, keep: float, updates: int | None) -> None:
    known = _("Known: {names}.")
    if method not in METHODS:
        raise RecipeError(
            _("there is no method {name!r}").format(name=method), where="--method",
            remedy=known.format(names=", ".join(METHODS)),
        )  # fmt: skip
    if goal is not None and goal not in GOALS:
        raise RecipeError(
            _("there is no goal {name!r}").format(name=goal),
            where="--goal",
            remedy=known.format(names=", ".join(GOALS)),
        )
    for name, value, good in (
        ("--tolerance", tolerance, 0 <= tolerance < 1), ("--keep", keep, 0 < keep < 1),
        ("--updates", updates, updates is None or 1 <= updates <= 1_000_000),
    ):  # fmt: skip
        if not good:
            raise RecipeError(_("{value} is out of bounds").format(value=value), where=name)


def _made(
    parent: Bundle, own: Options | None, method: str, keep: float, options: Mapping[str, Any] | None,
    shown: Callable[[], Batch],
) -> tuple[nn.Module, Options | str, Compressed | None]:  # fmt: skip
    """The smaller network, what describes it, and what was changed in it."""
    described: Options | str | None = own if own is not None else parent.blueprint.module
    assert described is not None
    match method:
        case "int8" | "int8-weight":
            return _with(described, in_8_bits(parent.model, computing=method == "int8"))
        case "int8-static":
            return _with(described, static(parent.model, shown))
        case "low-rank":
            return _with(described, of_low_rank(parent.model, keep))
    if own is None:
        raise RecipeError(
            _("its network was given in Python, and how to make it smaller is not known"), where=f"--method {method}",
            remedy=_("Take int8, int8-static, int8-weight or low-rank."),
        )  # fmt: skip
    if method == "prune":
        if isinstance(parent.model, Decoder) and isinstance(own, DecoderOptions):
            decoder, fewer = pruned_decoder(parent.model, own, keep, parent.signature)
            return decoder, fewer, None
        model, less = pruned(parent.model, own, share(parent.model, own, keep, parent.signature), parent.signature)
        return model, less, None
    less = _other(own, options)
    with undisturbed():
        torch.manual_seed(0)
        student: nn.Module = REGISTRY.build("model", less, parent.signature)
    return student, less, None


def _with(described: Options | str, made: tuple[nn.Module, Compressed]) -> tuple[nn.Module, Options | str, Compressed]:
    return made[0], described, made[1]


def _other(own: Options, options: Mapping[str, Any] | None) -> Options:
    """Options of the network that is distilled into."""
    if not options:
        raise RecipeError(
            _("it doesn't say which network to distill into"), where="--method distill",
            remedy=_("Name its options: --model body.sizes=[32]"),
        )  # fmt: skip
    own_kind = getattr(own, "kind", "")
    kind = options.get("kind", own_kind)
    told = _merged(own.model_dump(mode="json") if kind == own_kind else {"kind": kind}, options)
    try:
        return REGISTRY.find("model", str(kind)).options.model_validate(told)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise RecipeError(f"{place}: {first['msg']}", where="--model") from None


def _merged(own: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    found = dict(own)
    for key, value in more.items():
        under = found.get(key)
        # A component of another kind begins from its own defaults.
        if isinstance(value, Mapping) and isinstance(under, Mapping):
            same = value.get("kind", under.get("kind")) == under.get("kind")
            found[key] = _merged(under, value) if same else value
        else:
            found[key] = value
    return found


def _write(
    parent: Bundle, target: Path, model: nn.Module, described: Options | str, change: Compressed | None, method: str,
    before: Judged,
) -> Bundle:  # fmt: skip
    assert parent.folder is not None
    records = golden.read(parent.folder.bytes(golden.NAME, golden.MAX_BYTES))
    rows: list[Any] = [record["row"] for record in records]
    stated = dict(parent.provenance) if isinstance(parent.provenance, Mapping) else {}
    told = {"method": method, "before": asdict(before)}
    task = parent.task
    if change is not None and (change.int8 or change.static):
        # A sum's last bit decides which of two neighbouring units an input is rounded to.
        task = task.model_copy(update={"tolerance": {**task.tolerance, "float32": EIGHT_BITS}})
    factory = {described: lambda: model} if isinstance(described, str) else None
    return write_bundle(
        target, model=model, options=described, signature=parent.signature, form=parent.form, examples=rows,
        task=task, reference=parent.reference, parents=[parent.digest], compressed=change, modules=factory,
        provenance={**stated, "name": f"{stated.get('name', 'model')}-{method}", "compressed": told},
    )  # fmt: skip


def _hold(found: Smaller, goal: str | None, tolerance: float) -> None:
    """Raise RecipeError where the goal or the tolerance is missed."""
    told = _("--force keeps it all the same.")
    # Differences of figures such as 0.864 and 0.854 are off by a rounding.
    if not found.loss <= tolerance + 1e-9:
        raise RecipeError(
            _("{metric} went from {before:.4g} to {after:.4g}, and {tolerance:g} may be lost").format(
                metric=found.after.metric, before=found.before.quality, after=found.after.quality, tolerance=tolerance
            ),
            where=f"--method {found.method}", remedy=told,
        )  # fmt: skip
    if goal == "size" and found.smaller <= 1:
        raise RecipeError(
            _("the weights are no smaller: {before:,} bytes before, {after:,} after").format(
                before=found.before.weights, after=found.after.weights
            ),
            where="--goal size", remedy=told,
        )  # fmt: skip
    if goal == "latency" and found.faster <= 1:
        raise RecipeError(
            _("it is no faster: {before:.3g} ms before, {after:.3g} ms after").format(
                before=found.before.milliseconds, after=found.after.milliseconds
            ),
            where="--goal latency", remedy=told,
        )  # fmt: skip
