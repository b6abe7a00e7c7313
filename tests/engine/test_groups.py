"""Freezing, unfreezing and learning rates by layer, against torch.optim's parameter groups by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from reinforge.core.contracts import Clock
from reinforge.engine.checkpoint import CheckpointStore
from reinforge.engine.groups import _depths
from reinforge.engine.options import AdamOptions, AdamWOptions, ExponentialOptions, MuonOptions, SGDOptions
from reinforge.errors import CheckpointError, RecipeError
from reinforge.recipe.sections import Start, Unfreeze
from tests.engine.problems import Rows, engine, network, rows
from tests.slices.states import differences


def plain(model: nn.Module, optimizer: torch.optim.Optimizer, updates: int, thaw: dict[int, list[str]]) -> nn.Module:
    """The loop by hand: `thaw` names what learns from which update on."""
    source, clock, named = Rows(rows(), 8), Clock(), dict(model.named_parameters())
    for update in range(updates):
        for name in thaw.get(update, []):
            named[name].requires_grad_(True)
        batch: Any = source.next(clock)
        optimizer.zero_grad(set_to_none=True)
        (model(batch.batch["x"])[:, 0] - batch.batch["y"]).square().mean().backward()
        optimizer.step()
    return model


def assert_same(a: nn.Module, b: nn.Module) -> None:
    for (name, x), y in zip(a.state_dict().items(), b.state_dict().values()):
        torch.testing.assert_close(x, y, rtol=2e-6, atol=2e-6, msg=lambda m, name=name: f"{name}: {m}")


def test_frozen_weights_stay_and_cost_nothing() -> None:
    one = engine(network(), start=Start(freeze=("0.*",)), learn={"optimizer": AdamOptions(), "lr": 0.01})
    before = {name: p.detach().clone() for name, p in one.learner.model.named_parameters()}  # type: ignore[union-attr]
    one.run()
    for name, p in one.learner.model.named_parameters():  # type: ignore[union-attr]
        assert torch.equal(p, before[name]) == name.startswith("0.")
        assert p.requires_grad != name.startswith("0.")
    arena = one.updater.steps[0].arena
    assert arena.masters.numel() == arena.full_gradients.numel() == 32
    assert one.updater.steps[0].optimizers[0].state_dict()["first"].numel() == 32
    two = network()
    for name, p in two.named_parameters():
        p.requires_grad_(not name.startswith("0."))
    assert_same(one.learner.model, plain(two, torch.optim.Adam(two.parameters(), 0.01), 20, {}))  # type: ignore[arg-type]


LATER = Start(
    freeze=("0.*", "2.bias"),
    unfreeze=(
        Unfreeze(patterns=("2.*",), after=5, unit="updates"),
        Unfreeze(patterns=("0.w*", "0.bias"), after=88, unit="samples"),
    ),
)


def test_gradual_unfreezing_equals_torch() -> None:
    """Each weight's moments and bias correction begin when it does."""
    one = engine(network(), start=LATER, learn={"optimizer": AdamOptions(), "lr": 0.01})
    one.run()
    two = network()
    for name, p in two.named_parameters():
        p.requires_grad_(name == "2.weight")
    plain(two, torch.optim.Adam(two.parameters(), 0.01), 20, {5: ["2.bias"], 11: ["0.weight", "0.bias"]})
    assert_same(one.learner.model, two)  # type: ignore[arg-type]


def test_what_is_frozen_has_no_moments_until_it_learns() -> None:
    one = engine(network(), updates=4, start=LATER)
    one.run()
    assert [o.state_dict()["first"].numel() for o in one.updater.steps[0].optimizers] == [16]
    two = engine(network(), updates=20, start=LATER)
    two.run()
    assert [o.state_dict()["first"].numel() for o in two.updater.steps[0].optimizers] == [16, 16, 48]


@pytest.mark.parametrize("at", [4, 5, 6, 11, 15])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_resumes_exactly_around_an_unfreezing(at: int, precision: str, tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "start": LATER,
        "learn": {"precision": precision, "average": ExponentialOptions(decay=0.9), "clip": 0.5, "l2": 0.01},
    }
    whole = engine(Half(), **settings)
    whole.run()
    engine(Half(), updates=at, store=CheckpointStore(tmp_path), **settings).run()
    second = engine(Half(), **settings)
    state = CheckpointStore(tmp_path).latest()
    assert state is not None
    second.load_state_dict(state)
    second.run()
    assert not list(differences(whole.state_dict(), second.state_dict()))


class Half(nn.Sequential):
    """The network in the precision of its weights."""

    def __init__(self) -> None:
        super().__init__(*network())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.to(self[0].weight.dtype)).float()  # type: ignore[no-any-return,arg-type]


def test_frozen_weights_meet_half_activations() -> None:
    one = engine(Half(), start=Start(freeze=("0.*",)), learn={"precision": "bf16"})
    one.run()
    assert {p.dtype for p in one.learner.parameters()} == {torch.bfloat16}


def test_other_weights_frozen_than_in_the_checkpoint(tmp_path: Path) -> None:
    engine(network(), start=LATER, store=CheckpointStore(tmp_path)).run()
    state = CheckpointStore(tmp_path).latest()
    assert state is not None
    with pytest.raises(CheckpointError, match="other weights frozen"):
        engine(network(), start=Start(freeze=("0.*",))).load_state_dict(state)


@pytest.mark.parametrize(
    ("start", "learn", "message"),
    [
        (Start(freeze=("0.wieght",)), {}, r"'0\.wieght' matches no weight[\s\S]*0\.weight"),
        (Start(freeze=("*",)), {}, "nothing to learn in the step 'learn'"),
        (Start(unfreeze=(Unfreeze(patterns=("2.*",), after=1),)), {}, "no frozen weight"),
        (Start(), {"rates": {"body.*": 0.1}}, "'body.\\*' matches no weight"),
    ],
)
def test_a_pattern_for_nothing_is_refused(start: Start, learn: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        engine(network(), start=start, learn=learn)


@pytest.mark.parametrize("optimizer", [SGDOptions(momentum=0.9), AdamWOptions(), MuonOptions()])
@pytest.mark.parametrize("learn", [{"rates": {"0.*": 0.1, "*": 0.5}}, {"layer_decay": 0.2, "rates": {"2.*": 0.5}}])
def test_rates_equal_torch(optimizer: Any, learn: dict[str, Any]) -> None:
    one = engine(network(), learn={"optimizer": optimizer, "lr": 0.02, **learn})
    one.run()
    two = network()
    below = 0.1 if "layer_decay" not in learn else 0.2
    groups = [{"params": [p], "lr": 0.02 * (below if n.startswith("0.") else 0.5)} for n, p in two.named_parameters()]
    for group in groups:
        group["weight_decay"] = optimizer.weight_decay if group["params"][0].ndim > 1 else 0.0  # type: ignore[index]
    if isinstance(optimizer, MuonOptions):
        by_muon = torch.optim.Muon(groups[::2], adjust_lr_fn="match_rms_adamw")
        by_adamw = torch.optim.AdamW(groups[1::2])
        both = type("Both", (), {})()
        both.zero_grad = lambda set_to_none: (by_muon.zero_grad(), by_adamw.zero_grad())
        both.step = lambda: (by_muon.step(), by_adamw.step())
    else:
        both = torch.optim.SGD(groups, momentum=0.9) if isinstance(optimizer, SGDOptions) else torch.optim.AdamW(groups)
    assert_same(one.learner.model, plain(two, both, 20, {}))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("names", "depths"),
    [
        (["0.weight", "0.bias", "2.weight", "4.weight"], [2, 2, 1, 0]),
        (["embedding.weight", "blocks.0.a", "blocks.1.a", "blocks.1.b.0.weight", "norm.weight"], [3, 2, 1, 1, 0]),
        (["encoders.c.table", "body.linears.0.w", "body.linears.1.w", "body.norms.0.w", "heads.y.w"], [3, 2, 1, 2, 0]),
        (["stem.w", *(f"stages.{s}.layers.{k}.w" for s in range(4) for k in range(6)), "head.w"],
         [5, *(4 - s for s in range(4) for _ in range(6)), 0]),
    ],
)  # fmt: skip
def test_depth_is_counted_from_the_output(names: list[str], depths: list[int]) -> None:
    assert list(_depths(names).values()) == depths


def test_depth_needs_layers() -> None:
    with pytest.raises(RecipeError, match="no numbered layers"):
        _depths(["weight", "bias"])


class Normed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.linear = nn.BatchNorm1d(3), nn.Linear(3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(self.norm(x))  # type: ignore[no-any-return]


def test_a_frozen_normalisation_keeps_its_statistics_until_it_learns() -> None:
    class Looking:
        def evaluate(self, learner: nn.Module, clock: Clock) -> dict[str, float]:
            return {"mean": float(learner.model.norm.running_mean.abs().sum())}  # type: ignore[union-attr,operator]

    from reinforge.recipe.sections import Evaluate

    start = Start(freeze=("norm.*",), unfreeze=(Unfreeze(patterns=("norm.*",), after=10, unit="updates"),))
    one = engine(Normed(), updates=10, start=start, evaluator=Looking(), evaluate=Evaluate(every=2, unit="updates"))
    assert one.run().metrics == {"mean": 0.0}
    two = engine(Normed(), updates=12, start=start, evaluator=Looking())
    assert two.run().metrics["mean"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_compiled_equals_eager_through_an_unfreezing(precision: str) -> None:
    learn: dict[str, Any] = {"optimizer": SGDOptions(), "lr": 0.01, "precision": precision, "layer_decay": 0.5}
    eager, compiled = (engine(Half(), start=LATER, learn={**learn, "compile": c}) for c in ("off", "on"))
    start = eager.updater.steps[0].arena.masters.clone()
    eager.run()
    compiled.run()
    one, two = eager.updater.steps[0].arena.masters, compiled.updater.steps[0].arena.masters
    assert (one - two).norm() < (1e-5 if precision == "fp32" else 0.02) * (one - start).norm()
