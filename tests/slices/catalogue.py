"""The slices: each builds objective, model and source from a seed, small enough to train in a second."""

from __future__ import annotations

import atexit
import functools
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional

from reinforge.core.contracts import Objective, Source
from reinforge.core.ragged import Ragged
from reinforge.data.augmentation.options import (
    ColourOptions,
    CropOptions,
    CutmixOptions,
    EraseOptions,
    FlipOptions,
    MixupOptions,
    NoiseOptions,
    RotateOptions,
    ScaleOptions,
    ShiftOptions,
    TokenDropoutOptions,
    TokenNoiseOptions,
)
from reinforge.engine.loop import Engine
from reinforge.environments.build import signature as environment_signature
from reinforge.environments.options import EnvironmentOptions, RewardOptions
from reinforge.models.adapters import adapt
from reinforge.models.composed import Composed
from reinforge.models.decoder_options import DecoderOptions, LoRAOptions
from reinforge.models.options import (
    CategoryOptions,
    CNNOptions,
    ComposedOptions,
    FocalOptions,
    GateOptions,
    MLPOptions,
    PiecewiseOptions,
    ResidualMLPOptions,
    RNNOptions,
)
from reinforge.models.policy_options import (
    ActorCriticOptions,
    DeterministicOptions,
    DistributionOptions,
    MemoryOptions,
    PolicyOptions,
    QNetworkOptions,
    QTableOptions,
    SquashedGaussianOptions,
)
from reinforge.objectives.options import (
    CloningOptions,
    CuriousOptions,
    DPOOptions,
    DQNOptions,
    GANOptions,
    LanguageOptions,
    MunchausenOptions,
    PPOOptions,
    QLearningOptions,
    SACOptions,
    SupervisedOptions,
    TD3Options,
)
from reinforge.objectives.reward_options import GRPOOptions
from reinforge.recipe.sections import Learn, Stop
from reinforge.registry import REGISTRY
from reinforge.schema.signature import Input, Output, Signature
from reinforge.sources.completions import CompletionSource, task_pipeline
from reinforge.sources.options import (
    CompletionOptions,
    CopyOptions,
    EpsilonOptions,
    HindsightOptions,
    LoaderOptions,
    PrioritiesOptions,
    ReplayOptions,
    RolloutOptions,
    TokenOptions,
    TransitionOptions,
)
from reinforge.sources.tasks import CopyTask
from tests.environments import goal_world
from tests.objectives import probes
from tests.sources.test_transitions import recorded, written

probes.register()
goal_world.register()
Parts = tuple[Objective, nn.Module, Source]


@dataclass(frozen=True)
class Slice:
    """One training. `build(seed, batch)` makes its parts; `updates` is how long the resume tests run it."""

    name: str
    build: Callable[[int, int], Parts]
    updates: int = 24
    learn: dict[str, Any] = field(default_factory=dict)
    # Rows of one update in the equality tests.
    batch: int = 8

    def engine(self, *, seed: int = 0, batch: int | None = None, updates: int | None = None, **keywords: Any) -> Engine:
        """An engine for it. Keywords `learn` override the slice's own; others go to the engine."""
        size = batch or self.batch
        objective, model, source = self.build(seed, size)
        settings = {"batch": size, "lr": 1e-3, **self.learn, **keywords.pop("learn", {})}
        learn = Learn(**settings, threads=1, stop=Stop(updates=updates or self.updates))
        return Engine(objective, model, source, learn=learn, seed=seed, **keywords)


def _model(options: Any, signature: Signature, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    model: nn.Module = REGISTRY.build("model", options, signature)
    return model


def supervised(seed: int, batch: int) -> Parts:
    """A table with numbers and categories and two targets, one of them missing in two rows of three."""
    g = torch.Generator().manual_seed(7)
    n = 120
    numbers = torch.randn(n, 5, generator=g)
    categories = torch.stack([torch.randint(0, size, (n,), generator=g) for size in (3, 4)], 1)
    label = (numbers[:, 0] + categories[:, 0] > 1).long() + (numbers[:, 1] > 0).long()
    value = numbers[:, 2:3] * 2 + categories[:, 1:2]
    valid = torch.rand(n, generator=g) < 1 / 3
    data: dict[str, dict[str, Tensor]] = {
        "inputs": {"numbers": numbers, "categories": categories},
        "targets": {"label": label, "value": torch.where(valid[:, None], value, torch.nan)},
        "valid": {"value": valid},
    }
    signature = Signature(
        inputs={"numbers": Input(form="numbers", shape=(5,)), "categories": Input(form="categories", sizes=(3, 4))},
        outputs={"label": Output(form="category", size=3), "value": Output(form="number", size=1)},
    )
    model = _model(ComposedOptions(body=MLPOptions(sizes=(16, 16))), signature, seed)
    objective = REGISTRY.build("objective", SupervisedOptions(), signature)
    return objective, model, REGISTRY.build("source", LoaderOptions(), data, batch=batch, seed=seed)


def augmented(seed: int, batch: int) -> Parts:
    """Digits in colour with a text, in classes of unequal size, balanced, changed in every way; some labels missing."""
    g = torch.Generator().manual_seed(7)
    digits = load_digits()
    rows = torch.from_numpy((digits.target < 3).nonzero()[0])[:90]
    kind = torch.from_numpy(digits.target)[rows]
    kept = (kind > 0) | (torch.arange(90) % 3 == 0)
    rows, kind = rows[kept], kind[kept]
    images = (torch.from_numpy(digits.images)[rows] * 15).to(torch.uint8)[:, None].repeat(1, 3, 1, 1)
    lengths = torch.randint(0, 9, (len(rows),), generator=g)
    data: dict[str, Any] = {
        "inputs": {
            "image": images,
            "text": Ragged(
                torch.randint(1, 9, (int(lengths.sum()),), generator=g),
                torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)]),
            ),
        },
        "targets": {"label": kind, "brightness": images.float().mean((1, 2, 3))[:, None] / 128},
        "valid": {"label": torch.arange(len(rows)) % 7 > 0},
    }
    signature = Signature(
        inputs={"image": Input(form="image", shape=(3, 8, 8)), "text": Input(form="tokens", sizes=(9,), shape=(9,))},
        outputs={"label": Output(form="category", size=3), "brightness": Output(form="number", size=1)},
    )
    augment = (
        FlipOptions(), RotateOptions(), ScaleOptions(), CropOptions(), ShiftOptions(), ColourOptions(hue=0.1),
        NoiseOptions(), EraseOptions(), TokenNoiseOptions(), TokenDropoutOptions(), MixupOptions(inputs=("image",)),
        CutmixOptions(inputs=("image",), probability=0.5),
    )  # fmt: skip
    encoders = {"image": CNNOptions(width=4, stages=2), "text": RNNOptions(embedding=6, size=5)}
    model = _model(ComposedOptions(encoders=encoders, body=MLPOptions(sizes=(8,))), signature, seed)
    objective = REGISTRY.build("objective", SupervisedOptions(), signature)
    loader = LoaderOptions(augment=augment, sample="balanced")
    source = REGISTRY.build("source", loader, data, batch=batch, seed=seed, signature=signature)
    return objective, model, source


def multimodal(seed: int, batch: int) -> Parts:
    """Images, ragged texts (some empty) and numbers, through a gate, to labels, an order, a count and a mixed class,
    their losses weighted by learned uncertainty."""
    g = torch.Generator().manual_seed(7)
    n = 96
    kind = torch.randint(0, 3, (n,), generator=g)
    images = torch.randint(0, 120, (n, 1, 6, 6), generator=g) + kind[:, None, None, None] * 60
    lengths = torch.randint(0, 7, (n,), generator=g)
    tokens = (torch.randint(0, 4, (int(lengths.sum()),), generator=g) + kind.repeat_interleave(lengths) * 4) % 11
    numbers = torch.randn(n, 3, generator=g)
    valid = torch.rand(n, generator=g) < 0.5
    share = torch.rand(n, 1, generator=g)
    mixed = share * functional.one_hot(kind, 3) + (1 - share) / 3
    data: dict[str, Any] = {
        "inputs": {
            "image": images.to(torch.uint8),
            "text": Ragged(tokens, torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])),
            "numbers": numbers,
        },
        "targets": {
            "labels": (numbers > 0).float(),
            "grade": torch.where(valid, kind, -1),
            "count": lengths[:, None].float(),
            "class": mixed,
        },
        "valid": {"grade": valid},
    }
    signature = Signature(
        inputs={
            "image": Input(form="image", shape=(1, 6, 6)),
            "text": Input(form="tokens", sizes=(11,), shape=(6,)),
            "numbers": Input(form="numbers", shape=(3,)),
        },
        outputs={
            "labels": Output(form="labels", size=3),
            "grade": Output(form="ordinal", size=3),
            "count": Output(form="count", size=1),
            "class": Output(form="category", size=3),
        },
    )
    options = ComposedOptions(
        encoders={
            "image": CNNOptions(width=4, stages=2),
            "text": RNNOptions(embedding=6, size=5),
            "numbers": PiecewiseOptions(bins=4, size=3),
        },
        fusion=GateOptions(size=12),
        body=ResidualMLPOptions(width=12, blocks=1),
        heads={"class": CategoryOptions(loss=FocalOptions(smoothing=0.1, weights=(1.0, 2.0, 0.5)))},
    )
    model = _model(options, signature, seed)
    assert isinstance(model, Composed)
    model.observe({"numbers": numbers, **data["inputs"]})
    objective = REGISTRY.build("objective", SupervisedOptions(weighting="uncertainty"), signature)
    return objective, model, REGISTRY.build("source", LoaderOptions(), data, batch=batch, seed=seed)


def _environment(
    model: Any, objective: Any, source: Any, environment: EnvironmentOptions, seed: int, batch: int
) -> Parts:
    seen = environment_signature(environment)
    return (
        REGISTRY.build("objective", objective, seen),
        _model(model, seen, seed),
        REGISTRY.build("source", source, environment=environment, seed=seed, batch=batch),
    )


def dqn(seed: int, batch: int) -> Parts:
    """Double DQN on CartPole with prioritised n-step replay: each update's errors decide what is sampled next."""
    source = ReplayOptions(capacity=200, learning_starts=32, n_step=3, priorities=PrioritiesOptions(beta_steps=100))
    environment = EnvironmentOptions(id="CartPole-v1", count=2)
    return _environment(QNetworkOptions(sizes=(16, 16)), DQNOptions(double=True), source, environment, seed, batch)


def rainbow(seed: int, batch: int) -> Parts:
    """DQN with all its switches: noisy duelling streams of a distribution of returns, double, Munchausen, prioritised
    n-step replay."""
    source = ReplayOptions(
        capacity=200, learning_starts=32, n_step=3, priorities=PrioritiesOptions(beta_steps=100),
        epsilon=EpsilonOptions(start=0, end=0),
    )  # fmt: skip
    distribution = DistributionOptions(kind="categorical", atoms=11, low=0, high=20)
    model = QNetworkOptions(sizes=(12, 12), duelling=True, noisy=0.5, distribution=distribution)
    objective = DQNOptions(double=True, munchausen=MunchausenOptions())
    return _environment(model, objective, source, EnvironmentOptions(id="CartPole-v1", count=2), seed, batch)


def frames(seed: int, batch: int) -> Parts:
    """Three frames of Pendulum from a ring of replayed rows that goes round, its copies in processes, its rewards
    normalised."""
    environment = EnvironmentOptions(
        id="Pendulum-v1", count=2, vectorization="processes", frame_skip=2, time_limit=9,
        reward=RewardOptions(normalise=True, clip=5.0),
    )  # fmt: skip
    model = SquashedGaussianOptions(sizes=(8,), frames=3, normalise=True)
    source = ReplayOptions(capacity=40, learning_starts=24, n_step=2)
    return _environment(model, SACOptions(critic_sizes=(8,)), source, environment, seed, batch)


def sac(seed: int, batch: int) -> Parts:
    """SAC on Pendulum: critic, actor and temperature in turn, with target critics."""
    source = ReplayOptions(capacity=300, learning_starts=24)
    environment = EnvironmentOptions(id="Pendulum-v1", count=2)
    model = SquashedGaussianOptions(sizes=(16, 16))
    return _environment(model, SACOptions(critic_sizes=(16, 16)), source, environment, seed, batch)


def hindsight(seed: int, batch: int) -> Parts:
    """SAC on a point with goals, most of them taken in hindsight, from a ring of replayed rows that goes round."""
    source = ReplayOptions(capacity=60, learning_starts=24, n_step=2, hindsight=HindsightOptions())
    environment = EnvironmentOptions(id="Point-v0", count=3, options={"ends": True})
    model = SquashedGaussianOptions(sizes=(12,), normalise=True)
    return _environment(model, SACOptions(critic_sizes=(12,)), source, environment, seed, batch)


def overlap(seed: int, batch: int) -> Parts:
    """SAC on Pendulum, whose copies take their next step in processes while updates run."""
    source = ReplayOptions(capacity=300, learning_starts=24, updates_per_round=2, overlap=True)
    environment = EnvironmentOptions(id="Pendulum-v1", count=2, vectorization="processes", time_limit=9)
    model = SquashedGaussianOptions(sizes=(12,), normalise=True)
    return _environment(model, SACOptions(critic_sizes=(12,)), source, environment, seed, batch)


def td3(seed: int, batch: int) -> Parts:
    """TD3 on Pendulum: an actor that moves with every second update of its critics, and targets of both."""
    source = ReplayOptions(capacity=300, learning_starts=24, n_step=2)
    environment = EnvironmentOptions(id="Pendulum-v1", count=2)
    model = DeterministicOptions(sizes=(16, 16), normalise=True)
    return _environment(model, TD3Options(critic_sizes=(16, 16)), source, environment, seed, batch)


def ppo(seed: int, batch: int) -> Parts:
    """PPO with a memory on CartPole: a rollout, prepared once, feeds epochs of minibatches of sequences until it
    has moved the policy too far."""
    source = RolloutOptions(steps=16, sequence=8)
    objective = PPOOptions(epochs=3, minibatches=2, kl_limit=2e-4, entropy_weight=0.01)
    environment = EnvironmentOptions(id="CartPole-v1", count=8)
    model = ActorCriticOptions(sizes=(16,), memory=MemoryOptions(size=12), normalise=True)
    return _environment(model, objective, source, environment, seed, batch)


def lstm(seed: int, batch: int) -> Parts:
    """PPO with an LSTM on choices of several kinds, with clipped values."""
    source = RolloutOptions(steps=12, sequence=4)
    objective = PPOOptions(epochs=2, minibatches=3, value_clip=0.2)
    model = ActorCriticOptions(sizes=(12,), memory=MemoryOptions(kind="lstm", size=8))
    return _environment(model, objective, source, EnvironmentOptions(id="Dials-v0", count=4), seed, batch)


def curious(seed: int, batch: int) -> Parts:
    """PPO on CartPole with rewards for what is new: running statistics, and a predictor that learns beside."""
    objective = CuriousOptions(of=PPOOptions(epochs=2, minibatches=2), network=PolicyOptions(sizes=(12,)), features=6)
    environment = EnvironmentOptions(id="CartPole-v1", count=4)
    return _environment(ActorCriticOptions(sizes=(12,)), objective, RolloutOptions(steps=8), environment, seed, batch)


@functools.cache
def _recorded() -> str:
    """A file of transitions of Pendulum by random actions; it goes with the process."""
    folder = tempfile.TemporaryDirectory()
    atexit.register(folder.cleanup)
    return written(Path(folder.name), "npz", recorded("Pendulum-v1", 120))


def cloning(seed: int, batch: int) -> Parts:
    """Behaviour cloning of a squashed Gaussian from a file, normalised by the statistics of it."""
    environment = EnvironmentOptions(id="Pendulum-v1", count=2)
    source = TransitionOptions(path=_recorded())
    model = SquashedGaussianOptions(sizes=(12,), normalise=True)
    return _environment(model, CloningOptions(), source, environment, seed, batch)


def q_learning(seed: int, batch: int) -> Parts:
    """Q-learning in a table on the cliff: an epsilon-greedy rollout feeds an update for each of its steps."""
    source = RolloutOptions(steps=5, epsilon=EpsilonOptions(start=0.8, end=0.2, steps=60))
    environment = EnvironmentOptions(id="CliffWalking-v1", count=4)
    return _environment(QTableOptions(initial=0.3), QLearningOptions(), source, environment, seed, batch)


def gan(seed: int, batch: int) -> Parts:
    """A GAN on scikit-learn's digits, 8 by 8: discriminator and generator in turn."""
    images = torch.from_numpy(load_digits().data).float() / 16
    signature = Signature(
        inputs={"latent": Input(form="numbers", shape=(6,))}, outputs={"image": Output(form="number", size=64)}
    )
    body = MLPOptions(sizes=(24,), norm="layer")
    model = _model(ComposedOptions(body=body), signature, seed)
    objective = REGISTRY.build("objective", GANOptions(discriminator=ComposedOptions(body=body)), signature)
    source = REGISTRY.build("source", LoaderOptions(), {"targets": {"image": images}}, batch=batch, seed=seed)
    return objective, model, source


def language(seed: int, batch: int) -> Parts:
    """A decoder on packed documents of ragged lengths."""
    g = torch.Generator().manual_seed(7)
    documents = [
        torch.randint(11, (int(n),), generator=g).cumsum(0) % 11 for n in torch.randint(2, 20, (60,), generator=g)
    ]
    signature = Signature(
        inputs={"tokens": Input(form="tokens", sizes=(11,))}, outputs={"tokens": Output(form="tokens", size=11)}
    )
    model = _model(DecoderOptions(layers=2, width=16, heads=4, kv_heads=2, context=24), signature, seed)
    objective = REGISTRY.build("objective", LanguageOptions(), signature)
    source = REGISTRY.build("source", TokenOptions(block=24), Ragged.from_rows(documents), batch=batch, seed=seed)
    return objective, model, source


def chats(seed: int, batch: int) -> Parts:
    """A decoder with adapters on packed chats of ragged lengths, whose answers alone are learned."""
    g = torch.Generator().manual_seed(7)
    lengths = torch.randint(3, 20, (60,), generator=g)
    documents = Ragged.from_rows([torch.randint(11, (int(n),), generator=g).cumsum(0) % 11 for n in lengths])
    learned = torch.rand(len(documents.values), generator=g) < 0.4
    signature = Signature(
        inputs={"tokens": Input(form="tokens", sizes=(11,))}, outputs={"tokens": Output(form="tokens", size=11)}
    )
    model = _model(DecoderOptions(layers=2, width=16, heads=4, kv_heads=2, context=24), signature, seed)
    adapt(LoRAOptions(rank=2), model)
    objective = REGISTRY.build("objective", LanguageOptions(), signature)
    options = TokenOptions(block=24)
    source = REGISTRY.build("source", options, documents, batch=batch, seed=seed, learned=learned)
    return objective, model, source


def dpo(seed: int, batch: int) -> Parts:
    """A decoder on pairs of answers of ragged lengths, against a frozen copy of itself."""
    g = torch.Generator().manual_seed(7)

    def answers() -> dict[str, Ragged]:
        lengths = torch.randint(4, 20, (40,), generator=g)
        tokens = Ragged.from_rows([torch.randint(11, (int(n),), generator=g) for n in lengths])
        within = torch.arange(len(tokens.values)) - torch.repeat_interleave(tokens.offsets[:-1], tokens.lengths)
        return {"tokens": tokens, "learned": Ragged(within >= 3, tokens.offsets)}

    signature = Signature(
        inputs={"tokens": Input(form="tokens", sizes=(11,))}, outputs={"tokens": Output(form="tokens", size=11)}
    )
    model = _model(DecoderOptions(layers=1, width=16, heads=2, context=24), signature, seed)
    rows = {"chosen": answers(), "rejected": answers()}
    source = REGISTRY.build("source", LoaderOptions(), rows, batch=batch, seed=seed)
    return REGISTRY.build("objective", DPOOptions(), signature), model, source


def grpo(seed: int, batch: int) -> Parts:
    """GRPO of a decoder against its frozen reference: groups of ragged completions, two epochs each."""
    options = CompletionOptions(task=CopyOptions(digits=1), prompts=batch // 4, group=4, max_tokens=6)
    signature = task_pipeline(CopyTask(CopyOptions(digits=1))).signature
    model = _model(DecoderOptions(layers=1, width=16, heads=2, context=12), signature, seed)
    objective = REGISTRY.build("objective", GRPOOptions(epochs=2, mask_truncated=False), signature)
    return objective, model, CompletionSource(options, seed=seed)


def token_critic(seed: int, batch: int) -> Parts:
    """PPO of a decoder: a critic for every token, and a divergence from the reference that tokens pay for."""
    _objective, model, source = grpo(seed, batch)
    options = GRPOOptions(preset="ppo", mask_truncated=False)
    return REGISTRY.build("objective", options, source.pipeline.signature), model, source


SLICES = {
    s.name: s
    for s in [
        Slice("supervised", supervised),
        Slice("multimodal", multimodal),
        Slice("augmented", augmented),
        Slice("dqn", dqn, learn={"clip": 10.0}),
        Slice("rainbow", rainbow, learn={"clip": 10.0}),
        Slice("frames", frames, updates=36),
        Slice("sac", sac),
        Slice("hindsight", hindsight, updates=60),
        Slice("overlap", overlap, updates=36),
        Slice("td3", td3),
        Slice("ppo", ppo, learn={"clip": 0.5}),
        Slice("lstm", lstm),
        Slice("curious", curious),
        Slice("cloning", cloning),
        Slice("q-learning", q_learning),
        Slice("gan", gan),
        Slice("language", language),
        Slice("chats", chats),
        Slice("dpo", dpo),
        Slice("grpo", grpo, batch=16),
        Slice("token-critic", token_critic, batch=16),
    ]
}
