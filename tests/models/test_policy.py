"""Policies: distributions against torch's own, normaliser, action scaling, initial weights, memory."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import AffineTransform, Categorical, Normal, TanhTransform, TransformedDistribution

from reinforge.errors import ReinforgeError
from reinforge.models import distributions
from reinforge.models.actor_critic import ActorCritic
from reinforge.models.normaliser import Normaliser
from reinforge.models.policy import decode
from reinforge.models.policy_options import ActorCriticOptions, MemoryOptions, QNetworkOptions, SquashedGaussianOptions
from reinforge.models.q_network import QNetwork
from reinforge.models.squashed_gaussian import SquashedGaussian
from reinforge.registry import REGISTRY
from reinforge.schema.signature import Input, Output, Signature
from reinforge.sources.collector import moments

DISCRETE = Signature(
    inputs={"observation": Input(form="box", shape=(4,))}, outputs={"action": Output(form="discrete", size=3)}
)
CONTINUOUS = Signature(
    inputs={"observation": Input(form="box", shape=(4,))},
    outputs={"action": Output(form="continuous", size=2, low=(-2.0, 0.0), high=(2.0, 10.0))},
)


def test_tanh_gaussian_log_prob_equals_the_change_of_variables() -> None:
    g = torch.Generator().manual_seed(0)
    mean, log_std, latent = (torch.randn(50, 3, generator=g).double() for _ in range(3))
    base = Normal(mean, log_std.exp())
    exact = TransformedDistribution(base, [TanhTransform(cache_size=1)])
    expected = exact.log_prob(torch.tanh(latent)).sum(-1)
    assert torch.allclose(distributions.tanh_gaussian_log_prob(mean, log_std, latent), expected, atol=1e-7)


def test_tanh_gaussian_log_prob_is_exact_where_tanh_saturates() -> None:
    latent = torch.tensor([[20.0], [-25.0], [0.0]])
    zero = torch.zeros(3, 1)
    found = distributions.tanh_gaussian_log_prob(zero, zero, latent)
    x = latent[:, 0].double()
    # 1 - tanh(x)^2 = 4 e^(-2|x|) / (1 + e^(-2|x|))^2, in double
    expected = Normal(0.0, 1.0).log_prob(x) - (math.log(4) - 2 * x.abs() - 2 * torch.log1p(torch.exp(-2 * x.abs())))
    assert torch.isfinite(found).all()
    assert torch.allclose(found.double(), expected, rtol=1e-6)


def test_scaling_is_not_in_the_log_prob() -> None:
    mean, log_std, latent = torch.zeros(1, 1), torch.zeros(1, 1), torch.full((1, 1), 0.3)
    ours = distributions.tanh_gaussian_log_prob(mean, log_std, latent)
    base = Normal(mean, log_std.exp())
    scaled = TransformedDistribution(base, [TanhTransform(cache_size=1), AffineTransform(0, 5)])
    assert torch.allclose(ours - math.log(5), scaled.log_prob(5 * torch.tanh(latent)).sum(-1), atol=1e-6)


def test_gaussian_and_categorical_agree_with_torch() -> None:
    g = torch.Generator().manual_seed(1)
    mean, log_std, value = (torch.randn(20, 3, generator=g) for _ in range(3))
    normal = Normal(mean, log_std.exp())
    found = distributions.gaussian_log_prob(mean, log_std, value)
    assert torch.allclose(found, normal.log_prob(value).sum(-1), atol=1e-4)
    assert torch.allclose(distributions.gaussian_entropy(log_std), normal.entropy().sum(-1), atol=1e-5)
    action = torch.randint(3, (20,), generator=g)
    categorical = Categorical(logits=mean)
    assert torch.allclose(distributions.categorical_log_prob(mean, action), categorical.log_prob(action), atol=1e-6)
    assert torch.allclose(distributions.categorical_entropy(mean), categorical.entropy(), atol=1e-6)


def test_gumbel_samples_follow_the_logits() -> None:
    logits = torch.tensor([0.0, 1.0, -1.0])
    signature = DISCRETE
    policy = REGISTRY.build("model", ActorCriticOptions(), signature)
    noise = policy.noise(np.random.default_rng(0), 50_000)
    assert noise.shape == (50_000, 3)
    found = distributions.categorical_sample(logits.expand(50_000, 3), noise).bincount(minlength=3) / 50_000
    assert torch.allclose(found, logits.softmax(0), atol=0.01)

    class Zeros:
        def random(self, shape: tuple[int, ...]) -> np.ndarray:
            return np.zeros(shape)

    assert torch.isfinite(policy.noise(Zeros(), 4)).all(), "zero is a uniform number too"  # type: ignore[arg-type]


def test_the_normaliser_merges_to_the_moments_of_all_it_saw() -> None:
    generator = np.random.default_rng(0)
    parts = [generator.normal(1000, 0.1, (n, 2)) for n in (1, 5, 300, 1)]
    normaliser = Normaliser((2,))
    for part in parts:
        normaliser.update(**moments(part))
    every = np.concatenate(parts)
    assert normaliser.mean.numpy() == pytest.approx(every.mean(0), rel=1e-12)
    assert (normaliser.squares / normaliser.count).numpy() == pytest.approx(every.var(0), rel=1e-6)
    x = torch.tensor([[1000.0, 1000.1]])
    expected = (x.double() - torch.from_numpy(every.mean(0))) / torch.from_numpy(every.std(0))
    assert torch.allclose(normaliser(x).double(), expected, atol=2e-3)


def test_statistics_never_change_in_forward_and_travel_with_the_weights() -> None:
    policy = REGISTRY.build("model", QNetworkOptions(normalise=True), DISCRETE)
    policy.observe({"observation": moments(np.random.default_rng(0).normal(3, 2, (50, 4)))})
    before = {name: value.clone() for name, value in policy.state_dict().items()}
    for mode in (True, False):
        policy.train(mode)
        policy({"observation": torch.full((9, 4), 100.0)})
    assert all(torch.equal(value, before[name]) for name, value in policy.state_dict().items())
    other = REGISTRY.build("model", QNetworkOptions(normalise=True), DISCRETE)
    other.load_state_dict(before)
    x = {"observation": torch.randn(5, 4)}
    assert torch.equal(policy(x)[0]["action"], other(x)[0]["action"])


def _gain(weight: Tensor) -> tuple[float, float]:
    values = torch.linalg.svdvals(weight.detach())
    return float(values.min()), float(values.max())


def test_orthogonal_gains_are_those_of_the_traps() -> None:
    policy = ActorCritic(ActorCriticOptions(), DISCRETE)
    for layer in policy.body.layers:
        assert _gain(layer.weight) == pytest.approx((math.sqrt(2), math.sqrt(2)), rel=1e-4)  # type: ignore[arg-type]
    assert _gain(policy.policy_head.layers[0].weight) == pytest.approx((0.01, 0.01), rel=1e-4)  # type: ignore[arg-type]
    assert _gain(policy.value_head.layers[0].weight) == pytest.approx((1.0, 1.0), rel=1e-4)  # type: ignore[arg-type]


def test_the_guides_network_has_the_sizes_that_the_recipe_names() -> None:
    signature = Signature(
        inputs={"observation": Input(form="box", shape=(4,))}, outputs={"action": Output(form="discrete", size=2)}
    )
    policy = QNetwork(QNetworkOptions(sizes=(64, 64)), signature)
    assert [tuple(p.shape) for p in policy.parameters()] == [(64, 4), (64,), (64, 64), (64,), (2, 64), (2,)]


def test_continuous_policies_give_actions_in_the_environments_units() -> None:
    torch.manual_seed(0)
    x = {"observation": 50 * torch.randn(200, 4)}
    for policy in (
        SquashedGaussian(SquashedGaussianOptions(), CONTINUOUS),
        ActorCritic(ActorCriticOptions(), CONTINUOUS),
    ):
        actions = []
        for _ in range(16):
            for parameter in policy.parameters():
                torch.nn.init.normal_(parameter, std=0.5)
            outputs, _ = policy(x)
            actions.append(decode(outputs, CONTINUOUS.outputs["action"]))
        action = torch.cat(actions)
        assert (action >= policy.low).all()
        assert (action <= policy.high).all()
        assert torch.allclose(action.amax(0), policy.high, atol=1e-3), "the whole range can be reached"
        assert torch.allclose(action.amin(0), policy.low, atol=1e-3)
    assert torch.equal(policy.scale(torch.zeros(2)), torch.tensor([0.0, 5.0]))


def test_the_unclipped_action_goes_to_the_log_prob_and_the_clipped_one_to_the_environment() -> None:
    policy = ActorCritic(ActorCriticOptions(), CONTINUOUS)
    outputs, _ = policy({"observation": torch.zeros(1, 4)})
    action = policy.sample(outputs, torch.full((1, 2), 5.0))
    assert (action > 1).all()
    assert torch.equal(policy.scale(action)[0], policy.high)


def test_a_memory_over_a_sequence_equals_step_by_step_and_forgets_at_each_start() -> None:
    torch.manual_seed(0)
    policy = ActorCritic(ActorCriticOptions(memory=MemoryOptions(size=8)), DISCRETE)
    observation = torch.randn(3, 6, 4)
    start = torch.zeros(3, 6, dtype=torch.bool)
    start[0, 0] = start[1, 3] = start[2, 5] = True
    state = {"memory": torch.randn(3, 8)}
    whole, last = policy({"observation": observation, "start": start}, state)
    step_state = state
    for time in range(6):
        outputs, step_state = policy({"observation": observation[:, time], "start": start[:, time]}, step_state)
        for name, value in outputs.items():
            assert torch.allclose(value, whole[name][:, time], atol=1e-6)
    assert torch.allclose(last["memory"], step_state["memory"], atol=1e-6)
    fresh, _ = policy({"observation": observation[1:2, 3:]})
    assert torch.allclose(fresh["action"], whole["action"][1:2, 3:], atol=1e-6)


def test_bytes_and_numbered_states_are_observations_too() -> None:
    picture = Signature(
        inputs={"observation": Input(form="box", shape=(2, 3))}, outputs={"action": Output(form="discrete", size=2)}
    )
    policy = QNetwork(QNetworkOptions(sizes=(4,)), picture)
    raw = torch.randint(256, (5, 2, 3), dtype=torch.uint8)
    assert torch.equal(
        policy({"observation": raw})[0]["action"], policy({"observation": raw.float() / 255})[0]["action"]
    )
    numbered = Signature(
        inputs={"observation": Input(form="categories", sizes=(7,))},
        outputs={"action": Output(form="discrete", size=2)},
    )
    policy = QNetwork(QNetworkOptions(sizes=(4,)), numbered)
    assert policy({"observation": torch.tensor([[0], [6]])})[0]["action"].shape == (2, 2)


def test_policies_refuse_the_wrong_kind_of_action() -> None:
    with pytest.raises(ReinforgeError, match="discrete"):
        QNetwork(QNetworkOptions(), CONTINUOUS)
    with pytest.raises(ReinforgeError, match="continuous"):
        SquashedGaussian(SquashedGaussianOptions(), DISCRETE)


@pytest.mark.parametrize("normalise", [False, True])
@pytest.mark.parametrize("found", [DISCRETE, CONTINUOUS], ids=["discrete", "continuous"])
def test_quick_actions_are_those_of_sample(normalise: bool, found: Signature) -> None:
    """Acting in NumPy draws what torch draws from the same noise; and follows the weights when it is asked anew."""
    torch.manual_seed(0)
    policy = REGISTRY.build("model", ActorCriticOptions(sizes=(16, 8), normalise=normalise), found)
    if normalise:
        policy.observe({"observation": moments(np.random.default_rng(1).normal(0.5, 2, (9, 4)))})
    generator = np.random.default_rng(0)
    for _ in range(2):
        for parameter in policy.parameters():
            parameter.data.add_(0.3 * torch.randn_like(parameter))
        seen = generator.standard_normal((50, 4), np.float32)
        noise, quick = policy.noise(generator, 50), policy.quick(50)
        assert quick is not None
        with torch.no_grad():
            wanted = policy.sample(policy.act({"observation": torch.from_numpy(seen)})[0], noise)
        np.testing.assert_allclose(quick({"observation": seen}, noise.numpy()), wanted.numpy(), atol=1e-5)


def test_what_has_a_memory_or_is_large_does_not_act_quickly() -> None:

    memory = REGISTRY.build("model", ActorCriticOptions(memory=MemoryOptions(size=4)), DISCRETE)
    assert memory.quick(1) is None
    large = REGISTRY.build("model", ActorCriticOptions(sizes=(256, 256)), DISCRETE)
    assert large.quick(1) is not None
    assert large.quick(64) is None
    gelu = REGISTRY.build("model", ActorCriticOptions(activation="gelu"), DISCRETE)
    assert gelu.quick(1) is None
