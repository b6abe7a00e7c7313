import pytest
import torch
from torch import nn

from reinforge.bundle.bounds import bounded
from reinforge.errors import BundleError

HUGE = 1 << 36


@pytest.mark.parametrize(
    "ask",
    [
        lambda: torch.empty(HUGE),
        lambda: torch.empty(1 << 18, 1 << 18),
        lambda: torch.zeros((1 << 18, 1 << 18)),
        lambda: torch.ones(size=(HUGE,)),
        lambda: torch.full((HUGE,), 0.5),
        lambda: torch.randn(HUGE),
        lambda: torch.randint(0, 2, (HUGE,)),
        lambda: torch.arange(HUGE),
        lambda: torch.arange(5, HUGE),
        lambda: torch.arange(0, 1, 1e-12),
        lambda: torch.linspace(0, 1, HUGE),
        lambda: torch.eye(1 << 18),
        lambda: torch.ones(3).new_zeros(HUGE),
        lambda: torch.ones(3).repeat(HUGE),
        lambda: torch.arange(1 << 20)[:, None] * torch.arange(1 << 20),
        lambda: nn.Linear(1 << 18, 1 << 18),
        lambda: nn.Embedding(HUGE, 1),
        lambda: nn.Sequential(*(nn.Identity() for _ in range(5_000))),
        lambda: nn.Sequential(*(nn.Linear(512, 512) for _ in range(500))),
    ],
)
def test_what_grows_beyond_its_weights_is_stopped(ask):
    with pytest.raises(BundleError, match="larger"), bounded(10, 1000):
        ask()


def test_honest_networks_are_built_as_ever():
    def build():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Embedding(100, 16), nn.LSTM(16, 16), nn.TransformerEncoderLayer(16, 2), nn.Linear(16, 3)
        )

    plain = build()
    size = sum(p.nbytes for p in plain.parameters())
    with bounded(len(list(plain.parameters())), size):
        again = build()
        torch.full((3,), 10**9)
        torch.arange(10**12, 10**12 + 5)
    for one, two in zip(plain.parameters(), again.parameters()):
        assert torch.equal(one, two)


def test_other_threads_and_later_building_are_left_alone():
    with bounded(0, 0):
        pass
    nn.Sequential(*(nn.Identity() for _ in range(5_000)))
