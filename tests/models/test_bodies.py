"""Bodies written out by hand."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from reinforge.models.bodies import ResidualMLP
from reinforge.models.options import ResidualMLPOptions


@pytest.mark.parametrize("hidden", [None, 7])
def test_residual_blocks_by_hand(hidden: int | None) -> None:
    """Gorishniy et al., section 3.2: x + Linear(ReLU(Linear(Norm(x)))), then ReLU(Norm(x))."""
    body = ResidualMLP(ResidualMLPOptions(width=6, blocks=2, hidden=hidden, activation="relu", dropout=0.5), 4).eval()
    weights = {name: torch.randn_like(value) for name, value in body.state_dict().items()}
    body.load_state_dict(weights)
    features = torch.randn(5, 4)

    def linear(name: str, x: torch.Tensor) -> torch.Tensor:
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def norm(place: int, x: torch.Tensor) -> torch.Tensor:
        middle, spread = x.mean(1, keepdim=True), x.var(1, correction=0, keepdim=True)
        return (x - middle) / (spread + 1e-5).sqrt() * weights[f"norms.{place}.weight"] + weights[f"norms.{place}.bias"]

    x = linear("first", features)
    for block in range(2):
        x = x + linear(f"downs.{block}", functional.relu(linear(f"ups.{block}", norm(block, x))))
    found, state = body(features)
    assert state is None
    assert weights["ups.0.weight"].shape == (hidden or 12, 6)
    torch.testing.assert_close(found, functional.relu(norm(2, x)))
    # A row's result is its own.
    torch.testing.assert_close(body(features[2:3])[0], found[2:3])


def test_residual_blocks_drop_in_training_alone() -> None:
    body = ResidualMLP(ResidualMLPOptions(width=6, blocks=1, dropout=0.5), 4)
    features = torch.randn(5, 4)
    assert not torch.equal(body(features)[0], body(features)[0])
    body.eval()
    assert torch.equal(body(features)[0], body(features)[0])
