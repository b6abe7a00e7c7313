"""Returns and advantages against plain recursion, with every mix of endings."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reinforge.objectives.returns import discounted, generalised_advantages


def _advantage(t: int, rows: dict[str, list[float]], gamma: float, lam: float) -> float:
    """The definition: sum over l of (gamma lambda)^l delta_{t+l}, up to the end of the episode or of the rollout."""
    total, weight = 0.0, 1.0
    for s in range(t, len(rows["reward"])):
        after = 0.0 if rows["terminated"][s] else gamma * rows["next"][s]
        total += weight * (rows["reward"][s] + after - rows["value"][s])
        if rows["terminated"][s] or rows["truncated"][s]:
            break
        weight *= gamma * lam
    return total


@pytest.mark.parametrize("ends", list(itertools.product(["", "terminated", "truncated"], repeat=4)))
def test_terminated_cuts_the_bootstrap_and_done_cuts_the_lambda_recursion(ends: tuple[str, ...]) -> None:
    generator = torch.Generator().manual_seed(len("".join(ends)))
    gamma, lam = 0.9, 0.8
    rows = {name: torch.randn(1, 4, generator=generator).double() for name in ("reward", "value", "next")}
    flags = {name: torch.tensor([[end == name for end in ends]]) for name in ("terminated", "truncated")}
    found = generalised_advantages(
        rows["reward"], rows["value"], rows["next"], flags["terminated"], flags["truncated"],
        torch.ones(1, 4, dtype=torch.bool), gamma, lam,
    )  # fmt: skip
    plain = {name: value[0].tolist() for name, value in {**rows, **flags}.items()}
    assert found[0].tolist() == pytest.approx([_advantage(t, plain, gamma, lam) for t in range(4)])


def test_a_step_that_only_begins_an_episode_counts_nothing() -> None:
    reward = torch.tensor([[1.0, 99.0, 1.0]])
    value, following = torch.tensor([[0.5, 77.0, 0.25]]), torch.tensor([[55.0, 66.0, 2.0]])
    terminated = torch.tensor([[True, False, False]])
    valid = torch.tensor([[True, False, True]])
    found = generalised_advantages(reward, value, following, terminated, torch.zeros_like(valid), valid, 0.9, 0.95)
    assert found[0].tolist() == pytest.approx([0.5, 0.0, 1 + 0.9 * 2 - 0.25])


def test_lambda_one_is_the_discounted_return_and_lambda_zero_the_error() -> None:
    reward, value = torch.ones(1, 5), torch.full((1, 5), 3.0)
    following, no = torch.full((1, 5), 3.0), torch.zeros(1, 5, dtype=torch.bool)
    one = generalised_advantages(reward, value, following, no, no, ~no, 0.9, 1.0)
    assert float(one[0, 0]) == pytest.approx(sum(0.9**i for i in range(5)) + 0.9**5 * 3 - 3)
    zero = generalised_advantages(reward, value, following, no, no, ~no, 0.9, 0.0)
    assert zero[0].tolist() == pytest.approx([1 + 0.9 * 3 - 3] * 5)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-5, 5), min_size=1, max_size=6), st.booleans(), st.floats(0.5, 1.0), st.integers(0, 4))
def test_n_step_sums_bootstrap_by_gamma_to_the_power_of_their_length(
    rewards: list[float], terminated: bool, gamma: float, padding: int
) -> None:
    row = torch.tensor([rewards + [0.0] * padding])
    reward, discount = discounted(row, torch.tensor([len(rewards)]), torch.tensor([terminated]), gamma)
    assert float(reward) == pytest.approx(sum(gamma**i * r for i, r in enumerate(rewards)), abs=1e-4)
    assert float(discount) == pytest.approx(0.0 if terminated else gamma ** len(rewards), rel=1e-5)
