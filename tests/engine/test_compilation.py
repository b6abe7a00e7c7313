"""A step's loss, gradients and their sum captured as one graph give what the eager engine gives, and only where the
machine can compile."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from reinforge.core.batch import Batch
from reinforge.core.contracts import Loss, Step, Term
from reinforge.engine import compilation
from reinforge.engine.checkpoint import CheckpointStore
from reinforge.engine.options import SGDOptions
from reinforge.errors import RecipeError
from reinforge.recipe.sections import Learn, Stop
from tests.engine.problems import Learner, Rows, Squares, engine, rows
from tests.slices.catalogue import SLICES
from tests.slices.states import differences

CPU = torch.device("cpu")


@pytest.fixture
def captured(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same graphs, captured and differentiated, but run by torch's own kernels: seconds instead of minutes."""
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))


class Parts(Squares):
    """Two steps that own a part each: the first with two weighted terms and one that only measures, the second with
    a term that reaches the first step's weights too. `idle` is in no loss."""

    def build(self, model: nn.Module) -> nn.Module:
        learner = Learner(model)
        learner.idle = nn.Parameter(torch.ones(3))
        learner.second = nn.Linear(1, 1)
        return learner

    def steps(self, learner: nn.Module) -> Sequence[Step]:
        model, second = learner.get_submodule("model"), learner.get_submodule("second")
        own = [*model.parameters(), learner.get_parameter("idle")]
        return [Step("first", own, self.loss), Step("second", list(second.parameters()), self.other, every=2)]

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        count = super().counts(batch)["squares"]
        return {"squares": count, "size": count * 2, "measured": count, "other": count, "nothing": count * 0}

    def loss(self, learner: nn.Module, batch: Batch, counts: Mapping[str, Tensor]) -> Loss:
        terms, items, _ = super().loss(learner, batch, counts)
        size = learner.model(batch["x"]).square().sum()  # type: ignore[operator]
        more = {"size": Term(size, 0.5), "measured": Term(size * 3, 0.0), "nothing": Term(size * 0, 2.0)}
        return Loss({**terms, **more}, items)

    def other(self, learner: nn.Module, batch: Batch, counts: Mapping[str, Tensor]) -> Loss:
        seen = learner.model(batch["x"])  # type: ignore[operator]
        seen = learner.second(seen.to(learner.second.weight.dtype)).float()  # type: ignore[operator, union-attr]
        return Loss({"other": Term((seen[:, 0] - batch["y"]).square().sum())})


def _compare(one: Any, two: Any, tolerance: float) -> None:
    for mine, theirs in zip(one.updater.steps, two.updater.steps, strict=True):
        assert mine.gradients is None
        assert theirs.gradients is not None
        start = mine.arena.full_gradients
        torch.testing.assert_close(theirs.arena.full_gradients, start, rtol=tolerance, atol=tolerance)
        torch.testing.assert_close(theirs.arena.masters, mine.arena.masters, rtol=tolerance, atol=tolerance)
        torch.testing.assert_close(theirs.window, mine.window, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("microbatch", [None, 3])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.usefixtures("captured")
def test_several_terms_steps_and_microbatches(microbatch: int | None, precision: str) -> None:
    def trained(compiled: str) -> Any:
        class Same(nn.Sequential):
            def forward(self, x: Tensor) -> Tensor:
                return super().forward(x.to(self[0].weight.dtype)).float()

        torch.manual_seed(0)
        learn = {"optimizer": SGDOptions(), "lr": 0.02, "microbatch": microbatch, "precision": precision}
        one = engine(
            Same(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1)), objective=Parts(), source=Rows(rows(), 8), updates=5,
            learn={**learn, "compile": compiled},
        )  # fmt: skip
        one.run()
        return one

    _compare(trained("off"), trained("on"), 1e-5 if precision == "fp32" else 1e-2)


@pytest.mark.usefixtures("captured")
def test_what_is_coupled_is_divided_by_nothing_and_not_split() -> None:
    class Half(Squares):
        def counts(self, batch: Batch) -> dict[str, Tensor]:
            return {"squares": torch.tensor(7)}

    learn = {"optimizer": SGDOptions(), "lr": 1e-3}
    eager = engine(objective=Half(coupled=True), updates=3, learn={**learn, "compile": "off"})
    graph = engine(objective=Half(coupled=True), updates=3, learn={**learn, "compile": "on"})
    eager.run()
    graph.run()
    _compare(eager, graph, 1e-5)
    with pytest.raises(Exception, match="can't be split"):
        engine(objective=Half(coupled=True), learn={"compile": "on", "microbatch": 4}).run()


@pytest.mark.slow
@pytest.mark.parametrize("name", SLICES)
@pytest.mark.usefixtures("captured")
def test_every_slice_captured_in_parts_equals_eager(name: str) -> None:
    learn = {"optimizer": SGDOptions(), "lr": 1e-2, "microbatch": 3}
    eager = SLICES[name].engine(learn={**learn, "compile": "off"}, updates=3)
    graph = SLICES[name].engine(learn={**learn, "compile": "on"}, updates=3)
    eager.run()
    graph.run()
    _compare(eager, graph, 2e-5)


@pytest.mark.slow
def test_a_compiled_run_resumes_exactly_across_batches_of_two_lengths(tmp_path: Path) -> None:
    """120 rows by 32: the last batch of an epoch is shorter, and a graph for any length replaces the first one."""

    def made(**keywords: Any) -> Any:
        return SLICES["supervised"].engine(batch=32, learn={"compile": "on"}, updates=12, **keywords)

    whole = made(store=CheckpointStore(tmp_path, keep=99))
    whole.checkpoint = whole.checkpoint.model_copy(update={"updates": 1})
    whole.run()
    for at in (3, 4, 9):
        part = made()
        part.load_state_dict(CheckpointStore(tmp_path).load(tmp_path / f"{at:012d}"))
        part.run()
        assert not list(differences(whole.state_dict(), part.state_dict()))


def test_without_a_compiler_auto_does_without_and_on_says_so() -> None:
    from torch._inductor import config

    learner = nn.Linear(1000, 1000)
    long = Learn(compile="auto", stop=Stop(updates=10**9))
    assert compilation.pays(long, learner, CPU) == (compilation.lacks(CPU) is None)
    with config.patch({"cpp.cxx": ("/nowhere/g++",)}):
        assert not compilation.pays(long, learner, CPU)
        with pytest.raises(RecipeError, match=r"learn.compile: compiling needs g\+\+"):
            compilation.pays(Learn(compile="on"), learner, CPU)
    assert not compilation.pays(Learn(compile="off"), learner, CPU)


def test_auto_compiles_long_runs_alone() -> None:
    learner = nn.Linear(1000, 1000)
    assert not compilation.pays(Learn(compile="auto", stop=Stop(updates=100)), learner, CPU)
    assert not compilation.pays(Learn(compile="auto", stop=Stop(epochs=1000)), learner, CPU)
