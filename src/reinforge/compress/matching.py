"""Recovery: a changed network learns to give what the network it came from gives, on given inputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from reinforge.bundle.bundle import Bundle
from reinforge.bundle.score_form import ScoreForm
from reinforge.bundle.text_form import TextForm
from reinforge.compress.texts import texts
from reinforge.core import batch as batches
from reinforge.core import seeds
from reinforge.core.batch import Batch
from reinforge.core.ragged import Ragged
from reinforge.data.prepared import prepare
from reinforge.environments.build import build as build_environment
from reinforge.environments.observations import tensors
from reinforge.environments.options import EnvironmentOptions
from reinforge.errors import DataError
from reinforge.messages import _
from reinforge.models.policy import Policy, choices, decode
from reinforge.schema.signature import Output, Signature
from reinforge.workflow.evaluate import recipe_of

# How fast, and how many rows at once. A few passes are enough: the teacher tells more of a row than a label does.
RATE, ROWS = 2e-3, 128
# Of texts, so many tokens at about: each of them is told.
TOKENS = 2048
# Policies that learn from new weights are small, and their last layer begins at nearly nothing.
NEW_POLICY = 1e-2
# Rows of a policy are what it saw itself, some of its actions drawn at random; and, so many times on the way, what the
# one that learns sees.
STEPS, RANDOM, ROUNDS = 8_000, 0.1, 4
# What a network that learns is shown next, by the number of the round.
More = Callable[[nn.Module, int], Batch]


def match(
    student: nn.Module, teacher: nn.Module, inputs: Batch, signature: Signature, updates: int, seed: int,
    more: More | None = None, rate: float = RATE,
) -> None:  # fmt: skip
    """Train the student for so many updates to give the teacher's outputs: Kullback-Leibler divergence of choices,
    squared error of numbers (Hinton, Vinyals and Dean, arXiv:1503.02531). Ends in evaluation mode.

    `more` adds rows at equal distances: what the student itself meets, where that depends on what it does, is not what
    the teacher meets (Ross, Gordon and Bagnell, "A Reduction of Imitation Learning and Structured Prediction to
    No-Regret Online Learning", 2011).
    """
    generator = torch.Generator().manual_seed(seed)
    # Steps so small would be lost in 16 bits.
    types = [(parameter, parameter.dtype) for parameter in student.parameters() if parameter.is_floating_point()]
    for parameter, dtype in types:
        if dtype in (torch.float16, torch.bfloat16):
            parameter.data = parameter.data.float()
    learning = [parameter for parameter in student.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(learning, lr=rate, fused=True)
    count = _at_once(inputs, signature)
    rounds = {updates * number // (ROUNDS + 1): number for number in range(1, ROUNDS + 1)} if more else {}
    student.train()
    teacher.eval()
    for update in range(updates):
        if more is not None and update in rounds:
            student.eval()
            inputs = batches.concatenate([inputs, more(student, rounds[update])])
            student.train()
        total = batches.rows(inputs)
        for group in optimizer.param_groups:
            # Down a straight line, to a hundredth.
            group["lr"] = rate * max(0.01, 1 - update / updates)
        some = batches.select(inputs, torch.randint(total, (min(count, total),), generator=generator))
        with torch.no_grad():
            wanted, _state = teacher(some)
        found, _state = student(some)
        apart = [_apart(output, found[name], wanted[name], some) for name, output in signature.outputs.items()]
        loss = torch.stack(apart).sum()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(learning, 1.0)
        optimizer.step()
    for parameter, dtype in types:
        parameter.data = parameter.data.to(dtype)
    student.eval()


def _at_once(inputs: Batch, signature: Signature) -> int:
    """How many rows an update takes: fewer of long texts whose every token has an output."""
    tokens = next((leaf for leaf in inputs.values() if isinstance(leaf, Ragged)), None)
    if tokens is None or all(output.form != "tokens" for output in signature.outputs.values()):
        return ROWS
    return max(1, min(ROWS, TOKENS * len(tokens) // max(len(tokens.values), 1)))


def _apart(output: Output, found: Tensor, wanted: Tensor, inputs: Batch) -> Tensor:
    """How far two outputs are apart, a row at the mean."""
    match output.form:
        case "category" | "ordinal" | "span" | "tokens":
            each = _divergence(found, wanted)
            tokens = next((leaf for leaf in inputs.values() if isinstance(leaf, Ragged)), None)
            if output.form == "tokens" and tokens is not None:
                real = torch.arange(each.shape[1]) < tokens.lengths[:, None]
                return each[real].mean()
            return each.mean()
        case "labels":
            return functional.binary_cross_entropy_with_logits(found, wanted.sigmoid())
        case "discrete" | "multi-discrete":
            parts = zip(choices(found, output), choices(wanted, output)) if output.sizes else [(found, wanted)]
            return torch.stack([_scored(mine, theirs) for mine, theirs in parts]).sum()
    # Numbers of whatever size they are.
    spread = wanted.std().clamp(min=1e-3) if wanted.numel() > 1 else wanted.new_ones(())
    return functional.mse_loss(found / spread, wanted / spread)


def _divergence(found: Tensor, wanted: Tensor) -> Tensor:
    """Kullback-Leibler, of the last side's choices."""
    return functional.kl_div(found.log_softmax(-1), wanted.log_softmax(-1), log_target=True, reduction="none").sum(-1)


def _scored(found: Tensor, wanted: Tensor) -> Tensor:
    """Scores of actions, of which the largest is taken: they matter by their differences, and most where those are
    small. The usual difference is what they are divided by before they are compared as choices."""
    usual = (wanted.amax(-1) - wanted.mean(-1)).median().clamp(min=1e-6)
    return _divergence(found / usual, wanted / usual).mean()


def inputs_of(bundle: Bundle, data: object, seed: int) -> Batch:
    """What a network is shown while it learns again: the rows of `data`, the training rows or texts of its recipe,
    or what a policy sees in its environment. Raises DataError."""
    if data is not None:
        return bundle.form.table_inputs(data)
    recipe = recipe_of(bundle)
    if bundle.form.kind == "table":
        prepared = prepare(recipe.data, recipe.seed, pipeline=bundle.form.pipeline)  # type: ignore[attr-defined]
        found: Batch = prepared.train["inputs"]
        return found
    if isinstance(bundle.form, TextForm | ScoreForm):
        rows = texts(bundle, bundle.form.pipeline, recipe, seed)
        if rows is not None:
            return {bundle.form.pipeline.BLOCK: rows}
    if isinstance(bundle.model, Policy) and isinstance(recipe.data, EnvironmentOptions):
        return seen(bundle.model, recipe.data, seed)
    raise DataError(
        _("there are no rows to learn again from"), where=str(bundle.path), remedy=_("Give some: --train FILE.")
    )


def more_of(bundle: Bundle, data: object, seed: int) -> More | None:
    """What shows a smaller policy what it sees by its own actions; None for other networks, and where `data` are
    given."""
    if data is not None or not isinstance(bundle.model, Policy):
        return None
    options = recipe_of(bundle).data
    assert isinstance(options, EnvironmentOptions)
    return lambda student, number: seen(cast(Policy, student), options, seeds.derive(seed, "student", number))


def seen(policy: Policy, options: EnvironmentOptions, seed: int) -> Batch:
    """What a policy sees while it acts; a tenth of its actions are drawn at random, so that it sees more than it
    would."""
    if policy.remembers:
        raise DataError(
            _("a policy that remembers learns from whole episodes, which this way can't give"),
            remedy=_("Take int8 or int8-weight, or train a smaller one."),
        )  # fmt: skip
    draw, output = np.random.default_rng(seed), policy.output
    environments = build_environment(options, seed=seed, count=8)
    found: list[Batch] = []
    try:
        observation = environments.reset()
        for _step in range(STEPS // environments.count):
            inputs = tensors(observation, policy.low.device)
            found.append(batches.apply(inputs, lambda leaf: leaf.clone() if isinstance(leaf, Tensor) else leaf))
            with torch.inference_mode():
                action = decode(policy.act(inputs)[0], output).cpu().numpy()
            other = draw.random(len(action)) < RANDOM
            action[other] = _any(output, int(other.sum()), draw)
            observation = environments.step(action).observation
    finally:
        environments.close()
    return batches.concatenate(found)


def _any(output: Output, count: int, draw: np.random.Generator) -> np.ndarray[Any, Any]:
    """Actions at random, in the environment's units."""
    match output.form:
        case "discrete":
            return draw.integers(output.size, size=count)
        case "multi-discrete":
            return draw.integers(np.array(output.sizes), size=(count, len(output.sizes)))
    return draw.uniform(output.low, output.high, (count, output.size)).astype(np.float32)
