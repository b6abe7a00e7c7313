"""Objectives, sources, optimisers, schedules and metrics."""

from __future__ import annotations

import copy
import json
import math
from typing import cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from reinforge.core import batch as batches
from reinforge.core import tree
from reinforge.core.batch import Batch
from reinforge.core.contracts import Clock, Experience, Objective, Source, State
from reinforge.core.ragged import Ragged
from reinforge.core.seeds import random_state, seed_everything
from reinforge.engine.arena import Arena
from reinforge.engine.distributed import World
from reinforge.engine.groups import Group
from reinforge.engine.loop import Engine
from reinforge.engine.optimizers import FlatOptimizer
from reinforge.engine.schedules import Schedule
from reinforge.engine.sparse import Tables
from reinforge.recipe.sections import Learn, Stop
from reinforge.registry import REGISTRY, Component
from tests.contract.examples import components, draws, slice_of
from tests.contract.judged import judged

BATCH = 8
# Learning rates of optimisers whose steps have another scale than most.
RATES = {"adadelta": 10.0, "adagrad": 0.1, "muon": 0.1}


def first_experience(objective: Objective, source: Source, learner: nn.Module) -> Experience:
    """What the source gives first, prepared."""
    source.publish(learner, Clock())
    with torch.no_grad():
        return objective.prepare(learner, cast(Experience, source.next(Clock())))


@pytest.mark.parametrize("component", components("objective"))
def test_objective(component: Component) -> None:
    objective, model, source = slice_of(component)(0, BATCH)
    torch.manual_seed(0)
    learner = objective.build(model)
    assert learner.model is model, "the learner must hold the deployed model as `.model`"
    experience = first_experience(objective, source, learner)
    batch = next(objective.updates(experience, draws(), Clock()))
    assert_equal(batch, next(objective.updates(experience, draws(), Clock())))
    batches.check(batch)
    total, parts = batches.rows(batch), batches.split(batch, 1)
    counts = objective.counts(batch)
    assert all(count.ndim == 0 for count in counts.values())
    for name, count in counts.items():
        summed = torch.stack([objective.counts(part)[name] for part in parts]).sum()
        torch.testing.assert_close(summed.double(), count.double(), msg=f"the count {name!r} isn't additive over rows")

    steps = objective.steps(learner)
    owned = [p for step in steps for p in step.parameters]
    assert len({id(p) for p in owned}) == len(owned), "steps share a parameter"
    for step in steps:
        before = random_state()["torch"]
        loss = step.loss(learner, batch, counts)
        assert torch.equal(before, random_state()["torch"]), "the loss draws random numbers: draw them in `updates`"
        assert set(loss.terms) <= set(counts), "a term has no count"
        assert all(len(value) == total and not value.requires_grad for value in loss.items.values())
        whole = gradients([loss.terms], counts, step.parameters)
        assert any(g.any() for g in whole), "no gradient reaches the step's parameters"
        assert all(len(value) == total and not value.requires_grad for value in loss.carry.values())
        batch = {**batch, **loss.carry}
        parts = batches.split(batch, 1)
        if any(term.coupled for term in loss.terms.values()):
            continue
        split = [step.loss(learner, part, counts) for part in parts]
        for name, term in loss.terms.items():
            summed = torch.stack([part.terms[name].sum.detach() for part in split]).sum()
            torch.testing.assert_close(summed, term.sum.detach(), msg=f"the term {name!r} isn't a sum over rows")
        apart = gradients([part.terms for part in split], counts, step.parameters)
        norm = math.sqrt(sum(float(g.square().sum()) for g in whole))
        far = math.sqrt(sum(float((a - b).square().sum()) for a, b in zip(whole, apart)))
        assert far <= 1e-5 * norm, "gradients depend on how the batch is split"


def gradients(losses: list, counts: dict[str, Tensor], parameters: list[nn.Parameter]) -> list[Tensor]:
    """Gradients of the weighted means, as the engine takes them."""
    total = sum(
        term.weight * term.sum / (1 if term.coupled else max(float(counts[name]), 1e-12))
        for terms in losses
        for name, term in terms.items()
        if term.weight and term.sum.requires_grad
    )
    found = torch.autograd.grad(total, list(parameters), allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found)]


@pytest.mark.parametrize("component", components("objective"))
def test_objective_trains_every_parameter_the_same_each_time(component: Component) -> None:
    build, learners, moved = slice_of(component), [], set()
    for _ in range(2):
        objective, model, source = build(0, BATCH)
        engine = Engine(objective, model, source, learn=Learn(batch=BATCH, threads=1, stop=Stop(updates=6)))
        before = {name: p.detach().clone() for name, p in engine.learner.named_parameters()}
        assert engine.run().clock.updates == 6
        assert engine.updater.skipped == 0
        learners.append({name: value.clone() for name, value in engine.learner.state_dict().items()})
        owned = {id(p) for s in engine.updater.steps for p in s.step.parameters}
        moved |= {n for n, p in engine.learner.named_parameters() if id(p) in owned and not torch.equal(p, before[n])}
        still = {name for name, p in engine.learner.named_parameters() if id(p) in owned} - moved
        assert not still, f"six updates moved everything but {still}"
    assert_equal(*learners)


@pytest.mark.parametrize("component", components("source"))
def test_source_goes_on_where_its_state_was_taken(component: Component) -> None:
    build = slice_of(component)
    objective, model, source = build(0, BATCH)
    learner = objective.build(model)
    source.publish(learner, Clock())
    for _ in range(7):
        experience = source.next(Clock())
        assert isinstance(experience, Experience)
        batches.check(experience.batch)
        assert experience.samples > 0
    state = through_a_checkpoint(source.state_dict())
    # A source may show observations to its policy, which is part of the learner, not of the source.
    then = copy.deepcopy(learner)
    expected = [cast(Experience, source.next(Clock())) for _ in range(9)]
    again = build(0, BATCH)[2]
    again.publish(then, Clock())
    seed_everything(99)
    again.load_state_dict(state)
    if not source.exact:
        pytest.skip("says that it isn't exact")
    for there in expected:
        here = cast(Experience, again.next(Clock()))
        assert_equal(here.batch, there.batch)
        assert (here.samples, here.tokens, here.steps, here.epochs) == (
            there.samples, there.tokens, there.steps, there.epochs,
        )  # fmt: skip


def through_a_checkpoint(state: State) -> State:
    """In the form in which checkpoints store it, and back; nothing is shared with what it was taken from."""
    packed = tree.pack(state)
    skeleton = json.loads(json.dumps(packed.skeleton))
    return tree.unpack(skeleton, {name: tensor.clone() for name, tensor in packed.tensors.items()}, packed.sealed)


def assert_equal(first: Batch, second: Batch) -> None:
    """The same keys and the same bits."""
    assert list(first) == list(second)
    for here, there in zip(batches.leaves(first), batches.leaves(second)):
        if isinstance(here, Ragged):
            assert isinstance(there, Ragged)
            assert torch.equal(here.offsets, there.offsets)
            here, there = here.values, there.values
        np.testing.assert_array_equal(here.numpy(force=True), there.numpy(force=True))


@pytest.mark.parametrize("component", components("optimizer"))
def test_optimizer(component: Component) -> None:
    arenas, optimizers = zip(*(_square(component) for _ in range(2)))
    rate = RATES.get(component.name, 1e-2)
    losses = [_descend(arenas[0], optimizers[0], rate) for _ in range(50)]
    assert losses[-1] < 0.8 * losses[0], "fifty steps hardly lowered a square"
    assert losses == [_descend(arenas[1], optimizers[1], rate) for _ in range(50)]
    third, optimizer = _square(component)
    third.weights.copy_(arenas[0].weights)
    optimizer.load_state_dict(through_a_checkpoint(optimizers[0].state_dict()))
    for _ in range(3):
        one, other = _descend(third, optimizer, rate), _descend(arenas[1], optimizers[1], rate)
        assert one == other, "its state lacks something"


def _square(component: Component) -> tuple[Arena, FlatOptimizer]:
    """Parameters whose squared distance from 2 is to fall, and an optimiser over them."""
    options = component.options()
    parameters = [nn.Parameter(torch.randn(4, 3, generator=draws())), nn.Parameter(torch.ones(3))]
    arena = Arena({p: Group(decays=p.ndim > 1, whole=options.takes_whole("", p.ndim)) for p in parameters})
    return arena, REGISTRY.build("optimizer", options, arena.slices(), RATES.get(component.name, 1e-2))


def _descend(arena: Arena, optimizer: FlatOptimizer, rate: float) -> float:
    arena.zero()
    loss = torch.stack([(p - 2).square().sum() for p in arena.parameters]).sum()
    loss.backward()
    optimizer.step(rate)
    return float(loss.detach())


@pytest.mark.parametrize("component", components("sparse-optimizer"))
def test_sparse_optimizer(component: Component) -> None:
    tables, optimizers = zip(*(_table(component) for _ in range(2)))
    losses = [_look_up(tables[0], optimizers[0], i) for i in range(60)]
    assert losses[-1] < 0.8 * losses[0], "twenty steps of each row hardly lowered a square"
    assert losses == [_look_up(tables[1], optimizers[1], i) for i in range(60)]
    assert torch.equal(tables[0].masters[0][3], torch.ones(2)), "it moved a row that no batch looked up"
    third, optimizer = _table(component)
    third.masters[0].data.copy_(tables[0].masters[0].data)
    optimizer.load_state_dict(through_a_checkpoint(optimizers[0].state_dict()))
    for i in range(3):
        assert _look_up(third, optimizer, i) == _look_up(tables[1], optimizers[1], i), "its state lacks something"


def _table(component: Component) -> tuple[Tables, FlatOptimizer]:
    tables = Tables([nn.Parameter(torch.ones(4, 2))], [Group()], "fp32")
    return tables, REGISTRY.build("sparse-optimizer", component.options(), tables, 1e-2)


def _look_up(tables: Tables, optimizer: FlatOptimizer, row: int) -> float:
    """One of the first three rows, whose squared distance from 2 is to fall."""
    tables.zero()
    index = torch.tensor([row % 3])
    loss = (nn.functional.embedding(index, tables.parameters[0], sparse=True) - 2).square().sum()
    loss.backward()
    tables.collect(World())
    optimizer.step(0.1)
    return float(loss.detach())


@pytest.mark.parametrize("component", components("schedule"))
@pytest.mark.parametrize("warmup", [0, 10])
def test_schedule(component: Component, warmup: int) -> None:
    warmed = "warmup" in component.options.model_fields
    schedule = REGISTRY.build("schedule", component.options(**{"warmup": warmup} if warmed else {}), Stop(updates=100))
    factors = [schedule(Clock(updates=updates)) for updates in range(150)]
    assert all(0 <= factor <= 1 for factor in factors)
    assert factors[0] > 0, "the first update must not have rate 0"
    top = warmup if warmed else factors.index(max(factors))
    assert factors[top] == pytest.approx(1, abs=1e-6)
    assert factors[:top] == sorted(factors[:top])
    assert factors[top:] == sorted(factors[top:], reverse=True)
    assert len(set(factors[100:])) == 1, "a schedule stands still beyond its horizon"


@pytest.mark.parametrize("component", components("schedule"))
def test_schedule_goes_on_where_its_state_was_taken(component: Component) -> None:
    one, two = (REGISTRY.build("schedule", component.options(), Stop(updates=300)) for _ in range(2))
    for i in range(130):
        _show(one, i)
    two.load_state_dict(through_a_checkpoint(one.state_dict()))
    for i in range(130, 300):
        _show(one, i)
        _show(two, i)
        assert one(Clock(updates=i)) == two(Clock(updates=i))


def _show(schedule: Schedule, i: int) -> None:
    value = float(i % 7)
    if schedule.watches != "nothing":
        schedule.observe(value if schedule.watches == "metric" else torch.tensor(value))


@pytest.mark.parametrize("component", components("average"))
def test_average(component: Component) -> None:
    """Within what it has seen, near its end; gone on with from its state; and out of the way again."""
    tensors = [torch.zeros(3), torch.zeros(2, 2)]
    averages = [REGISTRY.build("average", component.options(unit="updates")) for _ in range(2)]
    for average in averages:
        average.attach(tensors, lambda: None)
    for i in range(40):
        for tensor in tensors:
            tensor.fill_(float(i))
        averages[0].update(Clock(updates=i + 1))
        if i == 20:
            averages[1].load_state_dict(through_a_checkpoint(averages[0].state_dict()))
        elif i > 20:
            averages[1].update(Clock(updates=i + 1))
    assert_equal({"a": averages[0].state_dict()["averages"][0]}, {"a": averages[1].state_dict()["averages"][0]})
    with averages[0].applied():
        assert 0 < float(tensors[0][0]) < 39
    assert float(tensors[0][0]) == 39


@pytest.mark.parametrize("component", components("metric"))
def test_metric(component: Component) -> None:
    metric = REGISTRY.build("metric", component.options())
    target, perfect, noisy, opposite = judged(metric.form)
    best, good, worst = metric(perfect, target), metric(noisy, target), metric(opposite, target)
    assert isinstance(best, float)
    assert math.isfinite(best)
    assert math.isfinite(good)
    higher = best > worst
    assert (best >= good >= worst) if higher else (best <= good <= worst)
    order = torch.randperm(40, generator=draws())
    assert metric(noisy[order], target[order]) == pytest.approx(good, rel=1e-6), "a metric can't depend on the order"
