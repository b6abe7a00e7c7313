"""Tables whose gradients are sparse: of a batch's few rows alone, so that an update costs by the batch, not the table.

They live outside the flat arena. A module says that its parameters are such by `sparse = True`, as torch's
`nn.Embedding(sparse=True)` does. They neither decay nor take part in L1 and L2, which would touch every row.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from reinforge.core.contracts import State
from reinforge.engine.arena import HALVES, Precision
from reinforge.engine.distributed import World
from reinforge.engine.groups import Group
from reinforge.engine.optimizers import FlatOptimizer, TorchOptimizer
from reinforge.engine.options import SparseAdagradOptions, SparseAdamOptions, SparseSGDOptions
from reinforge.errors import CheckpointError, ComponentError


def sparse_parameters(learner: nn.Module) -> set[nn.Parameter]:
    """The parameters whose gradients come sparse."""
    return {
        parameter
        for module in learner.modules()
        if getattr(module, "sparse", None) is True
        for parameter in module.parameters()
    }


class Tables:
    """A step's tables (rows, ...): masters in fp32, which are the parameters themselves where these are fp32."""

    def __init__(self, parameters: Sequence[nn.Parameter], groups: Sequence[Group], precision: Precision) -> None:
        self.parameters, self._groups = list(parameters), list(groups)
        self.half = precision in HALVES
        self.masters = [nn.Parameter(p.detach().clone()) if self.half else p for p in self.parameters]
        if self.half:
            for p in self.parameters:
                p.data = p.data.to(HALVES[precision])

    def thaw(self, phase: int) -> None:
        """From now on, all up to this phase learns."""
        for p, group in zip(self.parameters, self._groups):
            p.requires_grad_(group.phase <= phase)

    @property
    def learning(self) -> list[nn.Parameter]:
        """Those that learn now."""
        return [p for p in self.parameters if p.requires_grad]

    def zero(self) -> None:
        """No gradients."""
        for p, master in zip(self.parameters, self.masters):
            p.grad = master.grad = None

    def collect(self, world: World) -> None:
        """After the last microbatch: sum what came for the same row, over all ranks.

        Raises ComponentError for a gradient that isn't sparse.
        """
        for p, master in zip(self.parameters, self.masters):
            gradient = p.grad
            if not p.requires_grad:
                continue
            if gradient is None:
                gradient = torch.sparse_coo_tensor(
                    torch.zeros(1, 0, dtype=torch.int64, device=p.device), p.detach()[:0], p.shape,
                    check_invariants=False,
                )  # fmt: skip
            elif not gradient.is_sparse:
                raise ComponentError(
                    f"a module says that it is sparse, and its table {tuple(p.shape)} got a dense gradient",
                    remedy="Look rows up with functional.embedding(..., sparse=True), and use them nowhere else.",
                )
            gradient = gradient.float().coalesce()
            if world.size > 1:
                rows = torch.cat(world.gather(gradient.indices()[0]))
                values = torch.cat(world.gather(gradient.values()))
                gradient = torch.sparse_coo_tensor(rows[None], values, p.shape, check_invariants=False).coalesce()
            p.grad = None
            master.grad = gradient

    def values(self) -> list[Tensor]:
        """The values of each gradient, to be changed in place."""
        return [master.grad.values() for master in self.masters if master.grad is not None]

    def publish(self) -> None:
        """After the optimiser: with half weights, round the rows that changed into them."""
        if self.half:
            for p, master in zip(self.parameters, self.masters):
                if master.grad is not None:
                    rows = master.grad.indices()[0]
                    p.data[rows] = master.detach()[rows].to(p.dtype)

    def publish_all(self) -> None:
        """With half weights, round all masters into them."""
        if self.half:
            for p, master in zip(self.parameters, self.masters):
                p.data.copy_(master.detach())

    def state_dict(self) -> State:
        """The masters, for half precision alone."""
        return {str(i): master.detach() for i, master in enumerate(self.masters)} if self.half else {}

    def load_state_dict(self, state: State) -> None:
        """Restore the masters and round them into the weights."""
        if not self.half:
            return
        for i, master in enumerate(self.masters):
            saved = state.get(str(i))
            if saved is None or saved.shape != master.shape:
                raise CheckpointError("the fp32 masters of a table are missing or of another size")
            master.data.copy_(saved)
        self.publish_all()

    def groups(self) -> list[dict[str, object]]:
        """As torch.optim's parameter groups."""
        return [{"params": [master], "rate": group.rate} for master, group in zip(self.masters, self._groups)]


class SparseOptimizer(TorchOptimizer):
    """An optimiser of torch.optim that takes sparse gradients."""

    def step(self, lr: float, found_inf: Tensor | None = None) -> None:
        """One update at learning rate `lr`."""
        # torch builds sparse tensors inside, and warns where nobody has said whether it is to check them.
        with torch.sparse.check_sparse_tensor_invariants(enable=False):  # type: ignore[no-untyped-call]
            super().step(lr, found_inf)


def sparse_adam(options: SparseAdamOptions, tables: Tables, lr: float) -> FlatOptimizer:
    """torch's SparseAdam."""
    return SparseOptimizer(torch.optim.SparseAdam(tables.groups(), lr=lr, betas=options.betas, eps=options.eps))


def sparse_adagrad(options: SparseAdagradOptions, tables: Tables, lr: float) -> FlatOptimizer:
    """Adagrad of sparse gradients."""
    return SparseOptimizer(torch.optim.Adagrad(tables.groups(), lr=lr, eps=options.eps))


def sparse_sgd(options: SparseSGDOptions, tables: Tables, lr: float) -> FlatOptimizer:
    """Gradient descent of sparse gradients."""
    return SparseOptimizer(torch.optim.SGD(tables.groups(), lr=lr))
