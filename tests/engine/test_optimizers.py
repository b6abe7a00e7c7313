"""Optimisers, schedules, penalties, clipping and precision against torch.optim and closed forms."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from reinforge.core.contracts import Clock
from reinforge.engine.arena import Arena
from reinforge.engine.groups import Group
from reinforge.engine.options import (
    AdadeltaOptions,
    AdagradOptions,
    AdamOptions,
    AdamWOptions,
    MuonOptions,
    NAdamOptions,
    OptimizerOptions,
    RAdamOptions,
    RMSpropOptions,
    SGDOptions,
)
from reinforge.engine.updating import default_optimizer
from reinforge.objectives.options import PPOOptions
from reinforge.objectives.ppo import PPO
from reinforge.recipe.sections import Learn
from reinforge.registry import REGISTRY
from reinforge.schema.signature import Signature
from tests.engine.problems import Rows, Squares, engine, network, rows

CASES: list[tuple[OptimizerOptions, type[torch.optim.Optimizer], dict[str, Any]]] = [
    (SGDOptions(), torch.optim.SGD, {}),
    (SGDOptions(momentum=0.9, nesterov=True, weight_decay=0.1), torch.optim.SGD,
     {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
    (AdamOptions(weight_decay=0.1, eps=1e-5), torch.optim.Adam, {"weight_decay": 0.1, "eps": 1e-5}),
    (AdamWOptions(betas=(0.8, 0.9)), torch.optim.AdamW, {"betas": (0.8, 0.9), "weight_decay": 0.01}),
    (RMSpropOptions(momentum=0.5, centered=True), torch.optim.RMSprop, {"momentum": 0.5, "centered": True}),
    (AdagradOptions(initial=0.1, weight_decay=0.1), torch.optim.Adagrad,
     {"initial_accumulator_value": 0.1, "weight_decay": 0.1}),
    (AdadeltaOptions(rho=0.8, weight_decay=0.1), torch.optim.Adadelta, {"rho": 0.8, "weight_decay": 0.1}),
    (RAdamOptions(betas=(0.8, 0.9), decoupled=True, weight_decay=0.1), torch.optim.RAdam,
     {"betas": (0.8, 0.9), "decoupled_weight_decay": True, "weight_decay": 0.1}),
    (NAdamOptions(momentum_decay=0.1, weight_decay=0.1), torch.optim.NAdam,
     {"momentum_decay": 0.1, "weight_decay": 0.1}),
]  # fmt: skip


def by_hand(model: nn.Module, optimizer: torch.optim.Optimizer, updates: int, batch: int = 8, **more: Any) -> nn.Module:
    """The plain loop that the engine must equal."""
    source, clock = Rows(rows(), batch), Clock()
    for _ in range(updates):
        b: Any = source.next(clock)
        b = b.batch
        optimizer.zero_grad()
        loss = (model(b["x"])[:, 0] - b["y"]).square().mean()
        if "l1" in more:
            loss = loss + more["l1"] * sum(p.abs().sum() for p in model.parameters() if p.ndim > 1)
        if "l2" in more:
            loss = loss + more["l2"] * sum(p.square().sum() for p in model.parameters() if p.ndim > 1)
        loss.backward()
        if "clip" in more:
            nn.utils.clip_grad_norm_(model.parameters(), more["clip"])
        if "clip_value" in more:
            nn.utils.clip_grad_value_(model.parameters(), more["clip_value"])
        optimizer.step()
        if "scheduler" in more:
            more["scheduler"].step()
    return model


def assert_close(a: nn.Module, b: nn.Module, tolerance: float = 2e-6) -> None:
    for (name, x), y in zip(a.state_dict().items(), b.state_dict().values()):
        torch.testing.assert_close(x, y, rtol=tolerance, atol=tolerance, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize(("options", "torch_class", "settings"), CASES)
def test_equals_torch_optim(options: OptimizerOptions, torch_class: Any, settings: dict[str, Any]) -> None:
    one = engine(network(), learn={"optimizer": options, "lr": 0.01})
    one.run()
    two = network()
    settings = dict(settings)
    weight_decay = settings.pop("weight_decay", 0.0)
    groups = [
        {"params": [p for p in two.parameters() if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in two.parameters() if p.ndim < 2], "weight_decay": 0.0},
    ]
    by_hand(two, torch_class(groups, lr=0.01, **settings), 20)
    assert_close(one.learner.model, two)  # type: ignore[arg-type]


def test_decay_of_all_weights() -> None:
    one = engine(network(), learn={"optimizer": AdamWOptions(weight_decay=0.5, decay="all"), "lr": 0.01})
    one.run()
    two = network()
    assert_close(one.learner.model, by_hand(two, torch.optim.AdamW(two.parameters(), 0.01, weight_decay=0.5), 20))  # type: ignore[arg-type]


def test_muon_equals_torch_beside_adamw() -> None:
    """Matrices by Muon, but for those that `others` names; these and all else by AdamW."""
    options = MuonOptions(momentum=0.9, weight_decay=0.1, iterations=4, others=("2.*",))
    one = engine(network(), learn={"optimizer": options, "lr": 0.01})
    one.run()
    two = network()
    first, bias, last, last_bias = two.parameters()
    muon = torch.optim.Muon([first], 0.01, 0.1, momentum=0.9, ns_steps=4, adjust_lr_fn="match_rms_adamw")
    adamw = torch.optim.AdamW(
        [{"params": [last], "weight_decay": 0.1}, {"params": [bias, last_bias], "weight_decay": 0.0}], 0.01
    )
    by_hand(two, _Both(muon, adamw), 20)  # type: ignore[arg-type]
    assert_close(one.learner.model, two)  # type: ignore[arg-type]


class _Both:
    def __init__(self, *optimizers: torch.optim.Optimizer) -> None:
        self.optimizers = optimizers

    def zero_grad(self) -> None:
        for optimizer in self.optimizers:
            optimizer.zero_grad()

    def step(self) -> None:
        for optimizer in self.optimizers:
            optimizer.step()


def test_every_optimizer_is_compared() -> None:
    compared = {type(options) for options, _, _ in CASES} | {MuonOptions}
    assert {c.options for c in REGISTRY.all("optimizer")} == compared


def test_skips_on_device_where_found_inf() -> None:
    """What an accelerator does without waiting: nothing moves, not even Adam's count."""
    for options in (SGDOptions(momentum=0.9), AdamOptions(), AdamWOptions()):
        one = engine(network(), learn={"optimizer": options})
        one.run()
        optimizer = one.updater.steps[0].optimizers[0]
        before = [t.clone() for t in (one.updater.steps[0].arena.weights, *_tensors(optimizer.state_dict()))]
        optimizer.step(0.1, torch.tensor(1.0))
        after = [one.updater.steps[0].arena.weights, *_tensors(optimizer.state_dict())]
        assert all(torch.equal(x, y) for x, y in zip(before, after))
        optimizer.step(0.1, torch.tensor(0.0))
        assert not torch.equal(before[0], one.updater.steps[0].arena.weights)


def _tensors(state: dict[str, Any]) -> list[torch.Tensor]:
    return [value.clone() for value in state.values() if isinstance(value, torch.Tensor)]


@pytest.mark.parametrize("penalty", [{"l1": 0.05}, {"l2": 0.05}, {"clip": 0.01}, {"clip_value": 0.3}])
def test_penalties_and_clipping(penalty: dict[str, float]) -> None:
    one = engine(network(), learn={"optimizer": SGDOptions(), "lr": 0.05, **penalty})
    one.run()
    two = network()
    by_hand(two, torch.optim.SGD(two.parameters(), 0.05), 20, **penalty)
    assert_close(one.learner.model, two, 1e-5)  # type: ignore[arg-type]


def test_clips_after_accumulation() -> None:
    """Clipping each microbatch would give another update; penalties would count once per microbatch."""
    whole = engine(network(), learn={"optimizer": SGDOptions(), "clip": 0.01, "l1": 0.1, "l2": 0.1})
    parts = engine(network(), learn={"optimizer": SGDOptions(), "clip": 0.01, "l1": 0.1, "l2": 0.1, "microbatch": 2})
    whole.run()
    parts.run()
    assert_close(whole.learner, parts.learner)


def test_bf16_keeps_fp32_masters() -> None:
    """Pure bf16 loses updates below half a unit in the last place; masters add them up."""
    model = nn.Linear(1, 1, bias=False)
    nn.init.ones_(model.weight)
    data = {"x": torch.ones(8, 1), "y": torch.ones(8) * 0.99, "weight": torch.ones(8)}
    one = engine(
        model, updates=1000, source=Rows(data, 8), objective=_Half(),
        learn={"optimizer": SGDOptions(), "lr": 1e-3, "precision": "bf16"},
    )  # fmt: skip
    one.run()
    assert model.weight.dtype == torch.bfloat16
    # One update moves the weight by 2e-5; half a unit of bf16 below 1 is 2e-3.
    assert float(one.updater.steps[0].arena.masters[0]) == pytest.approx(0.99, abs=3e-3)
    assert float(model.weight.detach()) < 1.0


class _Half(Squares):
    def loss(self, learner: Any, batch: Any, counts: Any) -> Any:
        return super().loss(learner, {**batch, "x": batch["x"].bfloat16()}, counts)


def test_an_objective_states_its_default() -> None:
    class Stating(Squares):
        default_optimizer: ClassVar[dict[str, object]] = {"kind": "adam", "eps": 1e-3}

    for objective, learn in ((Stating(), {}), (Squares(), {"optimizer": AdamOptions(eps=1e-3)})):
        one = engine(network(), objective=objective, learn={"lr": 0.01, **learn})
        one.run()
        two = network()
        by_hand(two, torch.optim.Adam(two.parameters(), 0.01, eps=1e-3), 20)
        assert_close(one.learner.model, two)  # type: ignore[arg-type]
    assert isinstance(engine(network()).updater.options, AdamWOptions)
    assert default_optimizer(PPO(PPOOptions(), Signature(inputs={}, outputs={}))) == AdamOptions(eps=1e-5)


def test_both_ways_to_clip_are_refused() -> None:
    with pytest.raises(ValidationError, match="clip or clip_value, not both"):
        Learn(clip=1.0, clip_value=1.0)


@pytest.mark.parametrize(("options", "torch_class", "settings"), CASES)
def test_equals_torch_to_the_bit_on_the_same_gradients(
    options: OptimizerOptions, torch_class: Any, settings: dict[str, Any]
) -> None:
    """Adam and AdamW equal torch's fused form; others the default one."""
    parameters = [nn.Parameter(torch.randn(*shape, generator=draws())) for shape in ((5, 7), (9,), (33, 3))]
    copies = [nn.Parameter(p.detach().clone()) for p in parameters]
    arena = Arena({p: Group(decays=p.ndim > 1) for p in parameters})
    own = REGISTRY.build("optimizer", options, arena.slices(), 0.01)
    settings = dict(settings)
    decay = settings.pop("weight_decay", 0.0)
    if torch_class in (torch.optim.Adam, torch.optim.AdamW):
        settings["fused"] = True
    groups = [
        {"params": copies[::2], "weight_decay": decay},
        {"params": copies[1:2], "weight_decay": 0.0},
    ]
    reference, generator = torch_class(groups, lr=0.01, **settings), draws()
    for _ in range(50):
        for mine, theirs in zip(parameters, copies):
            theirs.grad = torch.randn(theirs.shape, generator=generator)
            assert mine.grad is not None
            mine.grad.copy_(theirs.grad)
        own.step(0.01)
        reference.step()
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(parameters, copies))


def draws() -> torch.Generator:
    return torch.Generator().manual_seed(3)
