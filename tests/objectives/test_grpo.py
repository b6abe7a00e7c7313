"""GRPO against a slow, independent implementation; its warnings; and that it learns."""

from __future__ import annotations

import math
import statistics
import warnings
from dataclasses import replace

import pytest
import torch

from reinforge.core import batch as batches
from reinforge.core.contracts import Clock, Experience
from reinforge.core.ragged import Ragged
from reinforge.engine.loop import Engine
from reinforge.errors import ComponentError
from reinforge.models.decoder import Decoder
from reinforge.models.options import DecoderOptions
from reinforge.objectives.grpo import GRPO, GRPOLearner, advantages
from reinforge.objectives.options import GRPOOptions
from reinforge.recipe.sections import Learn, Stop
from reinforge.sources.completions import CompletionSource, task_pipeline
from reinforge.sources.options import CompletionOptions, CopyOptions
from reinforge.sources.tasks import CopyTask

PIPELINE = task_pipeline(CopyTask(CopyOptions()))


def decoder(**options: object) -> Decoder:
    torch.manual_seed(0)
    settings = {"layers": 1, "width": 32, "heads": 2, "context": 16, **options}
    return Decoder(DecoderOptions.model_validate(settings), PIPELINE.signature)


def grpo(**options: object) -> GRPO:
    return GRPO(GRPOOptions.model_validate(options), PIPELINE.signature)


def experience(model: Decoder, seed: int = 0, **options: object) -> Experience:
    settings = {"task": CopyOptions(digits=1), "prompts": 3, "group": 4, "max_tokens": 8, **options}
    source = CompletionSource(CompletionOptions.model_validate(settings), seed=seed)
    source.model = model
    taken = source.next(Clock())
    # An untrained model is hardly ever right: rewards with spread, so that advantages are not 0.
    reward = torch.rand(taken.samples, generator=torch.Generator().manual_seed(8))
    return replace(taken, batch={**taken.batch, "reward": reward})


def moved(learner: GRPOLearner, amount: float = 0.05) -> None:
    g = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in learner.model.parameters():
            parameter.add_(amount * torch.randn(parameter.shape, generator=g))


def slow_terms(learner: GRPOLearner, prepared: Experience, options: GRPOOptions) -> tuple[float, float, int]:
    """Sums of the policy term and the divergence, and valid tokens: one completion, one token at a time, in Python."""
    batch = prepared.batch
    rewards: dict[int, list[float]] = {}
    for group, reward in zip(batch["group"].tolist(), batch["reward"].tolist()):  # type: ignore[union-attr]
        rewards.setdefault(group, []).append(reward)
    policy = divergence = 0.0
    count = 0
    with torch.no_grad():
        for i in range(len(batch["reward"])):
            if options.mask_truncated and batch["truncated"][i]:  # type: ignore[index]
                continue
            group = rewards[int(batch["group"][i])]  # type: ignore[index]
            advantage = float(batch["reward"][i]) - statistics.mean(group)  # type: ignore[index]
            if options.scale == "group":
                advantage /= statistics.stdev(group) + 1e-4
            row, prompt = batch["tokens"].row(i), int(batch["prompt"][i])  # type: ignore[union-attr, index]
            new, reference = (
                (m({"tokens": row[None]})[0]["tokens"][0] / options.temperature).log_softmax(-1)
                for m in (learner.model, learner.reference or learner.model)
            )
            old = batch["old_log_probs"].row(i)  # type: ignore[union-attr]
            for t in range(prompt, len(row)):
                log_prob, ref = float(new[t - 1, row[t]]), float(reference[t - 1, row[t]])
                ratio = math.exp(log_prob - float(old[t - prompt]))
                high = options.clip_high or options.clip
                policy -= min(ratio * advantage, min(max(ratio, 1 - options.clip), 1 + high) * advantage)
                divergence += math.exp(ref - log_prob) - (ref - log_prob) - 1
                count += 1
    return policy, divergence, count


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"beta": 0.0, "scale": "none"},
        {"clip": 0.1, "clip_high": 0.3, "temperature": 0.7, "mask_truncated": False},
    ],
)
def test_equals_a_slow_implementation_however_split(settings: dict[str, object]) -> None:
    objective, model = grpo(**settings), decoder()
    options = objective.options
    learner = objective.build(model)
    prepared = objective.prepare(learner, experience(model, temperature=options.temperature))
    moved(learner)
    policy, divergence, count = slow_terms(learner, prepared, options)
    counts = objective.counts(prepared.batch)
    assert int(counts["policy"]) == count > 0
    gradients = []
    for size in (12, 5, 1):
        learner.zero_grad()
        sums: dict[str, float] = {}
        for part in batches.split(prepared.batch, size):
            loss = objective.loss(learner, part, counts)
            total = sum(term.weight * term.sum / counts[name] for name, term in loss.terms.items() if term.weight)
            assert isinstance(total, torch.Tensor)
            total.backward()
            for name, term in loss.terms.items():
                sums[name] = sums.get(name, 0.0) + float(term.sum.detach())
        assert sums["policy"] == pytest.approx(policy, rel=1e-3, abs=1e-3)
        if options.beta:
            assert sums["kl"] == pytest.approx(divergence, rel=1e-3, abs=1e-3)
            assert sums["kl"] > 0
        assert sums["clipped"] > 0, "the weights moved far enough to clip"
        gradients.append(torch.cat([p.grad.flatten() for p in learner.model.parameters() if p.grad is not None]))
    for gradient in gradients[1:]:
        assert (gradient - gradients[0]).norm() <= 1e-5 * gradients[0].norm()


def test_ratio_is_one_at_the_first_step_and_the_sampler_agrees() -> None:
    objective, model = grpo(), decoder()
    learner = objective.build(model)
    prepared = objective.prepare(learner, experience(model))
    old, sampled = prepared.batch["old_log_probs"], prepared.batch["sampled_log_probs"]
    assert isinstance(old, Ragged)
    assert isinstance(sampled, Ragged)
    assert old.offsets.equal(sampled.offsets)
    torch.testing.assert_close(old.values, sampled.values, atol=1e-4, rtol=1e-4)
    loss = objective.loss(learner, prepared.batch, objective.counts(prepared.batch))
    assert float(loss.terms["clipped"].sum) == 0.0
    assert float(loss.terms["kl"].sum.detach()) == pytest.approx(0.0, abs=1e-6)
    valid = prepared.batch["valid"]
    lengths = sampled.lengths[valid]  # type: ignore[index]
    expected = -(prepared.batch["advantage"][valid] * lengths).sum()  # type: ignore[call-overload, index]
    assert float(loss.terms["policy"].sum.detach()) == pytest.approx(float(expected), abs=1e-4)


def test_advantages_by_group() -> None:
    reward = torch.tensor([1.0, 0.0, 0.5, 0.5, 0.1, 0.1])
    group = torch.tensor([0, 0, 1, 1, 2, 2])
    found, flat = advantages(reward, group, "group")
    assert flat.tolist() == [False, False, True, True, True, True]
    assert found[2:].tolist() == [0.0] * 4
    assert found[0] == pytest.approx(0.5 / (math.sqrt(0.5) + 1e-4))
    assert advantages(reward, group, "none")[0][:2].tolist() == [0.5, -0.5]
    # The mean of equal rewards need not be that reward in binary, and what remains must not be learned from.
    equal = torch.full((6,), 0.1, dtype=torch.float64)
    assert float(equal.sum() / 6) != float(equal[0])
    for scale in ("group", "none"):
        found, flat = advantages(equal, torch.zeros(6, dtype=torch.int64), scale)
        assert flat.all()
        assert found.tolist() == [0.0] * 6


def test_all_truncated_is_masked_and_warned() -> None:
    objective, model = grpo(beta=0.0), decoder()
    learner = objective.build(model)
    taken = experience(model)
    taken = replace(taken, batch={**taken.batch, "truncated": torch.ones(12, dtype=torch.bool)})
    with pytest.warns(RuntimeWarning, match="every completion was cut"):
        prepared = objective.prepare(learner, taken)
    assert int(objective.counts(prepared.batch)["policy"]) == 0
    term = objective.loss(learner, prepared.batch, objective.counts(prepared.batch)).terms["policy"]
    term.sum.backward()
    assert float(term.sum.detach()) == 0.0
    assert all(p.grad is None or not p.grad.any() for p in learner.model.parameters())


def test_no_spread_is_counted_and_warned() -> None:
    objective, model = grpo(beta=0.0), decoder()
    learner = objective.build(model)
    taken = experience(model)
    some = torch.tensor([0.0, 1.0, 0.0, 1.0] + [0.3] * 8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        prepared = objective.prepare(learner, replace(taken, batch={**taken.batch, "reward": some}))
    loss = objective.loss(learner, prepared.batch, objective.counts(prepared.batch))
    assert float(loss.terms["flat"].sum) == 8
    with pytest.warns(RuntimeWarning, match="no group has any spread"):
        prepared = objective.prepare(learner, replace(taken, batch={**taken.batch, "reward": torch.full((12,), 0.3)}))
    objective.loss(learner, prepared.batch, objective.counts(prepared.batch)).terms["policy"].sum.backward()
    assert all(p.grad is None or not p.grad.any() for p in learner.model.parameters())


def test_the_reference_is_frozen_and_part_of_the_learner() -> None:
    learner = grpo().build(decoder())
    assert learner.reference is not None
    assert not any(p.requires_grad for p in learner.reference.parameters())
    assert any(name.startswith("reference.") for name in learner.state_dict())
    assert grpo(beta=0.0).build(decoder()).reference is None
    (step,) = grpo().steps(learner)
    assert {id(p) for p in step.parameters} == {id(p) for p in learner.model.parameters()}
    with pytest.raises(ComponentError, match="dropout"):
        grpo().build(decoder(dropout=0.1))


def test_learns_to_copy_through_the_engine() -> None:
    options = CompletionOptions(task=CopyOptions(digits=1), prompts=8, group=8, max_tokens=4)
    source = CompletionSource(options, seed=0)
    engine = Engine(
        grpo(beta=0.0, mask_truncated=False), decoder(), source,
        learn=Learn(batch=64, lr=1e-2, clip=1.0, stop=Stop(updates=60), threads=1),
    )  # fmt: skip
    source.publish(engine.learner, Clock())
    before = float(source.next(Clock()).batch["reward"].mean())  # type: ignore[union-attr]
    engine.run()
    after = float(source.next(Clock()).batch["reward"].mean())  # type: ignore[union-attr]
    assert before < 0.2
    assert after > 0.6


def test_another_temperature_than_the_samplers_is_refused() -> None:
    """The ratios would be those of another distribution."""
    learner, taken = grpo().build(decoder()), experience(decoder(), temperature=0.7)
    with pytest.raises(ComponentError, match=r"0\.7"):
        grpo().prepare(learner, taken)
    grpo(temperature=0.7).prepare(learner, taken)
