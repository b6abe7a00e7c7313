"""Examples for metrics, by the form of output that they are for."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tests.contract.examples import draws


def judged(form: str, rows: int = 40) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Targets for metrics of a form, and outputs as metrics take them: perfect, noisy, and as wrong as can be."""
    g = draws()
    if form in ("category", "labels"):
        shape = (rows, 3)
        target = (
            torch.randint(0, 3, (rows,), generator=g) if form == "category" else torch.rand(shape, generator=g) < 0.5
        )
        there = nn.functional.one_hot(target, 3) if form == "category" else target
        perfect = there.float() * 50 - 25
        return target, perfect, perfect + perfect.std() * torch.randn(shape, generator=g), -perfect
    if form == "span":
        first = torch.randint(0, 10, (rows, 1), generator=g)
        target = torch.cat([first, first + 3], 1)
        return target, target, target + torch.randint(0, 3, (rows, 1), generator=g), target + 20
    if form == "ordinal":
        target = torch.randint(0, 5, (rows,), generator=g)
        return target, target, (target + torch.randint(0, 2, (rows,), generator=g)).clamp(max=4), 4 - target
    target = torch.randint(1, 9, (rows, 1), generator=g).float()
    return target, target, target + 0.5 * torch.rand((rows, 1), generator=g), 10.0 - target
