"""Every check that docs/errata.md names: what the guide says is tried, and fails; what is right is tried, and holds."""

from __future__ import annotations

import inspect
import itertools
import random
import re
import zlib
from collections.abc import Iterator
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
import torch.distributed as dist
from sklearn import metrics as sklearn_metrics
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsOneClassifier, OneVsRestClassifier
from torch import Tensor, nn
from torch.nn import functional

from reinforge.engine.optimizers import Slice
from reinforge.engine.options import AdamOptions
from reinforge.environments.build import build
from reinforge.environments.options import EnvironmentOptions
from reinforge.errors import DataError
from reinforge.evaluation.metrics.category import Accuracy
from reinforge.evaluation.options import AccuracyOptions
from reinforge.models.composed import Composed
from reinforge.models.options import ComposedOptions
from reinforge.objectives.options import DQNOptions
from reinforge.objectives.returns import discounted
from reinforge.registry import REGISTRY
from reinforge.schema.signature import Input, Output, Signature

PAGE = Path(__file__).parents[2] / "docs" / "errata.md"


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def test_the_page_names_every_check_and_no_other() -> None:
    named = re.findall(r"`(test_\w+)`", PAGE.read_text("utf-8"))
    here = {name for name, value in globals().items() if name.startswith("test_") and callable(value)}
    assert sorted(named) == sorted(here - {"test_the_page_names_every_check_and_no_other"})


# ---------------------------------------------------------------- losses and layers


def test_mean_squared_error_descends_with_this_sign_only() -> None:
    x, y = torch.randn(50, 2), torch.randn(50)
    weights = torch.randn(2, requires_grad=True)
    functional.mse_loss(x @ weights, y).backward()
    ours = 2 / len(y) * ((x @ weights - y)[:, None] * x).sum(0)
    assert torch.allclose(ours, weights.grad)
    with torch.no_grad():
        loss = functional.mse_loss(x @ weights, y)
        assert functional.mse_loss(x @ (weights - 0.05 * ours), y) < loss
        assert functional.mse_loss(x @ (weights + 0.05 * ours), y) > loss


def test_cross_entropy_needs_both_halves() -> None:
    y, predicted = torch.tensor([1.0, 0.0, 0.0]), torch.tensor([0.8, 0.3, 0.6])
    whole = -(y * predicted.log() + (1 - y) * (1 - predicted).log()).mean()
    assert torch.allclose(whole, functional.binary_cross_entropy(predicted, y))
    # One half alone is content with the answer "always yes".
    assert -(y * torch.ones(3).log()).mean() == 0
    logits, label = torch.randn(3, 4), torch.tensor([0, 3, 1])
    over_classes = -(functional.one_hot(label, 4) * logits.softmax(-1).log()).sum(-1).mean()
    assert torch.allclose(over_classes, functional.cross_entropy(logits, label))


def test_adam_divides_by_the_second_moment() -> None:
    gradients = torch.randn(20, 5)
    theta, reference, library = torch.zeros(5), nn.Parameter(torch.zeros(5)), nn.Parameter(torch.zeros(5))
    library.grad = torch.zeros(5)
    torchs = torch.optim.Adam([reference], lr=0.1)
    ours = REGISTRY.build("optimizer", AdamOptions(), [Slice(library, False)], 0.1)
    m, v = torch.zeros(5), torch.zeros(5)
    for t, g in enumerate(gradients, 1):
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        theta -= 0.1 * (m / (1 - 0.9**t)) / ((v / (1 - 0.999**t)).sqrt() + 1e-8)
        reference.grad, library.grad[:] = g.clone(), g
        torchs.step()
        ours.step(0.1)
    assert torch.allclose(theta, reference, atol=1e-6)
    assert torch.allclose(theta, library, atol=1e-6)
    # Without v, a loss in other units takes steps of another size; with it, the first step is the learning rate.
    assert torch.allclose(_first_adam_step(gradients[0]), _first_adam_step(1000 * gradients[0]), atol=1e-5)


def _first_adam_step(gradient: Tensor) -> Tensor:
    parameter = nn.Parameter(torch.zeros(5))
    parameter.grad = gradient.clone()
    torch.optim.Adam([parameter], lr=0.1).step()
    return parameter.detach()


def test_one_layer_is_no_network() -> None:
    x = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    exclusive_or = torch.tensor([0.0, 1.0, 1.0, 0.0])
    # The loss of one layer is convex; at zero weights its gradient vanishes: ln 2 is the least it can reach.
    one = nn.Linear(2, 1)
    with torch.no_grad():
        one.weight.zero_(), one.bias.zero_()
    loss = functional.binary_cross_entropy_with_logits(one(x)[:, 0], exclusive_or)
    loss.backward()
    assert torch.allclose(loss, torch.tensor(2.0).log())
    assert one.weight.grad is not None
    assert float(one.weight.grad.abs().max()) < 1e-7
    # Two layers, by hand: or, and; then or but not and.
    hidden = torch.sigmoid(20 * (x @ torch.ones(2, 2) - torch.tensor([0.5, 1.5])))
    assert torch.equal((20 * (hidden @ torch.tensor([1.0, -1.0]) - 0.5) > 0).float(), exclusive_or)
    # A squashed output never reaches a target of 4.2.
    assert float(torch.sigmoid(torch.tensor(1e9))) == 1.0


# ---------------------------------------------------------------- measuring


def test_precision_is_over_what_was_predicted_positive() -> None:
    truth = np.array([1, 1, 1, 1, 0, 0, 0, 0, 0, 0])
    predicted = np.array([1, 1, 0, 0, 1, 0, 0, 0, 0, 0])
    hits = int(((truth == 1) & (predicted == 1)).sum())
    precision, recall = hits / int((predicted == 1).sum()), hits / int((truth == 1).sum())
    assert precision == pytest.approx(sklearn_metrics.precision_score(truth, predicted))
    assert recall == pytest.approx(sklearn_metrics.recall_score(truth, predicted))
    harmonic = 2 / (1 / precision + 1 / recall)
    assert harmonic == pytest.approx(sklearn_metrics.f1_score(truth, predicted))
    assert harmonic != pytest.approx((precision + recall) / 2)


def test_accuracy_says_nothing_of_a_regression() -> None:
    y = torch.randn(100)
    predicted = y + 0.01 * torch.randn(100)
    assert float((predicted == y).float().mean()) == 0.0
    assert sklearn_metrics.r2_score(y, predicted) > 0.999
    assert Accuracy(AccuracyOptions()).form == "category"


def test_choosing_by_the_test_set_flatters() -> None:
    generator = np.random.default_rng(0)
    # Two hundred coins, as models; what they predict has nothing to do with the labels.
    labels, fresh = generator.integers(2, size=50), generator.integers(2, size=10_000)
    coins = [(generator.integers(2, size=50), generator.integers(2, size=10_000)) for _ in range(200)]
    best = max(coins, key=lambda coin: float((coin[0] == labels).mean()))
    assert (best[0] == labels).mean() > 0.62
    assert (best[1] == fresh).mean() == pytest.approx(0.5, abs=0.02)


# ---------------------------------------------------------------- Q-learning


def test_cartpole_pays_200_or_500_and_speaks_the_new_interface() -> None:
    assert gym.spec("CartPole-v0").max_episode_steps == 200
    assert gym.spec("CartPole-v1").max_episode_steps == 500
    environment = gym.make("CartPole-v1")
    observation, info = environment.reset(seed=0)
    assert observation.shape == (4,)
    assert isinstance(info, dict)
    result = environment.step(0)
    assert len(result) == 5
    assert result[1] == 1.0


def test_the_target_takes_no_gradient() -> None:
    network, gamma = nn.Linear(3, 2), 0.9
    state, following = torch.randn(8, 3), torch.randn(8, 3)

    def gradient(stopped: bool) -> Tensor:
        target = 1.0 + gamma * network(following).amax(-1)
        loss = functional.mse_loss(network(state)[:, 0], target.detach() if stopped else target)
        return torch.autograd.grad(loss, list(network.parameters()))[0]

    error = network(state)[:, 0] - 1.0 - gamma * network(following).amax(-1)
    expected = torch.zeros(2, 3)
    expected[0] = (2 / 8 * error[:, None] * state).sum(0)
    assert torch.allclose(gradient(True), expected, atol=1e-6)
    assert not torch.allclose(gradient(False), expected, atol=1e-2)
    # Ours: the goal is computed without gradients, from a network apart.
    objective = REGISTRY.build("objective", DQNOptions(), _cartpole())
    learner = objective.build(REGISTRY.build("model", REGISTRY.find("model", "q-network").options(), _cartpole()))
    assert all(not parameter.requires_grad for parameter in learner.target.parameters())
    assert len(objective.steps(learner)[0].parameters) == len(list(learner.model.parameters()))


def _cartpole() -> Signature:
    return Signature(
        inputs={"observation": Input(form="box", shape=(4,))}, outputs={"action": Output(form="discrete", size=2)}
    )


def test_a_time_limit_is_no_failure() -> None:
    environments = build(EnvironmentOptions(id="CartPole-v1", count=1, vectorization="synchronous"), seed=0)
    environments.reset()
    while True:
        step = environments.step(np.array([0]))
        if step.terminated[0] or step.truncated[0]:
            break
    environments.close()
    assert (bool(step.terminated[0]), bool(step.truncated[0])) == (True, False)
    rewards, length = torch.ones(2, 1), torch.ones(2, dtype=torch.int64)
    # What comes after counts nothing where the pole fell, and gamma where only the time was over.
    _, following = discounted(rewards, length, torch.tensor([True, False]), 0.9)
    assert following.tolist() == pytest.approx([0.0, 0.9])


@pytest.mark.slow
def test_the_guides_program_ported_does_not_learn() -> None:
    returns = [_ported(seed) for seed in range(3)]
    print(f"mean return of the last 50 of 300 episodes, by seed: {', '.join(f'{r:.1f}' for r in returns)}")
    assert max(returns) < 100


def _ported(seed: int, episodes: int = 300) -> float:
    """The guide's Q-learning, its names defined and its interface renewed: no replay, no target network, no mask, and
    the gradient flows through the target."""
    torch.manual_seed(seed)
    random.seed(seed)
    network = nn.Sequential(nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2))
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    environment = gym.make("CartPole-v1")
    returns, epsilon = [], 1.0
    for episode in range(episodes):
        observation, _ = environment.reset(seed=seed * episodes + episode)
        total, done = 0.0, False
        while not done:
            state = torch.as_tensor(observation)
            greedy = int(network(state).argmax())
            action = random.randrange(2) if random.random() < epsilon else greedy
            observation, reward, terminated, truncated, _ = environment.step(action)
            done, total = terminated or truncated, total + float(reward)
            target = float(reward) + 0.99 * network(torch.as_tensor(observation)).max()
            loss = (network(state)[action] - target) ** 2
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        epsilon = max(0.05, epsilon * 0.98)
        returns.append(total)
    return float(np.mean(returns[-50:]))


# ---------------------------------------------------------------- PyTorch


def test_compilation_is_just_in_time_and_eager_stays_dynamic() -> None:
    graphs: list[int] = []

    def backend(module: torch.fx.GraphModule, inputs: list[Tensor]) -> object:
        graphs.append(len(module.graph.nodes))
        return module.forward

    def doubled_if_long(x: Tensor) -> Tensor:
        return x * 2 if x.shape[0] > 2 else x

    torch._dynamo.reset()
    compiled = torch.compile(doubled_if_long, backend=backend, dynamic=False)
    assert graphs == []
    assert torch.equal(compiled(torch.ones(4)), torch.full((4,), 2.0))
    assert len(graphs) == 1
    # A value that decides the way is read as the program runs: nothing was declared beforehand.
    assert [doubled_if_long(torch.ones(n)).sum().item() for n in (1, 2, 3)] == [1.0, 2.0, 6.0]


@pytest.fixture
def _one_process() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("_one_process")
def test_distributed_data_parallel_takes_any_optimiser() -> None:
    from torch.distributed.optim import DistributedOptimizer, ZeroRedundancyOptimizer

    # It asks for references to remote parameters, which only RPC makes.
    assert "params_rref" in inspect.signature(DistributedOptimizer.__init__).parameters
    for make in (
        lambda parameters: torch.optim.RMSprop(parameters, lr=0.01),
        lambda parameters: torch.optim.SGD(parameters, lr=0.1),
        lambda parameters: ZeroRedundancyOptimizer(parameters, torch.optim.Adam, lr=0.01),
    ):
        model = nn.parallel.DistributedDataParallel(nn.Linear(3, 1))
        before = model.module.weight.detach().clone()
        optimizer = make(model.parameters())
        model(torch.randn(4, 3)).square().mean().backward()
        optimizer.step()
        assert not torch.equal(model.module.weight, before)


def test_sparse_gradients_are_of_embeddings_and_need_their_optimisers() -> None:
    for make in (torch.optim.SGD, torch.optim.Adagrad, torch.optim.SparseAdam):
        embedding = nn.Embedding(1000, 4, sparse=True)
        before = embedding.weight.detach().clone()
        embedding(torch.tensor([3, 7])).sum().backward()
        assert embedding.weight.grad is not None
        assert embedding.weight.grad.is_sparse
        make(embedding.parameters(), lr=0.1).step()
        assert (embedding.weight != before).any(1).nonzero().flatten().tolist() == [3, 7]
    embedding = nn.Embedding(1000, 4, sparse=True)
    embedding(torch.tensor([3])).sum().backward()
    with pytest.raises(RuntimeError, match="sparse"):
        torch.optim.Adam(embedding.parameters()).step()


def test_centring_destroys_sparsity() -> None:
    data = torch.zeros(100, 50)
    data[torch.arange(100), torch.arange(100) % 50] = 1.0
    assert int((data != 0).sum()) == 100
    assert int(((data - data.mean(0)) != 0).sum()) == data.numel()


def test_adagrads_rate_only_shrinks() -> None:
    def steps(make: type[torch.optim.Optimizer]) -> list[float]:
        parameter = nn.Parameter(torch.zeros(1))
        optimizer = make([parameter], lr=0.1)
        taken = []
        for _ in range(50):
            before = parameter.item()
            parameter.grad = torch.ones(1)
            optimizer.step()
            taken.append(before - parameter.item())
        return taken

    adagrad, adam = steps(torch.optim.Adagrad), steps(torch.optim.Adam)
    assert all(later < earlier for earlier, later in itertools.pairwise(adagrad))
    # With gradients that never change: lr / sqrt(t).
    assert adagrad[49] == pytest.approx(0.1 / 50**0.5, rel=1e-3)
    assert adam[49] == pytest.approx(0.1, rel=1e-3)


# ---------------------------------------------------------------- tasks


def test_several_labels_are_sigmoids_and_one_versus_one_is_for_classes() -> None:
    # Both labels hold: softmax can't say so, two sigmoids can.
    assert float(torch.tensor([9.0, 9.0]).softmax(0).max()) == pytest.approx(0.5)
    assert float(torch.tensor([9.0, 9.0]).sigmoid().min()) > 0.99
    generator = np.random.default_rng(0)
    x = generator.normal(size=(80, 3))
    both = np.stack([x[:, 0] > 0, x[:, 1] > 0], 1).astype(int)
    assert len(OneVsRestClassifier(LogisticRegression()).fit(x, both).estimators_) == 2
    with pytest.raises(ValueError, match="1d array"):
        OneVsOneClassifier(LogisticRegression()).fit(x, both)
    four = generator.integers(4, size=80)
    assert len(OneVsOneClassifier(LogisticRegression()).fit(x, four).estimators_) == 4 * 3 // 2


def test_the_shared_trunk_comes_before_the_heads() -> None:
    signature = Signature(
        inputs={"numbers": Input(form="numbers", shape=(3,))},
        outputs={"kind": Output(form="category", size=4), "size": Output(form="number", size=1)},
    )
    model = Composed(ComposedOptions(), signature)
    trunk = list(model.body.parameters())
    assert {name for name, _ in model.heads.items()} == {"kind", "size"}
    for name in signature.outputs:
        model.zero_grad()
        outputs, _ = model({"numbers": torch.randn(5, 3)})
        outputs[name].sum().backward()
        # Each task's gradient reaches the trunk, and no other task's head.
        assert all(parameter.grad is not None for parameter in trunk)
        others = [p for other, head in model.heads.items() if other != name for p in head.parameters()]
        assert all(p.grad is None or not p.grad.any() for p in others)


def test_a_new_class_needs_a_description() -> None:
    # Classes described by attributes; the last was never seen in training.
    described = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [1, 0, 1], [0, 1, 1]])
    unseen, seen = len(described) - 1, len(described) - 1
    render = torch.randn(3, 10)
    label = torch.arange(600) % seen
    x = described[label] @ render + 0.05 * torch.randn(600, 10)
    to_attributes = torch.linalg.lstsq(x, described[label]).solution
    new = described[unseen] @ render + 0.05 * torch.randn(50, 10)
    nearest = torch.cdist(new @ to_attributes, described).argmin(-1)
    assert (nearest == unseen).float().mean() > 0.95
    # A head of fixed classes has no place for it, and our data say so.
    from reinforge.data.options import TableOptions
    from reinforge.data.prepared import apply, prepare_table

    rows = {"x": [0.5 * (i % 7) for i in range(40)], "y": ["a", "b"] * 20}
    prepared = prepare_table(TableOptions(targets={"y": {"kind": "category"}}), data=rows)
    with pytest.raises(DataError, match="c"):
        apply(prepared.pipeline, {"x": [1.0], "y": ["c"]})


def test_a_quantised_model_is_the_same_function_rounded() -> None:
    model = nn.Linear(64, 8)
    scale = model.weight.detach().abs().amax(1, keepdim=True) / 127
    rounded = (model.weight.detach() / scale).round().clamp(-127, 127)
    x = torch.randn(32, 64)
    exact, quantised = model(x), x @ (rounded * scale).T + model.bias
    assert float((exact - quantised).norm() / exact.norm()) < 0.02
    # It says as little about why as before: the same inputs to the same outputs, and nothing else.
    assert quantised.shape == exact.shape


def test_versions_of_weights_share_nothing_that_git_could_store_once() -> None:
    model = nn.Sequential(nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 256))
    before = nn.utils.parameters_to_vector(model.parameters()).detach().numpy().tobytes()
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.randn(64, 256)).square().mean().backward()
    optimizer.step()
    after = nn.utils.parameters_to_vector(model.parameters()).detach().numpy().tobytes()
    changed = (np.frombuffer(before, np.float32) != np.frombuffer(after, np.float32)).mean()
    assert changed > 0.9
    assert len(zlib.compress(after, 9)) > 0.85 * len(after)


# ---------------------------------------------------------------- privacy


def test_private_gradients_are_clipped_per_sample_before_noise() -> None:
    bound, count = 1.0, 100
    gradients = torch.randn(count, 10)
    gradients[:, 0] += 0.5
    outlier = gradients.clone()
    outlier[0] = 1e4

    def per_sample(rows: Tensor) -> Tensor:
        return (rows * (bound / rows.norm(dim=1, keepdim=True)).clamp(max=1)).mean(0)

    def clipped_mean(rows: Tensor) -> Tensor:
        mean = rows.mean(0)
        return mean * (bound / mean.norm()).clamp(max=1)

    # One person moves the first by no more than 2 C / n, which the noise can hide; the second by far more.
    assert float((per_sample(gradients) - per_sample(outlier)).norm()) <= 2 * bound / count + 1e-6
    assert float((clipped_mean(gradients) - clipped_mean(outlier)).norm()) > 20 * bound / count


def test_a_federated_update_gives_the_sample_away() -> None:
    layer, secret = nn.Linear(6, 3), torch.randn(1, 6)
    functional.cross_entropy(layer(secret), torch.tensor([1])).backward()
    assert layer.weight.grad is not None
    assert layer.bias.grad is not None
    # The server divides one gradient by the other and reads the input.
    assert torch.allclose(layer.weight.grad[0] / layer.bias.grad[0], secret[0], atol=1e-5)
    # Masks that cancel in the sum hide each update, and nothing of the sum.
    updates = torch.randn(3, 5, dtype=torch.float64)
    masks = torch.randn(3, 3, 5, dtype=torch.float64) * 1e3
    masked = torch.stack([updates[i] + sum(masks[i, j] - masks[j, i] for j in range(3)) for i in range(3)])
    assert torch.allclose(masked.sum(0), updates.sum(0), atol=1e-9)
    assert float((masked - updates).abs().min()) > 1
