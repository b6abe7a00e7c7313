"""Several turns from a recipe: an interaction of one's own by --use, resumed exactly, measured as it was trained."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import reinforge
from reinforge.bundle.loading import load
from reinforge.engine.loop import Engine
from reinforge.errors import RecipeError
from reinforge.recipe import load as load_recipe
from reinforge.registry import REGISTRY
from reinforge.workflow.evaluate import evaluate
from tests.bundle import made
from tests.workflow.test_questions import RECIPE, ROWS

MINE = '''
from typing import Literal

from reinforge import Options, register


class Insisting:
    """Asks again until an `a` is written; pays by how soon it was."""

    stop, role = (), "user"

    def __init__(self, options):
        self.again = options.again

    def begin(self, prompt, seed):
        return Episode(self.again)


class Episode:
    def __init__(self, again):
        self.again, self.turn, self.reward = again, 0, 0.0

    def answer(self, written):
        self.turn += 1
        if "a" not in written:
            return self.again
        self.reward = 1.0 / self.turn


@register("interaction", Insisting)
class InsistingOptions(Options):
    """Asks again."""

    kind: Literal["insisting"] = "insisting"
    again: str = "an a, please"
'''


@pytest.fixture
def mine(tmp_path: Path) -> object:
    path = tmp_path / "mine.py"
    path.write_text(MINE)
    before = dict(REGISTRY._components)
    yield path
    REGISTRY._components.clear()
    REGISTRY._components.update(before)


def recipe(**data: object) -> dict[str, object]:
    return {
        **RECIPE, "model": {"kind": "decoder", "context": 160},
        "data": {**RECIPE["data"], "interaction": {"kind": "insisting"}, "turns": 3, **data},  # type: ignore[dict-item]
        "learn": {"batch": 32, "lr": 1e-2, "stop": {"updates": 8}, "threads": 1},
    }  # fmt: skip


def test_it_trains_resumes_and_is_measured_with_it(
    mine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    bundle = made.chat_bundle(tmp_path / "start", context=160)
    run = reinforge.train(recipe(), data=ROWS, start=tmp_path / "start", output=tmp_path / "run", use=[mine])
    assert run.finished
    log = [row for row in run.log() if "model/reward" in row]
    assert all(row["model/mismatch"] < 1e-4 for row in log)
    # Interrupted once it has saved at update 4.
    save = Engine.save

    def interrupted(self: Engine) -> None:
        save(self)
        raise KeyboardInterrupt

    halves = {**recipe(), "checkpoint": {"seconds": None, "updates": 4}}
    with monkeypatch.context() as patched:
        patched.setattr(Engine, "save", interrupted)
        stopped = reinforge.train(halves, data=ROWS, start=tmp_path / "start", output=tmp_path / "half", use=[mine])
    assert stopped.status["state"] == "interrupted"
    assert len([row for row in stopped.log() if "model/reward" in row]) == 4
    resumed = reinforge.train(resume=tmp_path / "half", data=ROWS, use=[mine])
    assert resumed.finished
    assert [row["model/reward"] for row in resumed.log() if "model/reward" in row] == [
        row["model/reward"] for row in log
    ]
    straight, other = (load(each.bundle_path).model.state_dict() for each in (run, resumed))
    assert straight.keys() == bundle.model.state_dict().keys()
    assert all(torch.equal(tensor, other[name]) for name, tensor in straight.items())
    found = evaluate(run, data=ROWS, use=[mine])
    assert 0 <= found["reward"] <= 1


def test_an_interaction_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"(?s)insistin.*calculator"):
        load_recipe(recipe(interaction={"kind": "insistin"}))
