"""Which weights learn, from when on, and how fast: patterns and depth made into one group for each parameter."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Sequence
from typing import NamedTuple

from torch import nn

from reinforge.engine.options import OptimizerOptions
from reinforge.errors import RecipeError
from reinforge.recipe.sections import Learn, Start


class Group(NamedTuple):
    """What an optimiser must know of a parameter; an arena keeps those alike side by side.

    `phase`: 0 learns from the start, k from the k-th unfreezing on. `whole`: updated as a matrix. `rate`: a multiple of
    the learning rate.
    """

    phase: int = 0
    decays: bool = True
    whole: bool = False
    rate: float = 1.0


class Plan:
    """The groups of all parameters that learn, now or later, by `start.freeze`, `start.unfreeze`, `learn.rates` and
    `learn.layer_decay`; patterns are of the names that weights have in the model (and in its bundle).

    Freezes the parameters that do not learn at the start. Raises RecipeError for a pattern that matches nothing.
    """

    def __init__(self, learner: nn.Module, learn: Learn, start: Start, options: OptimizerOptions) -> None:
        model = learner.get_submodule("model")
        named = dict(model.named_parameters())
        names = list(named)
        frozen = {name for pattern in start.freeze for name in _matching(pattern, names, "start.freeze")}
        self._phases = dict.fromkeys(frozen, -1)
        for phase, part in enumerate(start.unfreeze, 1):
            where = f"start.unfreeze.{phase - 1}.patterns"
            for pattern in part.patterns:
                for name in _matching(pattern, sorted(frozen), where, "frozen weight"):
                    if self._phases[name] < 0:
                        self._phases[name] = phase
        self.unfreeze = start.unfreeze
        rates = {pattern: _matching(pattern, names, "learn.rates") for pattern in learn.rates}
        depths = _depths(names) if learn.layer_decay is not None else {}
        self._rates = {}
        for name in names:
            rate = next((learn.rates[pattern] for pattern, found in rates.items() if name in found), 1.0)
            self._rates[name] = rate * (learn.layer_decay or 1.0) ** depths.get(name, 0)
        for name in frozen:
            named[name].requires_grad_(False)
        self._names = {id(parameter): name for name, parameter in named.items()}
        self._options = options
        penalised = bool(options.weight_decay or learn.l1 or learn.l2)
        self._decay_all = not penalised or options.decay == "all"
        self._model = model

    def group(self, parameter: nn.Parameter) -> Group | None:
        """The parameter's group; None where it never learns."""
        name = self._names.get(id(parameter), "")
        phase = self._phases.get(name, 0)
        if phase < 0:
            return None
        whole = self._options.takes_whole(name, parameter.ndim)
        return Group(phase, self._decay_all or parameter.ndim >= 2, whole, self._rates.get(name, 1.0))

    def still(self) -> list[nn.Module]:
        """Normalisations whose weights are all frozen now: their running statistics belong to those weights."""
        return [
            module
            for module in self._model.modules()
            if isinstance(module, nn.modules.batchnorm._BatchNorm)
            and (own := list(module.parameters(recurse=False)))
            and not any(p.requires_grad for p in own)
        ]


def _matching(pattern: str, names: Sequence[str], where: str, what: str = "weight") -> set[str]:
    found = {name for name in names if fnmatch.fnmatchcase(name, pattern)}
    if found:
        return found
    near = difflib.get_close_matches(pattern, names, 3, cutoff=0.4)
    shown = f"Near are: {', '.join(near)}." if near else f"There are: {', '.join(names[:8]) or 'none'}."
    raise RecipeError(f"the pattern {pattern!r} matches no {what}", where=where, remedy=shown)


def _depths(names: Sequence[str]) -> dict[str, int]:
    """How many layers lie between each weight and the output, 0 for the last.

    Layers are the longest row of numbered modules ("blocks.0", "blocks.1", ...), counted together with its siblings
    ("norms.0" beside "linears.0"). What is registered before them is one layer below, what comes after one above.
    Raises RecipeError where no modules are numbered.
    """
    rows: dict[tuple[str, ...], dict[str, set[int]]] = {}
    places: dict[str, tuple[tuple[str, ...], int]] = {}
    for name in names:
        parts = name.split(".")
        at = next((i for i, part in enumerate(parts[:-1]) if part.isdecimal()), None)
        if at is not None:
            parent, index = tuple(parts[: max(at - 1, 0)]), int(parts[at])
            rows.setdefault(parent, {}).setdefault(parts[at - 1] if at else "", set()).add(index)
            places[name] = parent, index
    if not rows:
        raise RecipeError(
            "the model has no numbered layers to decay the rate over", where="learn.layer_decay",
            remedy="Give the rates by pattern: learn.rates.",
        )  # fmt: skip
    parent = max(rows, key=lambda key: max(len(found) for found in rows[key].values()))
    # Ranks, since activations in between have numbers too.
    layers = sorted(set().union(*rows[parent].values()))
    begun, depths = False, {}
    for name in names:
        above, index = places.get(name, (None, 0))
        if above == parent:
            begun, depths[name] = True, len(layers) - layers.index(index)
        else:
            depths[name] = 0 if begun else len(layers) + 1
    # Where nothing follows the layers, the last of them is the output.
    top = min(depths.values())
    return {name: depth - top for name, depth in depths.items()}
