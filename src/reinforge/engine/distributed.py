"""Ranks: who we are, sums over all, and one decision for all."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class World:
    """This process among `size` that train together; `torchrun` sets the environment it is read from."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @classmethod
    def join(cls, device: torch.device) -> World:
        """Join the process group that torchrun's environment describes; alone where there is none."""
        size = int(os.environ.get("WORLD_SIZE", "1"))
        if size == 1:
            return cls()
        if not dist.is_initialized():
            # Decisions and random states travel as CPU tensors, whatever the device.
            dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
        return cls(dist.get_rank(), dist.get_world_size(), int(os.environ.get("LOCAL_RANK", "0")))

    @property
    def main(self) -> bool:
        """Whether this rank writes, logs and evaluates."""
        return self.rank == 0

    def sum_(self, tensor: Tensor) -> Tensor:
        """Sum over all ranks, in place."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def gather(self, tensor: Tensor) -> list[Tensor]:
        """Every rank's tensor, in rank order; their first dimensions may differ."""
        if self.size == 1:
            return [tensor]
        lengths = [torch.zeros(1, dtype=torch.int64, device=tensor.device) for _ in range(self.size)]
        dist.all_gather(lengths, torch.tensor([tensor.shape[0]], device=tensor.device))
        longest = int(torch.stack(lengths).max())
        padded = tensor.new_zeros(longest, *tensor.shape[1:])
        padded[: tensor.shape[0]] = tensor
        parts = [torch.empty_like(padded) for _ in range(self.size)]
        dist.all_gather(parts, padded)
        return [p[: int(n)] for p, n in zip(parts, lengths)]

    def broadcast(self, tensor: Tensor) -> Tensor:
        """Rank 0's values, in place."""
        if self.size > 1:
            dist.broadcast(tensor, 0)
        return tensor

    def barrier(self) -> None:
        """Wait for all ranks."""
        if self.size > 1:
            dist.barrier()

    def leave(self) -> None:
        """Leave the process group, if one was joined."""
        if self.size > 1 and dist.is_initialized():
            dist.destroy_process_group()


def device_of(name: str) -> torch.device:
    """The device a recipe means: "auto" is the accelerator where there is one, else the CPU. Of several, each rank on a
    machine has its own, unless the name says which."""
    if name == "auto":
        found = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    else:
        found = torch.device(name)
    if found.type == "cpu" or ":" in name:
        return found
    return torch.device(found.type, int(os.environ.get("LOCAL_RANK", "0")))
