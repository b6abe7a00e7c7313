"""Every algorithm solves every probe: a constant reward, one that depends on what is seen, one that is two steps away,
on what is done, and on both. What an algorithm can't do, its probe tells."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from reinforge.engine.loop import Engine
from reinforge.environments.build import signature
from reinforge.environments.options import EnvironmentOptions
from reinforge.evaluation.episodes import EpisodeEvaluator
from reinforge.models.policy_options import (
    ActorCriticOptions,
    DeterministicOptions,
    DistributionOptions,
    MemoryOptions,
    QNetworkOptions,
    QTableOptions,
    SquashedGaussianOptions,
)
from reinforge.objectives.iql import IQLearner
from reinforge.objectives.options import (
    A2COptions,
    DDPGOptions,
    DQNOptions,
    IQLOptions,
    MunchausenOptions,
    PPOOptions,
    QLearningOptions,
    REINFORCEOptions,
    SACOptions,
    SARSAOptions,
    TD3Options,
)
from reinforge.recipe.sections import Learn, Stop
from reinforge.registry import REGISTRY
from reinforge.sources.options import (
    EpsilonOptions,
    PrioritiesOptions,
    ReplayOptions,
    RolloutOptions,
    TransitionOptions,
)
from tests.objectives import probes
from tests.sources.test_transitions import recorded, written

probes.register()
GAMMA = 0.9


@dataclass(frozen=True)
class Algorithm:
    """Model, objective and source, and how long they learn."""

    model: Any
    objective: Any
    source: Any
    lr: float = 1e-2
    updates: int = 200
    environment: dict[str, Any] = field(default_factory=dict)


def _dqn(lr: float = 1e-2, updates: int = 200, source: Any = None, delta: float = 1.0, **network: Any) -> Algorithm:
    replay = source or ReplayOptions(learning_starts=64, updates_per_step=0.5, epsilon=EXPLORE)
    objective = DQNOptions(gamma=GAMMA, tau=0.1, double="duelling" in network, delta=delta)
    return Algorithm(QNetworkOptions(sizes=(16,), **network), objective, replay, lr, updates)


EXPLORE = EpsilonOptions(start=1.0, end=0.5, steps=300)
CATEGORICAL = DistributionOptions(kind="categorical", atoms=21, low=-2, high=2)
REPLAY = ReplayOptions(learning_starts=64, updates_per_step=0.5)
UNIFORM = ReplayOptions(learning_starts=512, updates_per_step=0.5)
ROLLOUT = RolloutOptions(steps=8)
CONTINUOUS, TABULAR = {"continuous": True}, {"tabular": True}
BODY = ActorCriticOptions(sizes=(16,))
MEMORY = ActorCriticOptions(sizes=(16,), memory=MemoryOptions(size=8))
FILE = TransitionOptions(path="")
TABLE = RolloutOptions(steps=4, epsilon=EXPLORE)
ALGORITHMS = {
    "dqn": _dqn(),
    "c51": _dqn(distribution=CATEGORICAL),
    "quantile": _dqn(distribution=DistributionOptions(atoms=8), delta=0.2),
    "noisy": _dqn(noisy=0.5, source=REPLAY.model_copy(update={"epsilon": EpsilonOptions(start=0.2, end=0.2)})),
    "rainbow": _dqn(
        distribution=CATEGORICAL, noisy=0.5, duelling=True,
        source=ReplayOptions(
            learning_starts=64, updates_per_step=0.5, n_step=2, priorities=PrioritiesOptions(beta_steps=400),
            epsilon=EpsilonOptions(start=0.2, end=0.2),
        ),
    ),
    "munchausen": Algorithm(
        QNetworkOptions(sizes=(16,)),
        # A little: more of it makes other values out of the same rewards.
        DQNOptions(gamma=GAMMA, tau=0.1, munchausen=MunchausenOptions(weight=0.01, temperature=0.01)),
        ReplayOptions(learning_starts=64, updates_per_step=0.5, epsilon=EXPLORE),
    ),
    "q-learning": Algorithm(QTableOptions(), QLearningOptions(gamma=GAMMA), TABLE, 0.5, 60, TABULAR),
    "sarsa": Algorithm(QTableOptions(), SARSAOptions(gamma=GAMMA), TABLE, 0.3, 120, TABULAR),
    "reinforce": Algorithm(BODY, REINFORCEOptions(gamma=GAMMA), ROLLOUT, 2e-2, 120),
    "a2c": Algorithm(BODY, A2COptions(gamma=GAMMA), ROLLOUT, 1e-2, 150),
    "ppo": Algorithm(BODY, PPOOptions(gamma=GAMMA, epochs=4, minibatches=2), ROLLOUT, 1e-2, 240),
    "recurrent-ppo": Algorithm(MEMORY, PPOOptions(gamma=GAMMA, epochs=4, minibatches=2), ROLLOUT, 2e-2, 320),
    "ppo-continuous": Algorithm(
        BODY, PPOOptions(gamma=GAMMA, epochs=4, minibatches=2), ROLLOUT, 1e-2, 500, CONTINUOUS
    ),
    "ddpg": Algorithm(
        DeterministicOptions(sizes=(16,)), DDPGOptions(gamma=GAMMA, tau=0.1, critic_sizes=(32, 32)), UNIFORM, 3e-3, 400,
        CONTINUOUS,
    ),
    "td3": Algorithm(
        DeterministicOptions(sizes=(16,)), TD3Options(gamma=GAMMA, tau=0.1, critic_sizes=(32, 32)), UNIFORM, 3e-3, 400,
        CONTINUOUS,
    ),
    "sac": Algorithm(
        SquashedGaussianOptions(sizes=(16,)),
        SACOptions(gamma=GAMMA, tau=0.1, critic_sizes=(32, 32), temperature=0.005, adapt=False), REPLAY, 1e-2, 400,
        CONTINUOUS,
    ),
    "iql": Algorithm(
        BODY, IQLOptions(gamma=GAMMA, tau=0.1, critic_sizes=(32, 32), expectile=0.9, beta=10.0), FILE, 1e-2, 300
    ),
    "iql-continuous": Algorithm(
        SquashedGaussianOptions(sizes=(16,)),
        IQLOptions(gamma=GAMMA, tau=0.1, critic_sizes=(32, 32), expectile=0.9, beta=30.0), FILE, 1e-2, 400, CONTINUOUS,
    ),
    "cql": Algorithm(
        QNetworkOptions(sizes=(16,)), DQNOptions(gamma=GAMMA, tau=0.1, conservative=0.02), FILE, 1e-2, 200
    ),
    "cql-continuous": Algorithm(
        SquashedGaussianOptions(sizes=(16,)),
        SACOptions(
            gamma=GAMMA, tau=0.1, critic_sizes=(32, 32), temperature=0.005, adapt=False, conservative=0.02,
            conservative_actions=4,
        ),
        FILE, 1e-2, 400, CONTINUOUS,
    ),
}  # fmt: skip


def trained(algorithm: Algorithm, probe: str) -> tuple[Any, EnvironmentOptions]:
    """The learner that comes of it, and the environment; from a file of random actions where the source is one."""
    source = algorithm.source
    if isinstance(source, TransitionOptions) and not source.path:
        with tempfile.TemporaryDirectory() as folder:
            columns = recorded("Probe-v0", 512, kind=probe, **algorithm.environment)
            source = TransitionOptions(path=written(Path(folder), "npz", columns))
            return trained(replace(algorithm, source=source), probe)
    environment = EnvironmentOptions(id="Probe-v0", count=8, options={"kind": probe, **algorithm.environment})
    found = signature(environment)
    torch.manual_seed(0)
    engine = Engine(
        REGISTRY.build("objective", algorithm.objective, found),
        REGISTRY.build("model", algorithm.model, found),
        REGISTRY.build("source", source, environment=environment, seed=0, batch=64),
        learn=Learn(
            batch=64, lr=algorithm.lr, clip=5.0, stop=Stop(updates=algorithm.updates), threads=1, compile="off"
        ),
        seed=0,
    )
    engine.run()
    return engine.learner, environment


@torch.no_grad()
def _values(learner: Any, bits: list[int], tabular: bool, together: bool) -> Tensor:
    """What the algorithm thinks that the states with these bits are worth."""
    number = torch.tensor(bits)[:, None]
    observation = {"observation": number if tabular else 2.0 * number - 1}
    if learner.model.initial_state(1):
        # Of one episode, as they were met: 0 alone, or 1 alone, or the one after the other.
        start = torch.tensor([True] + [not together] * (len(bits) - 1))
        observation = {"observation": observation["observation"][None], "start": start[None]}
        return learner.model(observation)[0]["value"][0]  # type: ignore[no-any-return]
    outputs = learner.model(observation)[0]
    if isinstance(learner, IQLearner):
        # The value beside the policy is not learned.
        return learner.state(observation)
    if "value" in outputs:
        return outputs["value"]  # type: ignore[no-any-return]
    if hasattr(learner, "critics"):
        action = outputs["mean"].tanh() if "log_std" in outputs else outputs["mean"]
        return learner.values(learner.critics, observation, action).mean(0)  # type: ignore[no-any-return]
    return outputs["action"].amax(-1)  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", ALGORITHMS)
@pytest.mark.parametrize(
    ("probe", "bits", "worth"),
    [("constant", [0], [1.0]), ("observation", [0, 1], [-1.0, 1.0]), ("discount", [0, 1], [GAMMA, 1.0])],
    ids=["constant", "observation", "discount"],
)
def test_values(name: str, probe: str, bits: list[int], worth: list[float]) -> None:
    algorithm = ALGORITHMS[name]
    learner, _ = trained(algorithm, probe)
    found = _values(learner, bits, "tabular" in algorithm.environment, probe == "discount")
    assert found.tolist() == pytest.approx(worth, abs=0.1)


@pytest.mark.parametrize("name", ALGORITHMS)
@pytest.mark.parametrize("probe", ["action", "both"])
def test_actions(name: str, probe: str) -> None:
    learner, environment = trained(ALGORITHMS[name], probe)
    found = EpisodeEvaluator(environment, episodes=40, seed=1).run(learner.model, "test").returns.mean()
    assert found > (0.95 if environment.options.get("continuous") else 0.99)
