"""Tables with sparse gradients: against torch's SparseAdam, and against the same table with dense gradients."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from reinforge.core.contracts import Clock
from reinforge.engine.checkpoint import CheckpointStore
from reinforge.engine.options import (
    AdamWOptions,
    ExponentialOptions,
    SGDOptions,
    SparseAdagradOptions,
    SparseAdamOptions,
    SparseSGDOptions,
)
from reinforge.errors import ComponentError
from reinforge.recipe.sections import Start, Unfreeze
from tests.engine.problems import Rows, engine
from tests.engine.test_ranks import two_ranks
from tests.slices.states import differences

SIZE = 50


class Looking(nn.Module):
    """The first of x is a row of a table."""

    def __init__(self, sparse: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(SIZE, 4, sparse=sparse)
        self.linear = nn.Linear(6, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        features = torch.cat([self.table(x[:, 0].long()), x[:, 1:].to(self.table.weight.dtype)], 1)
        return self.linear(features).float()  # type: ignore[no-any-return]


def data(seed: int = 0) -> dict[str, torch.Tensor]:
    """Rows 0 to 19 of the table are looked up, some of them several times in a batch."""
    g = torch.Generator().manual_seed(seed)
    index = torch.randint(20, (64,), generator=g)
    x = torch.cat([index[:, None].float(), torch.randn(64, 2, generator=g)], 1)
    return {"x": x, "y": torch.sin(index.float()) + x[:, 1], "weight": torch.ones(64)}


def made(sparse: bool = True, **keywords: Any) -> Any:
    return engine(Looking(sparse), source=Rows(data(), 8), **keywords)


def model_of(one: Any) -> Looking:
    model = one.learner.model
    assert isinstance(model, Looking)
    return model


@pytest.mark.parametrize(
    ("options", "make"),
    [
        (SparseAdamOptions(betas=(0.8, 0.95)), lambda p: torch.optim.SparseAdam(p, 0.02, betas=(0.8, 0.95))),
        (SparseAdagradOptions(), lambda p: torch.optim.Adagrad(p, 0.02)),
        (SparseSGDOptions(), lambda p: torch.optim.SGD(p, 0.02)),
    ],
)
def test_equals_torch_beside_a_dense_optimiser(options: Any, make: Any) -> None:
    one = made(learn={"optimizer": AdamWOptions(weight_decay=0.1, decay="all"), "sparse": options, "lr": 0.02})
    one.run()
    two, source, clock = Looking(), Rows(data(), 8), Clock()
    optimizers = make([two.table.weight]), torch.optim.AdamW(two.linear.parameters(), 0.02, weight_decay=0.1)
    for _ in range(20):
        batch: Any = source.next(clock)
        two.zero_grad()
        (two(batch.batch["x"])[:, 0] - batch.batch["y"]).square().mean().backward()
        for optimizer in optimizers:
            optimizer.step()
    for mine, theirs in zip(model_of(one).parameters(), two.parameters()):
        torch.testing.assert_close(mine, theirs, rtol=2e-6, atol=2e-6)


PLAIN = {"optimizer": SGDOptions(), "sparse": SparseSGDOptions(), "lr": 0.05}


@pytest.mark.parametrize(
    "learn",
    [{}, {"clip": 0.1}, {"clip_value": 0.01}, {"microbatch": 3}, {"microbatch": 3, "clip": 0.1, "rates": {"t*": 0.3}}],
)
def test_equals_a_dense_table_under_plain_descent(learn: dict[str, Any]) -> None:
    """So the norm, clipping and accumulation hold for both kinds of gradient together."""
    sparse, dense = made(learn={**PLAIN, **learn}), made(False, learn={**PLAIN, **learn})
    sparse.run()
    dense.run()
    for mine, theirs in zip(model_of(sparse).parameters(), model_of(dense).parameters()):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)
    assert sparse.updater.steps[0].norm == pytest.approx(dense.updater.steps[0].norm, rel=1e-4)
    assert sparse.updater.steps[0].tables is not None
    assert sparse.updater.steps[0].arena.masters.numel() < SIZE


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_tables_keep_fp32_masters(precision: str) -> None:
    one = made(learn={**PLAIN, "precision": precision, "lr": 1e-3}, updates=40)
    if precision == "fp16":
        one.updater.steps[0].scale.scale.fill_(256.0)
    before = model_of(one).table.weight.detach().float()
    one.run()
    tables = one.updater.steps[0].tables
    weight, master = model_of(one).table.weight.detach(), tables.masters[0].detach()
    assert master.dtype == torch.float32
    assert torch.equal(weight, master.to(weight.dtype))
    assert not torch.equal(weight[:20].float(), before[:20])
    assert torch.equal(weight[20:].float(), before[20:])


def test_a_table_with_a_broken_gradient_changes_nothing() -> None:
    broken = data()
    broken["y"][8:16] = float("nan")
    states: list[Any] = []
    one = engine(Looking(), updates=3, source=Rows(broken, 8))
    one.objective.after_update = lambda learner, clock: states.append(  # type: ignore[method-assign]
        {k: v.clone() for k, v in learner.state_dict().items()}
    )
    one.run()
    assert not list(differences(states[0], states[1]))
    assert list(differences(states[1], states[2]))
    assert one.updater.skipped == 1


LATER = Start(freeze=("table.*",), unfreeze=(Unfreeze(patterns=("*",), after=6, unit="updates"),))


@pytest.mark.parametrize("at", [3, 6, 7, 13])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("start", [Start(), LATER])
def test_resumes_exactly(at: int, precision: str, start: Start, tmp_path: Path) -> None:
    learn = {"precision": precision, "average": ExponentialOptions(decay=0.9), "clip": 1.0}
    whole = made(learn=learn, start=start)
    whole.run()
    made(updates=at, learn=learn, start=start, store=CheckpointStore(tmp_path)).run()
    second = made(learn=learn, start=start)
    state = CheckpointStore(tmp_path).latest()
    assert state is not None
    second.load_state_dict(state)
    second.run()
    assert not list(differences(whole.state_dict(), second.state_dict()))


def test_a_frozen_table_stays_until_it_learns() -> None:
    six, seven = made(updates=6, start=LATER), made(updates=7, start=LATER)
    before = model_of(six).table.weight.detach().clone()
    six.run()
    seven.run()
    assert torch.equal(model_of(six).table.weight, before)
    assert not torch.equal(model_of(seven).table.weight, before)


def _ranks(rank: int, folder: Path) -> Any:
    one = made(learn={**PLAIN, "clip": 0.5}, start=LATER)
    one.run()
    return [p.detach().tolist() for p in model_of(one).parameters()]


def test_two_ranks_equal_one(tmp_path: Path) -> None:
    first, second = two_ranks(_ranks, tmp_path)
    assert first == second
    alone = _ranks(0, tmp_path)
    for mine, theirs in zip(itertools.chain(first), itertools.chain(alone)):
        torch.testing.assert_close(torch.tensor(mine), torch.tensor(theirs), rtol=1e-5, atol=1e-6)


def test_compiling_it_is_refused() -> None:
    with pytest.raises(ComponentError, match="sparse gradients can't be compiled"):
        made(learn={"compile": "on"})


def test_a_dense_gradient_of_a_sparse_table_is_refused() -> None:
    class Tied(Looking):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) + self.table.weight.sum()

    with pytest.raises(ComponentError, match="got a dense gradient"):
        engine(Tied(), source=Rows(data(), 8)).run()
