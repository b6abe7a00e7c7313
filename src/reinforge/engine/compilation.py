"""Whether compiling a run pays: decided before it starts, from its size alone, so that resuming decides the same."""

from __future__ import annotations

import torch
from torch import nn

from reinforge.recipe.sections import Learn

# What compilation costs cold, and what a device reaches on training in practice: rough on purpose.
_COMPILE_SECONDS = 60.0
_GAIN = 0.25
_FLOPS = {"cpu": 3e10, "cuda": 5e13}


def pays(learn: Learn, learner: nn.Module, device: torch.device) -> bool:
    """`on` and `off` are taken at their word. `auto` estimates the run's length as six operations per
    parameter and item and compiles where a quarter of it outweighs compiling; a run without a known number of
    items is not compiled."""
    if learn.compile != "auto":
        return learn.compile == "on"
    stop = learn.stop
    items = stop.samples or stop.tokens or (stop.updates or 0) * learn.batch
    parameters = sum(p.numel() for p in learner.parameters() if p.requires_grad)
    seconds = 6.0 * parameters * items / _FLOPS.get(device.type, _FLOPS["cuda"])
    return seconds * _GAIN > _COMPILE_SECONDS
