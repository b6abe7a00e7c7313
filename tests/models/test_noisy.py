"""Noisy layers: against weights written out, and what the noise does to a Q-network."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from reinforge.models.noisy import NoisyLinear, NoisyNetwork
from reinforge.models.policy_options import DistributionOptions, QNetworkOptions
from reinforge.models.q_network import QNetwork
from tests.models.test_policy import DISCRETE


def test_a_rows_noise_equals_its_weights_written_out() -> None:
    torch.manual_seed(0)
    layer, x, noise = NoisyLinear(5, 3, 0.5), torch.randn(7, 5), torch.randn(7, 8)
    found = layer(x, noise)
    for row in range(7):
        f = noise[row].sign() * noise[row].abs() ** 0.5
        q, p = f[:5], f[5:]
        weight = layer.weight + layer.weight_deviation * torch.outer(p, q)
        bias = layer.bias + layer.bias_deviation * p
        assert torch.allclose(found[row], weight @ x[row] + bias, atol=1e-6)
    assert torch.equal(layer(x, None), torch.nn.functional.linear(x, layer.weight, layer.bias))


def test_noisy_layers_begin_as_in_the_paper() -> None:
    torch.manual_seed(0)
    layer = NoisyLinear(100, 30, 0.5)
    assert torch.all(layer.weight.abs() <= 0.1)
    assert float(layer.weight.std()) == pytest.approx(0.1 / 3**0.5, rel=0.05), "uniform in +-1/sqrt(inputs)"
    assert torch.all(layer.weight_deviation == 0.05)
    assert torch.all(layer.bias_deviation == 0.05)


def test_each_layer_takes_noise_of_its_own() -> None:
    torch.manual_seed(0)
    network, x = NoisyNetwork((4, 6, 2), "relu", 0.5), torch.randn(1, 4)
    assert network.noise == 4 + 6 + 6 + 2
    base = torch.randn(1, network.noise)
    for place in range(network.noise):
        moved = base.clone()
        moved[0, place] += 1
        hidden = network.layers[0](x, moved[:, :10]) - network.layers[0](x, base[:, :10])
        assert bool(hidden.any()) == (place < 10), "the first layer sees its share alone"


SWITCHES: list[dict[str, Any]] = [
    {},
    {"duelling": True},
    {"noisy": 0.5},
    {"distribution": DistributionOptions(atoms=7)},
    {"distribution": DistributionOptions(kind="categorical", atoms=7, low=-3, high=5)},
    {"duelling": True, "noisy": 0.5, "distribution": DistributionOptions(atoms=4)},
    {"duelling": True, "noisy": 0.5, "distribution": DistributionOptions(kind="categorical", atoms=4)},
]


@pytest.mark.parametrize("switches", SWITCHES, ids=lambda s: "-".join(s) or "plain")
def test_switches_combine_and_actions_go_by_expected_values(switches: dict[str, Any]) -> None:
    torch.manual_seed(0)
    policy = QNetwork(QNetworkOptions(sizes=(8, 6), **switches), DISCRETE)
    x = {"observation": torch.randn(5, 4)}
    outputs, _ = policy(x)
    assert outputs["action"].shape == (5, 3)
    if "logits" in outputs:
        probability = outputs["logits"].softmax(-1)
        returns = torch.linspace(policy.distribution.low, policy.distribution.high, policy.atoms)  # type: ignore[union-attr]
        expected = torch.stack([(probability[:, a] * returns).sum(-1) for a in range(3)], -1)
        assert torch.allclose(outputs["action"], expected, atol=1e-5)
    if "quantiles" in outputs:
        assert torch.allclose(outputs["action"], outputs["quantiles"].sum(-1) / policy.atoms, atol=1e-6)
    assert (policy.parameter_noise > 0) == ("noisy" in switches)
    if policy.parameter_noise:
        noise = torch.randn(5, policy.parameter_noise)
        noisy = policy({**x, "noise": noise})[0]["action"]
        assert not torch.allclose(noisy, outputs["action"])
        assert torch.allclose(policy({**x, "noise": 0 * noise})[0]["action"], outputs["action"], atol=1e-6)
        noise[1:] += 1
        assert torch.allclose(policy({**x, "noise": noise})[0]["action"][0], noisy[0]), "rows have noise of their own"
    stretch = {"observation": torch.randn(2, 3, 4)}
    assert policy(stretch)[0]["action"].shape == (2, 3, 3)


def test_the_duel_is_value_plus_advantage_over_its_mean() -> None:
    torch.manual_seed(0)
    policy = QNetwork(QNetworkOptions(sizes=(8, 6), duelling=True), DISCRETE)
    x = torch.randn(5, 4)
    hidden = torch.relu(policy.network.body.layers[0](x))  # type: ignore[union-attr,index,operator]
    value, advantage = policy.network.value(hidden), policy.network.advantage(hidden)  # type: ignore[operator]
    assert value.shape == (5, 1)
    found = policy({"observation": x})[0]["action"]
    assert torch.allclose(found, value + advantage - advantage.mean(1, keepdim=True), atol=1e-6)
    assert torch.allclose(found.mean(1), value[:, 0], atol=1e-6)
