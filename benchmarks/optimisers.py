"""All optimisers on four shipped recipes, and schedules and averages on the last of them, each at the best of a few
learning rates.

    python -m benchmarks.optimisers [--recipes linear-regression penguins digits char-lm]

Runs are short (PLANS), so that speed of learning shows. Each tries several multiples of its usual rate; the one whose
mean validation loss over seeds is least is reported, with the lowest and the highest. Data, batch and clipping are the
recipe's own, patience and goals left out; char-lm has a smaller model, 2 layers of 64. The peer of a row is AdamW, the
default, or the constant rate. Last, what a step costs in processor time and memory, and what an update costs by the
size of a table, with dense and with sparse gradients.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import statistics
import sys
import time
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from reinforge.core import seeds
from reinforge.engine.arena import Arena
from reinforge.engine.groups import Group
from reinforge.engine.loop import Engine
from reinforge.errors import TrainingDiverged
from reinforge.models.options import ComposedOptions, EmbeddingOptions, IdentityOptions
from reinforge.objectives.options import SupervisedOptions
from reinforge.recipe.sections import Learn, Stop
from reinforge.registry import REGISTRY
from reinforge.schema.signature import Input, Output, Signature
from reinforge.sources.options import LoaderOptions
from reinforge.workflow.tasks.assemble import assemble
from reinforge.workflow.train import resolve


class Plan(NamedTuple):
    """How a recipe is run: for how long, with how many seeds, at which multiples of the usual rates, and what else is
    changed of it."""

    updates: int
    seeds: int
    factors: tuple[float, ...]
    overrides: tuple[str, ...] = ()
    changes: Mapping[str, Any] = MappingProxyType({})


PLANS = {
    "linear-regression": Plan(100, 5, (1.0, 3.0, 10.0, 30.0, 100.0)),
    "penguins": Plan(40, 5, (1 / 3, 1.0, 3.0, 10.0, 30.0)),
    "digits": Plan(60, 2, (1 / 3, 1.0, 3.0)),
    "char-lm": Plan(
        250,
        2,
        (1 / 3, 1.0, 3.0),
        ("model.layers=2", "model.width=64"),
        {"schedule": {"kind": "cosine", "warmup": 20, "floor": 0.1}},
    ),
}
# The rate that each is usually begun with.
RATES = {
    "sgd": 0.1, "momentum": 0.03, "rmsprop": 1e-3, "adagrad": 0.03, "adadelta": 3.0, "adam": 3e-3, "adamw": 3e-3,
    "nadam": 3e-3, "radam": 3e-3, "muon": 3e-3,
}  # fmt: skip
SETTINGS: dict[str, dict[str, Any]] = {"momentum": {"kind": "sgd", "momentum": 0.9, "nesterov": True}}
COURSES: dict[str, dict[str, Any]] = {
    "constant": {},
    "linear": {"schedule": {"kind": "linear"}},
    "cosine, warm-up": {"schedule": {"kind": "cosine", "warmup": 20}},
    "step": {"schedule": {"kind": "step"}},
    "one-cycle": {"schedule": {"kind": "one-cycle"}},
    "adaptive": {"schedule": {"kind": "adaptive", "window": 10}},
    "constant, ema": {"average": {"kind": "ema", "decay": 0.97}},
    "constant, swa": {"average": {"kind": "swa", "unit": "updates", "start": 100}},
}


class Row(NamedTuple):
    name: str
    rate: float
    losses: list[float]

    @property
    def loss(self) -> float:
        return statistics.fmean(loss if loss == loss else math.inf for loss in self.losses)


def train(recipe: str, changes: Mapping[str, Any], seed: int) -> float:
    """The validation loss after one run."""
    resolved = resolve(recipe, [f"seed={seed}", *PLANS[recipe].overrides])
    stop = Stop(updates=PLANS[recipe].updates)
    learn = Learn.model_validate({**resolved.learn.model_dump(), **changes, "stop": stop, "compile": "off"})
    seeds.seed_everything(seed, "model")
    task = assemble(resolved)
    engine = Engine(task.objective, task.model, task.source, learn=learn, seed=seed, evaluator=task.evaluator)
    try:
        return engine.run().metrics["loss"]
    except TrainingDiverged:
        return math.inf


def tensors(state: Any) -> list[Tensor]:
    """All tensors in a state tree."""
    if isinstance(state, Tensor):
        return [state]
    return [t for value in state.values() for t in tensors(value)] if isinstance(state, dict) else []


def best(recipe: str, name: str, rate: float, changes: Mapping[str, Any]) -> Row:
    """The row of the best rate."""
    plan = PLANS[recipe]
    tried = []
    for factor in plan.factors:
        lr = rate * factor
        losses = [train(recipe, {**plan.changes, **changes, "lr": lr}, seed) for seed in range(plan.seeds)]
        tried.append(Row(name, lr, losses))
    found = min(tried, key=lambda row: row.loss)
    print(f"{recipe} {name}: {found.loss:.4g} at {found.rate:.2g}", file=sys.stderr)
    return found


def table(recipe: str, rows: list[Row], default: str) -> list[dict[str, Any]]:
    """Print the rows, best first, and return them for the last line."""
    peer = next(row for row in rows if row.name == default)
    print(f"\n{recipe}, {PLANS[recipe].updates} updates, {PLANS[recipe].seeds} seeds")
    print(f"{'':16} {'rate':>8} {'validation loss':>16} {'lowest':>9} {'highest':>9}")
    for row in sorted(rows, key=lambda row: row.loss):
        print(f"{row.name:16} {row.rate:8.2g} {row.loss:16.4g} {min(row.losses):9.4g} {max(row.losses):9.4g}")
    return [
        {"name": f"{recipe}/{row.name}", "ratio": round(row.loss / peer.loss, 4), "ours": round(row.loss, 6),
         "peer": round(peer.loss, 6), "unit": "validation loss"}
        for row in rows if row is not peer
    ]  # fmt: skip


def costs() -> list[dict[str, Any]]:
    """Print and return what a step of each costs for a million weights, in one matrix."""
    print(f"\n{'a million weights':16} {'ms':>8} {'bytes/weight':>13}")
    found = {}
    for name in RATES:
        setting = SETTINGS.get(name, {"kind": name})
        options: Any = REGISTRY.find("optimizer", setting["kind"]).options.model_validate(setting)
        matrix = nn.Parameter(torch.randn(1000, 1000) / 30)
        arena = Arena({matrix: Group(whole=options.takes_whole("hidden", 2))})
        optimizer = REGISTRY.build("optimizer", options, arena.slices(), 1e-3)
        arena.gradients.normal_()
        times = []
        for _ in range(30):
            began = time.thread_time()
            optimizer.step(1e-3)
            times.append(time.thread_time() - began)
        held = sum(value.nbytes for value in tensors(optimizer.state_dict()) if value.ndim) / arena.masters.numel()
        found[name] = min(times) * 1e3
        print(f"{name:17} {found[name]:8.2f} {held:13.1f}")
    return [
        {"name": f"step/{name}", "ratio": round(cost / found["adamw"], 3), "ours": round(cost, 3),
         "peer": round(found["adamw"], 3), "unit": "ms"}
        for name, cost in found.items() if name != "adamw"
    ]  # fmt: skip


def lookups(rows: int, sparse: bool, updates: int) -> float:
    """Seconds of so many updates, of 256 rows, of a linear model over a category of `rows` values, 16 numbers each."""
    signature = Signature(
        inputs={"categories": Input(form="categories", sizes=(rows,))}, outputs={"y": Output(form="number", size=1)}
    )
    encoders = {"categories": EmbeddingOptions(size=16, sparse=sparse)}
    model = REGISTRY.build("model", ComposedOptions(encoders=encoders, body=IdentityOptions()), signature)
    g = torch.Generator().manual_seed(0)
    data = {
        "inputs": {"categories": torch.randint(rows, (5120, 1), generator=g)},
        "targets": {"y": torch.randn(5120, 1, generator=g)},
    }
    source = REGISTRY.build("source", LoaderOptions(), data, batch=256, seed=0)
    objective = REGISTRY.build("objective", SupervisedOptions(), signature)
    learn = Learn(batch=256, stop=Stop(updates=updates), compile="off")
    return Engine(objective, model, source, learn=learn).run().clock.seconds


def per_update(rows: int, sparse: bool) -> float:
    """Microseconds of an update after the first few, in which moments are made."""
    few, many = (min(lookups(rows, sparse, updates) for _ in range(3)) for updates in (5, 35))
    return (many - few) / 30 * 1e6


def table_sizes() -> list[dict[str, Any]]:
    """Print and return what an update costs by the size of a table, with dense and with sparse gradients."""
    print(f"\n{'table rows':>12} {'dense us':>10} {'sparse us':>10}")
    found = []
    for rows in (1_000, 10_000, 100_000, 1_000_000):
        dense, sparse = per_update(rows, False), per_update(rows, True)
        print(f"{rows:12,} {dense:10.0f} {sparse:10.0f}")
        found.append(
            {"name": f"table/{rows}", "ratio": round(sparse / dense, 3), "ours": round(sparse, 1),
             "peer": round(dense, 1), "unit": "us/update"}
        )  # fmt: skip
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipes", nargs="+", choices=list(PLANS), default=list(PLANS))
    given = parser.parse_args()
    torch.set_num_threads(1)
    missing = {component.name for component in REGISTRY.all("optimizer")} - set(RATES)
    assert not missing, f"give the usual rate of {missing}"
    print("python -m benchmarks.optimisers " + " ".join(sys.argv[1:]))
    print(f"torch {torch.__version__}, Python {platform.python_version()}, one thread")
    found = []
    for recipe in given.recipes:
        optimizers = {name: {"optimizer": SETTINGS.get(name, {"kind": name})} for name in RATES}
        rows = [best(recipe, name, RATES[name], changes) for name, changes in optimizers.items()]
        found += table(recipe, rows, "adamw")
    recipe, adamw = given.recipes[-1], {"optimizer": {"kind": "adamw"}, "schedule": None}
    courses = [best(recipe, name, RATES["adamw"], {**adamw, **changes}) for name, changes in COURSES.items()]
    found += table(recipe, courses, "constant")
    found += costs()
    found += table_sizes()
    print(json.dumps({"name": "optimisers", "rows": found}))


if __name__ == "__main__":
    main()
