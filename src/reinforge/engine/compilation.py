"""Loss and gradients of a step compiled as one graph; and whether that pays, decided before a run starts, from its size
alone, so that resuming decides the same."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from reinforge.core.batch import Batch
from reinforge.core.contracts import Loss, LossFunction, Term
from reinforge.errors import RecipeError
from reinforge.messages import _
from reinforge.recipe.sections import Learn

# learner, microbatch, counts, flat gradients that are added to, what the loss is scaled by
GradientFunction = Callable[[nn.Module, Batch, Mapping[str, Tensor], Tensor, Tensor | None], Loss]

# What compilation costs cold, and what a device reaches on training in practice: rough on purpose.
_COMPILE_SECONDS = 60.0
_GAIN = 0.25
_FLOPS = {"cpu": 3e10, "cuda": 5e13}


def pays(learn: Learn, learner: nn.Module, device: torch.device) -> bool:
    """`on` and `off` are taken at their word. `auto` estimates the run's length as six operations per
    parameter and item and compiles where a quarter of it outweighs compiling; a run without a known number of
    items is not compiled, and nothing is where the machine lacks a compiler: `on` is then a RecipeError."""
    if learn.compile == "off":
        return False
    if learn.compile == "on":
        if lacking := lacks(device):
            raise RecipeError(
                _("compiling needs {what}, which is not there").format(what=lacking),
                where="learn.compile",
                remedy=_("Install it, or set learn.compile to off."),
            )
        return True
    stop = learn.stop
    items = stop.samples or stop.tokens or (stop.updates or 0) * learn.batch
    parameters = sum(p.numel() for p in learner.parameters() if p.requires_grad)
    seconds = 6.0 * parameters * items / _FLOPS.get(device.type, _FLOPS["cuda"])
    return seconds * _GAIN > _COMPILE_SECONDS and not lacks(device)


def lacks(device: torch.device) -> str | None:
    """What compiling for the device would need and this machine does not have; None where all is there."""
    if device.type == "cuda":
        return None if importlib.util.find_spec("triton") else "triton"
    if device.type != "cpu":
        return None
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler:
        return "g++"
    return None


def compiled(loss: LossFunction, parameters: Sequence[nn.Parameter], places: Sequence[slice]) -> GradientFunction:
    """The step's loss, its gradients and their sum into the flat buffer at `places`, as one graph.

    Compiling the loss alone leaves autograd to call the backward graph, whose bookkeeping on a CPU costs more than a
    small network gains: measured, 413 us against 330 eager for an MLP of 64-64, and 250 as one graph.
    What can't be captured breaks the graph there and runs as ever.
    """
    torch._dynamo.config.trace_autograd_ops = True

    def gradients(
        learner: nn.Module, part: Batch, counts: Mapping[str, Tensor], flat: Tensor, factor: Tensor | None
    ) -> Loss:
        made = loss(learner, part, counts)
        roots, scales = [], []
        for name, term in made.terms.items():
            if term.weight != 0.0 and term.sum.requires_grad:
                roots.append(term.sum)
                own = scale(term.weight, None if term.coupled else counts[name], term.sum)
                scales.append(own if factor is None else (own * factor).to(own.dtype))
        if roots:
            found = torch.autograd.grad(roots, parameters, scales, allow_unused=True)
            for place, gradient in zip(places, found):
                if gradient is not None:
                    flat[place] += gradient.flatten()
        return Loss(
            {name: Term(t.sum.detach(), t.weight, t.coupled) for name, t in made.terms.items()}, made.items, made.carry
        )

    # Its own cache: another engine of this process has no part in how often this one may be compiled again.
    function: GradientFunction = torch.compile(gradients, isolate_recompiles=True)  # type: ignore[call-overload]
    return function


def scale(weight: float, count: Tensor | None, like: Tensor) -> Tensor:
    """weight / count; where nothing counts the sum is 0 and so is its mean. Without a count, the weight."""
    if count is None:
        return torch.full_like(like, weight)
    return (weight / torch.where(count == 0, 1, count).float()).to(like)
