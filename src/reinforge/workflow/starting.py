"""Where a training begins: with a bundle's weights, with parts of them, with a folder of transformers, with an adapter
of PEFT."""

from __future__ import annotations

import difflib
import fnmatch
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from reinforge.bundle.bundle import Bundle
from reinforge.bundle.importing import import_model, is_model_folder
from reinforge.bundle.loading import load
from reinforge.bundle.peft_format import CONFIG, WEIGHTS, read_adapter
from reinforge.engine.distributed import World
from reinforge.errors import ComponentError, RecipeError
from reinforge.messages import _
from reinforge.models.decoder import Decoder
from reinforge.models.decoder_options import LoRAOptions
from reinforge.models.grow import grow
from reinforge.recipe.recipe import Recipe
from reinforge.registry import REGISTRY, Options
from reinforge.storage.files import storage_errors


def parent_of(recipe: Recipe, folder: Path, world: World | None = None) -> Bundle | None:
    """The bundle to begin with. A folder of transformers becomes one first, in `folder`. Raises as both do."""
    given = recipe.start.bundle
    if given is None:
        remedy = _("Name the bundle: --from BUNDLE.")
        if recipe.start.take:
            raise RecipeError(_("there is no bundle to take parts of"), where="start.take", remedy=remedy)
        if recipe.start.adapter is not None:
            # It would change weights that have learned nothing.
            raise RecipeError(_("there is no bundle to give an adapter to"), where="start.adapter", remedy=remedy)
        return None
    if not is_model_folder(given):
        return load(given)
    imported = folder / "start"
    if not imported.exists() and (world is None or world.main):
        import_model(given, imported)
    if world is not None:
        world.barrier()
    return load(imported)


def begun(
    recipe: Recipe, model: nn.Module, parent: Bundle | None, folder: Path, *, fresh: Sequence[str] = (),
    world: World | None = None,
) -> Recipe:  # fmt: skip
    """Give the model what the recipe begins with: a bundle's weights or parts of them, and adapters; the recipe with
    the adapters' options as they are. `fresh`: patterns of what the task itself begins anew, which learns beside
    adapters. Raises as those below."""
    start = recipe.start
    if parent is not None and start.take:
        take(parent, model, start.take)
    elif parent is not None:
        transfer(parent, model, (*start.renew, *fresh), extend=start.extend)
    if start.adapter is None:
        return recipe
    chosen = begin_adapter(start.adapter, model, folder, world)
    for name, parameter in model.named_parameters():
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in fresh):
            parameter.requires_grad_(True)
    return recipe.model_copy(update={"start": start.model_copy(update={"adapter": chosen})})


def begin_adapter(options: Options, model: nn.Module, folder: Path, world: World | None = None) -> Options:
    """Give the model adapters, in place; their options. Those of PEFT are copied into the run's `folder` first, so that
    it goes on without the one they came from.

    Raises RecipeError where there is none or the model is no decoder, and as `read_adapter`.
    """
    if not isinstance(options, LoRAOptions) or options.path is None:
        REGISTRY.build("adapter", options, model)
        return options
    if not isinstance(model, Decoder):
        raise RecipeError(
            _("only a language model can go on from an adapter of PEFT"), where="start.adapter.path",
            remedy=_("Leave it out: the adapter then begins anew."),
        )  # fmt: skip
    kept = folder / "adapter"
    if not kept.exists() and (world is None or world.main):
        source, staging = Path(options.path), folder / ".adapter.partial"
        missing = [name for name in (CONFIG, WEIGHTS) if not (source / name).is_file()]
        if missing:
            raise RecipeError(
                _("{path} has no {file}").format(path=source, file=missing[0]), where="start.adapter.path",
                remedy=_("Name the folder that PEFT or `reinforge export --to peft` wrote."),
            )  # fmt: skip
        with storage_errors(kept):
            shutil.rmtree(staging, ignore_errors=True)
            staging.mkdir(parents=True)
            for name in (CONFIG, WEIGHTS):
                shutil.copyfile(source / name, staging / name)
            os.replace(staging, kept)
    if world is not None:
        world.barrier()
    return read_adapter(model, kept, options.dropout, options.bits).model_copy(update={"path": options.path})


def transfer(parent: Bundle, model: nn.Module, renew: Sequence[str], *, extend: bool = False) -> None:
    """Copy a bundle's weights into a model. Weights that match a pattern in `renew` stay new; with `extend` so do rows
    of new labels and heads of new targets.

    Raises RecipeError for a pattern that matches none, and ComponentError that lists every other weight that is
    missing, left over or of another shape.
    """
    if extend:
        if renew:
            raise RecipeError(
                _("a model that is extended keeps all its weights"), where="start.renew",
                remedy=_("Leave out one of the two: {keys}.").format(keys="start.renew, start.extend"),
            )  # fmt: skip
        grow(model, parent.model)
        return
    theirs, ours = parent.model.state_dict(), model.state_dict()
    for pattern in renew:
        if not fnmatch.filter({*theirs, *ours}, pattern):
            raise _matches_nothing(pattern, sorted({*theirs, *ours}))
    wrong = []
    for name in sorted({*theirs, *ours}):
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in renew):
            continue
        if name not in ours:
            wrong.append(f"{name}: only in the bundle")
        elif name not in theirs:
            wrong.append(f"{name}: not in the bundle")
        elif ours[name].shape != theirs[name].shape:
            wrong.append(f"{name}: {tuple(theirs[name].shape)} in the bundle, {tuple(ours[name].shape)} here")
        else:
            with torch.no_grad():
                ours[name].copy_(theirs[name])
    if wrong:
        change = parent.blueprint.compressed
        if change is not None and (change.low_rank or change.static):
            told = _("it is compressed to low rank") if change.low_rank else _("it is compressed to fixed grids")
            raise ComponentError(told, where=str(parent.path), remedy=_("Begin with its parent."))
        listing = "; ".join([*wrong[:5], *([_("and {n} more").format(n=len(wrong) - 5)] if len(wrong) > 5 else [])])
        raise ComponentError(
            _("the bundle's weights don't fit the model ({listing})").format(listing=listing), where=str(parent.path),
            remedy=_("Use the bundle's own model, or name what begins anew: {key}").format(
                key="start.renew=['PATTERN']"
            ),
        )  # fmt: skip


def take(parent: Bundle, model: nn.Module, parts: Mapping[str, str]) -> None:
    """Copy parts of a bundle's model alone: by the name of a module here, that of one there.

    Raises RecipeError for a module that is not there, and ComponentError where two don't have the same weights.
    """
    for here, there in parts.items():
        ours, theirs = _part(model, here, _("the model")), _part(parent.model, there, _("the bundle's model"))
        mine, taken = ours.state_dict(), theirs.state_dict()
        wrong = sorted(
            f"{name}: {_shape(taken, name)} in the bundle, {_shape(mine, name)} here"
            for name in {*mine, *taken}
            if _shape(mine, name) != _shape(taken, name)
        )
        if wrong or not mine:
            raise ComponentError(
                _("{there} of the bundle does not fit {here} ({listing})").format(
                    there=there, here=here, listing="; ".join(wrong[:5]) or _("it has no weights")
                ),
                where=str(parent.path), remedy=_("Give both the same options."),
            )  # fmt: skip
        with torch.no_grad():
            for name, tensor in mine.items():
                tensor.copy_(taken[name])


def _part(model: nn.Module, name: str, whose: str) -> nn.Module:
    modules: dict[str, nn.Module] = dict(model.named_modules())
    if name in modules and name:
        return modules[name]
    near = difflib.get_close_matches(name, modules, 3, cutoff=0.4) or [each for each in modules if each][:8]
    raise RecipeError(
        _("{whose} has no part {name!r}").format(whose=whose, name=name), where="start.take",
        remedy=_("Near are: {names}.").format(names=", ".join(near)),
    )  # fmt: skip


def _shape(state: Mapping[str, Tensor], name: str) -> tuple[int, ...] | None:
    return tuple(state[name].shape) if name in state else None


def _matches_nothing(pattern: str, names: Sequence[str]) -> RecipeError:
    near = difflib.get_close_matches(pattern, names, 3, cutoff=0.4)
    remedy = _("Did you mean {name!r}?").format(name=near[0]) if len(near) == 1 else ""
    known = _("Near are: {names}.") if near else _("Known: {names}.")
    return RecipeError(
        _("the pattern {pattern!r} matches no weight").format(pattern=pattern), where="start.renew",
        remedy=remedy or known.format(names=", ".join(near or names[:8])),
    )  # fmt: skip
