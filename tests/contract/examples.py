"""Examples on which components are tried. Most kinds need none: a component is tried on every form that its kind knows.

A new kind of component: add its test module here and to COVERED, or say in ELSEWHERE where it is tested. A new model:
add an example to MODELS. A new objective or source: add a slice to tests/slices/catalogue.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import cast

import pytest
import torch
from torch import Tensor, nn

from reinforge.core.batch import Batch, Leaf
from reinforge.core.contracts import Clock, Experience, Objective, Source
from reinforge.core.ragged import Ragged
from reinforge.environments.build import signature as environment_signature
from reinforge.environments.options import EnvironmentOptions
from reinforge.errors import ReinforgeError
from reinforge.models.classic.classic import Classic
from reinforge.models.classic.fitting import fit
from reinforge.models.classic.options import BoostingOptions, ForestOptions, LinearOptions, TreeOptions
from reinforge.models.decoder_options import DecoderOptions
from reinforge.models.options import ComposedOptions, MLPOptions, PretrainedOptions
from reinforge.models.policy_options import (
    ActorCriticOptions,
    DeterministicOptions,
    QNetworkOptions,
    QTableOptions,
    SquashedGaussianOptions,
)
from reinforge.models.scorer_options import DecoderEncoderOptions, ScorerOptions
from reinforge.objectives.masked import Vocabulary
from reinforge.objectives.options import (
    A2COptions,
    DDPGOptions,
    DistillationOptions,
    DPOOptions,
    IPOOptions,
    IQLOptions,
    KTOOptions,
    LanguageOptions,
    LinearPotentialOptions,
    MaskedOptions,
    ORPOOptions,
    PreferenceOptions,
    REINFORCEOptions,
    RewardModelOptions,
    SARSAOptions,
    ShapedOptions,
    SimPOOptions,
    TD3Options,
)
from reinforge.objectives.reward_options import GRPOOptions
from reinforge.registry import REGISTRY, Component, Options
from reinforge.schema.signature import Input, Output, Signature
from reinforge.sources.completions import task_pipeline
from reinforge.sources.options import CompletionOptions, IterableOptions, LoaderOptions, RolloutOptions, TokenOptions
from tests.slices.catalogue import SLICES

COVERED = {
    "augmentation",
    "encoder",
    "fusion",
    "body",
    "head",
    "loss",
    "metric",
    "model",
    "objective",
    "source",
    "optimizer",
    "schedule",
    "sparse-optimizer",
    "average",
}
ELSEWHERE = {
    "data": "tests/data", "task": "tests/sources", "tokenizer": "tests/data", "environment": "tests/environments",
    "potential": "tests/objectives", "adapter": "tests/models", "advantage": "tests/objectives",
    "ratio": "tests/objectives", "aggregation": "tests/objectives", "reward": "tests/data",
    "interaction": "tests/data",
}  # fmt: skip
ROWS = 6


# Of components that have no default options.
OPTIONS: dict[tuple[str, str], Options] = {
    ("encoder", "decoder"): DecoderEncoderOptions(config=DecoderOptions(layers=1, width=8, heads=2, context=9)),
    ("encoder", "pretrained"): PretrainedOptions(
        source="tiny", weights=False,
        config={
            "model_type": "bert", "vocab_size": 7, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2,
            "intermediate_size": 16, "max_position_embeddings": 9, "type_vocab_size": 1, "hidden_dropout_prob": 0.0,
            "attention_probs_dropout_prob": 0.0, "initializer_range": 0.5,
        },
    )
}  # fmt: skip
# What only a Python caller can give; building it is an error, tested in tests/workflow.
GIVEN = {("model", "given")}


def components(kind: str) -> list[object]:
    """Parameters for a test of every component of a kind."""
    found = [component for component in REGISTRY.all(kind) if (kind, component.name) not in GIVEN]
    return [pytest.param(component, id=component.name) for component in found]


def options_of(component: Component) -> Options:
    """Its default options, or an example's where it can't be without some."""
    return OPTIONS.get((component.kind, component.name)) or component.options()


def draws() -> torch.Generator:
    """The same random numbers for every test."""
    return torch.Generator().manual_seed(0)


# Input blocks and outputs of every form, with values for them.

BLOCKS = {
    "numbers": Input(form="numbers", shape=(5,)),
    "categories": Input(form="categories", sizes=(3, 2, 4)),
    "box": Input(form="box", shape=(2, 3)),
    "tokens": Input(form="tokens", sizes=(7,)),
    # Of different lengths, one of them empty.
    "text": Input(form="tokens", sizes=(7,), shape=(9,)),
    "image": Input(form="image", shape=(3, 8, 8)),
}
OUTPUTS = {
    "number": Output(form="number", size=2),
    "category": Output(form="category", size=3),
    "tokens": Output(form="tokens", size=7),
    "discrete": Output(form="discrete", size=3),
    "continuous": Output(form="continuous", size=2, low=(-1.0, -2.0), high=(1.0, 2.0)),
    "labels": Output(form="labels", size=4),
    "ordinal": Output(form="ordinal", size=4),
    "count": Output(form="count", size=1),
    "span": Output(form="span", size=9, of="text"),
}


def values(block: Input, rows: int = ROWS) -> Leaf:
    """An input block's values."""
    g = draws()
    if block.form == "image":
        return torch.randint(0, 256, (rows, *block.shape), generator=g, dtype=torch.uint8)
    if block.form == "tokens" and block.shape:
        lengths = torch.tensor([4, 0, 9, 1, 6, 2, 3])[torch.arange(rows) % 7]
        tokens = torch.randint(0, block.sizes[0], (int(lengths.sum()),), generator=g)
        return Ragged(tokens, torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)]))
    if block.form == "categories":
        return torch.stack([torch.randint(0, size, (rows,), generator=g) for size in block.sizes], 1)
    if block.form == "tokens":
        return torch.randint(0, block.sizes[0], (rows, 8), generator=g)
    return torch.randn(rows, *block.shape, generator=g)


def targets(output: Output, rows: int = ROWS) -> Tensor:
    """An output's targets."""
    g = draws()
    if output.form in ("number", "continuous"):
        return torch.rand(rows, output.size, generator=g) * 2 - 1
    if output.form == "labels":
        return torch.randint(0, 2, (rows, output.size), generator=g).float()
    if output.form == "count":
        return torch.randint(0, 5, (rows, 1), generator=g).float()
    if output.form == "span":
        return torch.randint(0, output.size, (rows, 2), generator=g).sort(1).values
    return torch.randint(0, output.size, (rows,), generator=g)


def fitting(component: Component, forms: dict[str, Input] | dict[str, Output], *more: object) -> Iterator[tuple]:
    """Every form that the component can be built for, with what was built. At least one, or the test fails."""
    found = False
    for form in forms.values():
        torch.manual_seed(0)
        try:
            built = REGISTRY.build(component.kind, options_of(component), form, *more)
        except ReinforgeError:
            continue
        found = True
        yield form, built
    assert found, f"{component.kind} {component.name!r} can't be built for any of {list(forms)}: add its form"


# Models, by name: options, and the signature that they are built for.


@dataclass(frozen=True)
class ModelExample:
    """A small model: its options and a signature."""

    options: Options
    signature: Signature

    def build(self) -> nn.Module:
        """With the same initial weights each time; fitted, where it learns at once."""
        torch.manual_seed(0)
        model: nn.Module = REGISTRY.build("model", self.options, self.signature)
        if isinstance(model, Classic):
            wanted = {name: targets(output, 60) for name, output in self.signature.outputs.items()}
            fit(model, {"inputs": self.inputs(60), "targets": wanted, "valid": {}})
        return model

    def inputs(self, rows: int = ROWS) -> Batch:
        """A batch's inputs."""
        return {name: values(block, rows) for name, block in self.signature.inputs.items()}


def _signature(inputs: dict[str, str], **outputs: str) -> Signature:
    return Signature(
        inputs={name: BLOCKS[form] for name, form in inputs.items()},
        outputs={name: OUTPUTS[form] for name, form in outputs.items()},
    )


MODELS: dict[str, ModelExample] = {
    "composed": ModelExample(
        ComposedOptions(body=MLPOptions(sizes=(8,))),
        _signature({"numbers": "numbers", "categories": "categories", "box": "box"}, y="number", label="category"),
    ),
    **{
        options.kind: ModelExample(
            options,
            _signature(
                {"numbers": "numbers", "categories": "categories", "image": "image"},
                y="number",
                label="category",
                order="ordinal",
                labels="labels",
                n="count",
            ),
        )
        for options in (LinearOptions(), TreeOptions(), ForestOptions(trees=5), BoostingOptions(rounds=5))
    },
    "decoder": ModelExample(
        DecoderOptions(layers=1, width=8, heads=2, context=8), _signature({"tokens": "tokens"}, tokens="tokens")
    ),
    "scorer": ModelExample(
        ScorerOptions(layers=1, width=8, heads=2, context=8), _signature({"tokens": "tokens"}, y="number")
    ),
    "q-table": ModelExample(QTableOptions(initial=0.5), _signature({"state": "categories"}, action="discrete")),
    "q-network": ModelExample(QNetworkOptions(sizes=(8,)), _signature({"observation": "box"}, action="discrete")),
    "actor-critic": ModelExample(ActorCriticOptions(sizes=(8,)), _signature({"observation": "box"}, action="discrete")),
    "deterministic": ModelExample(
        DeterministicOptions(sizes=(8,)), _signature({"observation": "box"}, action="continuous")
    ),
    "squashed-gaussian": ModelExample(
        SquashedGaussianOptions(sizes=(8,)), _signature({"observation": "box"}, action="continuous")
    ),
}


def model_example(name: str) -> ModelExample:
    """The model's example, or a failure that says how to add one."""
    if name not in MODELS:
        pytest.fail(f"model {name!r} has no example: add one to MODELS in tests/contract/examples.py")
    return MODELS[name]


# Objectives and sources, from the slices.

Parts = tuple[Objective, nn.Module, Source]
PLACES = {"objective": 0, "source": 2}


def _iterable(seed: int, batch: int) -> Parts:
    """The supervised slice, its batches from a list."""
    objective, model, loader = SLICES["supervised"].build(seed, batch)
    items = [cast(Experience, loader.next(Clock())).batch for _ in range(5)]
    return objective, model, REGISTRY.build("source", IterableOptions(), items, objective.signature)


def _decoder(signature: Signature, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    model: nn.Module = REGISTRY.build("model", DecoderOptions(layers=1, width=8, heads=2, context=12), signature)
    return model


def _language(seed: int, batch: int) -> Parts:
    """A decoder on random tokens."""
    signature = _signature({"tokens": "tokens"}, tokens="tokens")
    tokens = torch.randint(0, 7, (1000,), generator=draws())
    source = REGISTRY.build("source", TokenOptions(block=8), tokens, batch=batch, seed=seed)
    return REGISTRY.build("objective", LanguageOptions(), signature), _decoder(signature, seed), source


def _distillation(seed: int, batch: int) -> Parts:
    """The same, of another decoder."""
    _objective, model, source = _language(seed, batch)
    signature = _signature({"tokens": "tokens"}, tokens="tokens")
    options, teacher = DistillationOptions(weight=0.5), _decoder(signature, seed + 1)
    return REGISTRY.build("objective", options, signature, teacher=teacher), model, source


def _masked(seed: int, batch: int) -> Parts:
    """An encoder on the same tokens, the last two of which no text has."""
    _objective, _model, source = _language(seed, batch)
    signature = _signature({"tokens": "tokens"}, tokens="tokens")
    torch.manual_seed(seed)
    model = REGISTRY.build("model", DecoderOptions(layers=1, width=16, heads=2, context=8, causal=False), signature)
    vocabulary = Vocabulary(6, torch.arange(7) < 5)
    return REGISTRY.build("objective", MaskedOptions(), signature, vocabulary=vocabulary), model, source


def _grpo(seed: int, batch: int) -> Parts:
    """A decoder that writes completions to a task's prompts; enough of them for some to be right."""
    options = CompletionOptions(prompts=2, group=16, max_tokens=4)
    source = REGISTRY.build("source", options, seed=seed)
    signature = task_pipeline(source.task).signature
    return REGISTRY.build("objective", GRPOOptions(), signature), _decoder(signature, seed), source


def _preferences(options: PreferenceOptions) -> Callable[[int, int], Parts]:
    """A decoder on answers that are better or worse, or wanted or not."""

    def build(seed: int, batch: int) -> Parts:
        signature = _signature({"tokens": "tokens"}, tokens="tokens")
        g = draws()

        def answers() -> Batch:
            lengths = torch.randint(4, 9, (24,), generator=g)
            offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
            tokens = torch.randint(0, 7, (int(offsets[-1]),), generator=g)
            within = torch.arange(len(tokens)) - torch.repeat_interleave(offsets[:-1], lengths)
            return {"tokens": Ragged(tokens, offsets), "learned": Ragged(within >= 2, offsets)}

        rows: dict[str, Leaf | Batch] = {"chosen": answers(), "rejected": answers()}
        if options.judged:
            rows = {"answer": answers(), "wanted": torch.rand(24, generator=g) < 0.5}
        source = REGISTRY.build("source", LoaderOptions(), rows, batch=batch, seed=seed)
        model = _decoder(signature, seed)
        if isinstance(options, RewardModelOptions):
            spoken = _signature({"tokens": "tokens"}, y="number")
            model = REGISTRY.build("model", ScorerOptions(layers=1, width=8, heads=2, context=12), spoken)
        return REGISTRY.build("objective", options, signature), model, source

    return build


def _ddpg(seed: int, batch: int) -> Parts:
    """The TD3 slice with DDPG."""
    _, model, source = SLICES["td3"].build(seed, batch)
    signature = _signature({"observation": "box"}, action="continuous")
    signature = signature.model_copy(update={"outputs": {"action": model.output}})
    return REGISTRY.build("objective", DDPGOptions(critic_sizes=(16, 16)), signature), model, source


def _policy_gradient(options: Options) -> Callable[[int, int], Parts]:
    """A policy gradient on Dials, whose episodes have five steps."""

    def build(seed: int, batch: int) -> Parts:
        environment = EnvironmentOptions(id="Dials-v0", count=4)
        found = environment_signature(environment)
        torch.manual_seed(seed)
        model: nn.Module = REGISTRY.build("model", ActorCriticOptions(sizes=(8,)), found)
        source = REGISTRY.build("source", RolloutOptions(steps=16), environment=environment, seed=seed, batch=batch)
        return REGISTRY.build("objective", options, found), model, source

    return build


def _sarsa(seed: int, batch: int) -> Parts:
    """The slice of Q-learning with SARSA."""
    _, model, source = SLICES["q-learning"].build(seed, batch)
    signature = _signature({"observation": "categories"}, action="discrete")
    return REGISTRY.build("objective", SARSAOptions(), signature), model, source


def _shaped(seed: int, batch: int) -> Parts:
    """The TD3 slice, its rewards shaped."""
    _, model, source = SLICES["td3"].build(seed, batch)
    potential = LinearPotentialOptions(weights={"observation": (1.0, 0.0, -0.1)})
    options = ShapedOptions(of=TD3Options(critic_sizes=(16, 16)), potential=potential)
    signature = _signature({"observation": "box"}, action="continuous")
    signature = signature.model_copy(update={"outputs": {"action": model.output}})
    return REGISTRY.build("objective", options, signature), model, source


def _iql(seed: int, batch: int) -> Parts:
    """The slice of cloning with IQL."""
    _, model, source = SLICES["cloning"].build(seed, batch)
    signature = _signature({"observation": "box"}, action="continuous")
    signature = signature.model_copy(update={"outputs": {"action": model.output}})
    return REGISTRY.build("objective", IQLOptions(critic_sizes=(16,)), signature), model, source


# Slices first; what follows them are components that no slice has.
BUILDS: dict[str, Callable[[int, int], Parts]] = {
    **{name: piece.build for name, piece in SLICES.items()},
    **{
        "iterable": _iterable,
        "distillation": _distillation,
        "masked": _masked,
        "tokens": _language,
        "completions": _grpo,
        "ddpg": _ddpg,
        "sarsa": _sarsa,
        "shaped": _shaped,
        "iql": _iql,
    },
    **{
        options.__name__: _preferences(options())
        for options in (DPOOptions, IPOOptions, SimPOOptions, ORPOOptions, KTOOptions, RewardModelOptions)
    },
    **{"reinforce": _policy_gradient(REINFORCEOptions()), "a2c": _policy_gradient(A2COptions())},
}


def slice_of(component: Component) -> Callable[[int, int], Parts]:
    """What builds a small training with that objective or source, from a seed and a batch's size."""
    wanted = component.load()
    for build in BUILDS.values():
        if isinstance(wanted, type) and isinstance(build(0, 4)[PLACES[component.kind]], wanted):
            return build
    pytest.fail(f"{component.kind} {component.name!r} is in no slice: add one to SLICES in tests/slices/catalogue.py")
