"""Optimisers over the flat slices of an arena.

SGD, Adam and AdamW call torch's fused kernels themselves: on a small network torch.optim's own bookkeeping costs more
than the update. What has no fused kernel runs through torch.optim. Results are torch.optim's to the bit (tested).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from reinforge.core.contracts import State
from reinforge.engine.options import (
    AdadeltaOptions,
    AdagradOptions,
    AdamOptions,
    AdamWOptions,
    MuonOptions,
    NAdamOptions,
    RAdamOptions,
    RMSpropOptions,
    SGDOptions,
)
from reinforge.errors import CheckpointError


@dataclass(frozen=True)
class Slice:
    """One flat parameter of an arena, its gradient in `.grad`, whether its weights decay, and by what their learning
    rate is multiplied. `matrices`: place and shape of each, where they are updated as such."""

    parameter: nn.Parameter
    decays: bool
    rate: float = 1.0
    matrices: tuple[tuple[int, torch.Size], ...] = ()

    @property
    def gradient(self) -> Tensor:
        """The flat gradient."""
        assert self.parameter.grad is not None
        return self.parameter.grad


class FlatOptimizer(Protocol):
    """Updates flat slices. `skips_on_device`: where `found_inf` (a 0-d float tensor) is 1, `step` changes nothing."""

    skips_on_device: bool

    def step(self, lr: float, found_inf: Tensor | None = None) -> None: ...

    def state_dict(self) -> State: ...

    def load_state_dict(self, state: State) -> None: ...


class FusedAdam:
    """Adam (Kingma and Ba, 2015) or, `decoupled`, AdamW (Loshchilov and Hutter, 2019):
    m = b1 m + (1 - b1) g, v = b2 v + (1 - b2) g^2, w -= lr (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps)."""

    skips_on_device = True

    def __init__(
        self, slices: Sequence[Slice], *, decoupled: bool, betas: tuple[float, float], eps: float, weight_decay: float
    ) -> None:
        self._kernel = torch._fused_adamw_ if decoupled else torch._fused_adam_
        self._betas, self._eps = betas, eps
        self._slices = slices
        self._decays = [weight_decay if s.decays else 0.0 for s in slices]
        self._first = [torch.zeros_like(s.parameter) for s in slices]
        self._second = [torch.zeros_like(s.parameter) for s in slices]
        self._count = [torch.zeros((), device=s.parameter.device) for s in slices]

    @torch.no_grad()
    def step(self, lr: float, found_inf: Tensor | None = None) -> None:
        """One update at learning rate `lr`."""
        for s, decay, first, second, count in zip(self._slices, self._decays, self._first, self._second, self._count):
            count += 1
            self._kernel(
                [s.parameter], [s.gradient], [first], [second], [], [count], lr=lr * s.rate, beta1=self._betas[0],
                beta2=self._betas[1], weight_decay=decay, eps=self._eps, amsgrad=False, maximize=False,
                grad_scale=None, found_inf=found_inf,
            )  # fmt: skip
            if found_inf is not None:
                count -= found_inf

    def state_dict(self) -> State:
        """Both moments of all slices end to end, and the number of updates."""
        return {"first": torch.cat(self._first), "second": torch.cat(self._second), "count": self._count[0]}

    def load_state_dict(self, state: State) -> None:
        """Restore. Raises CheckpointError where the sizes differ."""
        _spread(state, "first", self._first)
        _spread(state, "second", self._second)
        for count in self._count:
            count.copy_(state["count"])


class FusedSGD:
    """Stochastic gradient descent: w -= lr g, or with momentum b = mu b + g, w -= lr b (Nesterov: g + mu b)."""

    skips_on_device = True

    def __init__(self, slices: Sequence[Slice], *, momentum: float, nesterov: bool, weight_decay: float) -> None:
        self._slices, self._momentum, self._nesterov = slices, momentum, nesterov
        self._decays = [weight_decay if s.decays else 0.0 for s in slices]
        self._buffers = [torch.zeros_like(s.parameter) for s in slices] if momentum else []
        self._begun = False

    @torch.no_grad()
    def step(self, lr: float, found_inf: Tensor | None = None) -> None:
        """One update at learning rate `lr`."""
        for i, (s, decay) in enumerate(zip(self._slices, self._decays)):
            torch._fused_sgd_(
                [s.parameter], [s.gradient], [self._buffers[i]] if self._momentum else [], weight_decay=decay,
                momentum=self._momentum, lr=lr * s.rate, dampening=0.0, nesterov=self._nesterov, maximize=False,
                is_first_step=not self._begun, grad_scale=None, found_inf=found_inf,
            )  # fmt: skip
        self._begun = True

    def state_dict(self) -> State:
        """The momentum of all slices end to end."""
        return {"begun": self._begun, "momentum": torch.cat(self._buffers) if self._buffers else None}

    def load_state_dict(self, state: State) -> None:
        """Restore. Raises CheckpointError where the sizes differ."""
        self._begun = state["begun"]
        if self._buffers:
            _spread(state, "momentum", self._buffers)


class TorchOptimizer:
    """Any optimiser of torch.optim; each of its groups has its `rate` (see `groups`)."""

    skips_on_device = False

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self._optimizer = optimizer

    def step(self, lr: float, found_inf: Tensor | None = None) -> None:
        """One update at learning rate `lr`."""
        for group in self._optimizer.param_groups:
            group["lr"] = lr * group["rate"]
        self._optimizer.step()

    def state_dict(self) -> State:
        """The optimiser's own state; its settings come from the recipe."""
        state = self._optimizer.state_dict()["state"]
        return {str(index): dict(values) for index, values in state.items()}

    def load_state_dict(self, state: State) -> None:
        """Restore."""
        full = self._optimizer.state_dict()
        full["state"] = {int(index): dict(values) for index, values in state.items()}
        self._optimizer.load_state_dict(full)


class Together:
    """Optimisers that share the parameters of a step among them."""

    def __init__(self, optimizers: Sequence[FlatOptimizer]) -> None:
        self._optimizers = optimizers
        self.skips_on_device = all(optimizer.skips_on_device for optimizer in optimizers)

    def step(self, lr: float, found_inf: Tensor | None = None) -> None:
        """One update of each at learning rate `lr`."""
        for optimizer in self._optimizers:
            optimizer.step(lr, found_inf)

    def state_dict(self) -> State:
        """The state of each, by its place."""
        return {str(i): optimizer.state_dict() for i, optimizer in enumerate(self._optimizers)}

    def load_state_dict(self, state: State) -> None:
        """Restore. Raises CheckpointError where there are more or fewer."""
        if len(state) != len(self._optimizers):
            raise CheckpointError("the checkpoint's optimisers are not those of the recipe")
        for i, optimizer in enumerate(self._optimizers):
            optimizer.load_state_dict(state[str(i)])


def groups(slices: Sequence[Slice], weight_decay: float) -> list[dict[str, object]]:
    """The slices as torch.optim's parameter groups."""
    return [
        {"params": [s.parameter], "weight_decay": weight_decay if s.decays else 0.0, "rate": s.rate} for s in slices
    ]


def sgd(options: SGDOptions, slices: Sequence[Slice], lr: float) -> FlatOptimizer:
    """Stochastic gradient descent."""
    return FusedSGD(slices, momentum=options.momentum, nesterov=options.nesterov, weight_decay=options.weight_decay)


def adam(options: AdamOptions, slices: Sequence[Slice], lr: float) -> FlatOptimizer:
    """Adam."""
    return FusedAdam(slices, decoupled=False, betas=options.betas, eps=options.eps, weight_decay=options.weight_decay)


def adamw(options: AdamWOptions, slices: Sequence[Slice], lr: float) -> FlatOptimizer:
    """AdamW."""
    return FusedAdam(slices, decoupled=True, betas=options.betas, eps=options.eps, weight_decay=options.weight_decay)


def rmsprop(options: RMSpropOptions, slices: Sequence[Slice], lr: float) -> FlatOptimizer:
    """RMSprop; torch has no fused form of it."""
    return TorchOptimizer(
        torch.optim.RMSprop(
            groups(slices, options.weight_decay), lr=lr, alpha=options.alpha, eps=options.eps,
            momentum=options.momentum, centered=options.centered,
        )
    )  # fmt: skip


def adagrad(options: AdagradOptions, slices: Sequence[Slice], lr: float) -> FlatOptimizer:
    """Adagrad."""
    return TorchOptimizer(
        torch.optim.Adagrad(
            groups(slices, options.weight_decay), lr=lr, initial_accumulator_value=options.initial, eps=options.eps
        )
    )


def adadelta(options: AdadeltaOptions, slices: Sequence[Slice], lr: float) -> FlatOptimizer:
    """Adadelta."""
    return TorchOptimizer(
        torch.optim.Adadelta(groups(slices, options.weight_decay), lr=lr, rho=options.rho, eps=options.eps)
    )


def radam(options: RAdamOptions, slices: Sequence[Slice], lr: float) -> FlatOptimizer:
    """Rectified Adam."""
    return TorchOptimizer(
        torch.optim.RAdam(
            groups(slices, options.weight_decay), lr=lr, betas=options.betas, eps=options.eps,
            decoupled_weight_decay=options.decoupled,
        )
    )  # fmt: skip


def nadam(options: NAdamOptions, slices: Sequence[Slice], lr: float) -> FlatOptimizer:
    """Adam with Nesterov's momentum."""
    return TorchOptimizer(
        torch.optim.NAdam(
            groups(slices, options.weight_decay), lr=lr, betas=options.betas, eps=options.eps,
            momentum_decay=options.momentum_decay, decoupled_weight_decay=options.decoupled,
        )
    )  # fmt: skip


def muon(options: MuonOptions, slices: Sequence[Slice], lr: float) -> FlatOptimizer:
    """Muon for the slices of matrices, AdamW for the others."""
    whole, flat = [s for s in slices if s.matrices], [s for s in slices if not s.matrices]
    optimizers: list[FlatOptimizer] = []
    if whole:
        own = [{**group, "params": _matrices(s)} for s, group in zip(whole, groups(whole, options.weight_decay))]
        optimizers.append(
            TorchOptimizer(
                torch.optim.Muon(
                    own, lr=lr, momentum=options.momentum, nesterov=options.nesterov,
                    ns_steps=options.iterations, adjust_lr_fn="match_rms_adamw",
                )
            )
        )  # fmt: skip
    if flat:
        betas, eps, decay = options.betas, options.eps, options.weight_decay
        optimizers.append(FusedAdam(flat, decoupled=True, betas=betas, eps=eps, weight_decay=decay))
    return Together(optimizers)


def _matrices(s: Slice) -> list[nn.Parameter]:
    """The slice's matrices, as views of it with views of its gradient."""
    made = []
    for start, shape in s.matrices:
        here = slice(start, start + shape.numel())
        matrix = nn.Parameter(s.parameter.detach()[here].view(shape))
        matrix.grad = s.gradient[here].view(shape)
        made.append(matrix)
    return made


def _spread(state: State, key: str, into: Sequence[Tensor]) -> None:
    whole = state.get(key)
    if not isinstance(whole, Tensor) or whole.numel() != sum(t.numel() for t in into):
        raise CheckpointError(f"the optimiser's {key!r} is missing or of another size")
    for part, target in zip(torch.split(whole, [t.numel() for t in into]), into):
        target.copy_(part)
