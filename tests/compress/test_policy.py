"""Policies made smaller: distilled from what they see themselves, then in 8 bits, then on a device without torch."""

from __future__ import annotations

from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from reinforge.bundle.loading import load
from reinforge.compress.compress import compress
from reinforge.compress.matching import ROUNDS, _scored, match
from reinforge.core.batch import Batch
from reinforge.edge.runner import Runner
from reinforge.export.export import export
from reinforge.schema.signature import Input, Output, Signature
from reinforge.workflow.train import train


@pytest.mark.slow
def test_a_policy_is_distilled_compressed_and_exported_and_still_balances(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    run = train("cartpole-ppo", output=tmp_path / "run")
    options = {"sizes": [24]}
    distilled = compress(
        run.folder, "distill", tmp_path / "small", goal="size", options=options, updates=600, episodes=50
    )
    assert distilled.before.quality == distilled.after.quality == 500
    assert distilled.smaller > 10
    packed = compress(tmp_path / "small", "int8-weight", tmp_path / "packed", goal="size", episodes=50)
    assert packed.after.quality >= 495
    # Each comes from the one before.
    assert load(tmp_path / "packed").parents == (load(tmp_path / "small").digest,)
    assert load(tmp_path / "small").parents == (load(run.bundle_path).digest,)
    assert export(tmp_path / "packed", "onnx", tmp_path / "onnx").measured["parity"] < 1e-4
    runner, environment = Runner(tmp_path / "onnx"), gym.make("CartPole-v1")
    for seed in range(3):
        observation, _info = environment.reset(seed=1000 + seed)
        steps, ended = 0, False
        while not ended:
            (action,) = runner.predict([{"observation": observation.tolist()}])
            observation, _reward, failed, truncated, _info = environment.step(action["action"]["action"])
            steps, ended = steps + 1, failed or truncated
        assert steps == 500


@pytest.mark.slow
def test_a_pruned_policy_is_half_as_large_and_still_balances(tmp_path: Path) -> None:
    run = train("cartpole-ppo", output=tmp_path / "run")
    found = compress(run.folder, "prune", tmp_path / "small", goal="size", updates=600, episodes=50)
    assert found.after.quality >= 495
    assert found.smaller >= 2


def test_scores_are_compared_by_their_differences_whatever_their_size() -> None:
    torch.manual_seed(0)
    wanted, found = torch.randn(32, 4), torch.randn(32, 4)
    expected = _scored(found, wanted)
    assert float(_scored(wanted, wanted)) == pytest.approx(0, abs=1e-7)
    torch.testing.assert_close(_scored(found + 100, wanted - 7), expected, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(_scored(found * 50, wanted * 50), expected)
    # Against the definition: at a temperature at which the usual difference is 1.
    usual = float((wanted.amax(-1) - wanted.mean(-1)).median())
    p, q = (torch.softmax(scores.double() / usual, -1) for scores in (wanted, found))
    assert float(expected) == pytest.approx(float((p * (p / q).log()).sum(-1).mean()), rel=1e-5)


class Line(nn.Module):
    """A network of one weight, that keeps what it was shown."""

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([[weight, -weight]]))
        self.seen: list[Tensor] = []

    def forward(self, inputs: Batch) -> tuple[dict[str, Tensor], None]:
        given = inputs["x"]
        assert isinstance(given, Tensor)
        self.seen.append(given)
        return {"action": given @ self.weight}, None


def test_rows_that_the_student_meets_are_added_on_the_way() -> None:
    student, asked = Line(0.0), list[tuple[int, bool]]()
    signature = Signature(
        inputs={"x": Input(form="box", shape=(1,))}, outputs={"action": Output(form="discrete", size=2)}
    )

    def more(network: nn.Module, number: int) -> Batch:
        assert network is student
        asked.append((number, network.training))
        return {"x": torch.full((50, 1), 10.0 + number)}

    match(student, Line(2.0), {"x": torch.ones(50, 1)}, signature, 100, 0, more, rate=1e-2)
    assert asked == [(number, False) for number in range(1, ROUNDS + 1)]
    seen = np.unique(torch.cat(student.seen[-20:]).numpy())
    assert seen.tolist() == [1.0, 11.0, 12.0, 13.0, 14.0]
    assert student.seen[0].unique().tolist() == [1.0]
    assert not student.training
