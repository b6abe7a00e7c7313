"""Weights of a trained network in a larger one: for new categories, new classes and new targets."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor, nn

from reinforge.errors import ComponentError

_REMEDY = (
    "Begin them anew (start.renew), or choose components that grow: the encoders embedding, bag, rnn and transformer; "
    "the heads."
)


@torch.no_grad()
def grow(model: nn.Module, old: nn.Module) -> list[str]:
    """Copy weights and buffers of `old` into `model`, which was built from the same options for an extended signature.

    A module that knows how to grow does so by `grow_from(old)`: embeddings (rows of new categories) and heads (rows of
    new classes, which come last). Everything else is copied as it is. What is new stays as it was initialised. Gives
    the names of tensors that are new or have grown. Raises ComponentError for what can't be grown, and for weights that
    the new model has no place for; the new model is then of no use.
    """
    here, there = model.state_dict(), old.state_dict()
    lost = sorted(there.keys() - here.keys())
    if lost:
        raise ComponentError(
            f"the extended model has no place for {_listed(lost)}",
            where="grow",
            remedy="Keep the model's options, its inputs and its outputs, and add to them.",
        )
    fresh = {name for name, value in here.items() if name not in there or there[name].shape != value.shape}
    before, done = dict(old.named_modules()), list[str]()
    for path, module in model.named_modules():
        take = getattr(module, "grow_from", None)
        if take is not None and type(before.get(path)) is type(module) and not _within(path, done):
            take(before[path])
            done.append(path)
    for name, value in there.items():
        if not _within(name, done):
            copy_grown(here[name], value, name, grows=False)
    return sorted(fresh)


def grow_rows(new: nn.Module, old: nn.Module, growing: Collection[str] | None = None) -> None:
    """Copy a module's tensors; those named in `growing` (all, where None) may have more rows, which stay.

    Raises ComponentError where anything else differs.
    """
    here = new.state_dict()
    for name, value in old.state_dict().items():
        if name not in here:
            raise ComponentError(f"{type(new).__name__} has no {name!r} any more", where="grow", remedy=_REMEDY)
        copy_grown(here[name], value, name, grows=growing is None or name in growing)


def copy_grown(new: Tensor, old: Tensor, name: str, *, grows: bool = True) -> None:
    """Old rows first, in place. Raises ComponentError where shapes differ in anything but more rows."""
    fits = new.shape[1:] == old.shape[1:] and new.ndim == old.ndim and (new.ndim == 0 or len(new) >= len(old))
    if not fits or (new.shape != old.shape and not grows):
        raise ComponentError(
            f"{name!r} can't be grown from {tuple(old.shape)} to {tuple(new.shape)}", where="grow", remedy=_REMEDY
        )
    (new[: len(old)] if new.ndim else new).copy_(old)


def _within(name: str, paths: Collection[str]) -> bool:
    return any(name.startswith(f"{path}.") for path in paths)


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(repr(name) for name in names[:3]) + more
