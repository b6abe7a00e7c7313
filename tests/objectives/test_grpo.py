"""GRPO against a slow, independent implementation; its warnings; and that it learns."""

from __future__ import annotations

import copy
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
from reinforge.models.adapters import adapt
from reinforge.models.decoder import Decoder
from reinforge.models.decoder_options import DecoderOptions, LoRAOptions
from reinforge.objectives.completions import flat
from reinforge.objectives.grpo import GRPO, GRPOLearner, completion_lengths, log_probs
from reinforge.objectives.language import LanguageLearner
from reinforge.objectives.reward_options import (
    ClippedOptions,
    GRPOOptions,
    PerConstantOptions,
    PerTokenOptions,
    SequenceRatioOptions,
)
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
    source.publish(LanguageLearner(model), Clock())
    taken = source.next(Clock())
    # An untrained model is hardly ever right: rewards with spread, so that advantages are not 0.
    reward = torch.rand(taken.samples, generator=torch.Generator().manual_seed(8))
    return replace(taken, batch={**taken.batch, "reward": reward})


def moved(learner: GRPOLearner, amount: float = 0.05) -> None:
    g = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in learner.model.parameters():
            parameter.add_(amount * torch.randn(parameter.shape, generator=g))


@pytest.mark.parametrize("preset", ["grpo", "ppo"])
def test_a_completion_that_fills_the_context_trains(preset: str) -> None:
    """Its last token stands behind the context's end: it is drawn, and never read."""
    model = decoder(context=12)
    drawn = CompletionSource(CompletionOptions(task=CopyOptions(digits=1), prompts=2, group=3, max_tokens=99), seed=0)
    # Nothing ends by itself.
    drawn.sampling = replace(drawn.sampling, stop=())
    drawn.publish(LanguageLearner(model), Clock())
    taken = drawn.next(Clock())
    assert int(taken.batch["tokens"].lengths.max()) == 13  # type: ignore[union-attr]
    reward = torch.rand(6, generator=torch.Generator().manual_seed(8))
    objective = grpo(preset=preset, mask_truncated=False)
    learner = objective.build(model)
    prepared = objective.prepare(learner, replace(taken, batch={**taken.batch, "reward": reward}))
    batch = prepared.batch
    sampled = batch["sampled_log_probs"].values  # type: ignore[union-attr]
    torch.testing.assert_close(log_probs(model, batch, 1.0).detach(), sampled, atol=1e-4, rtol=0)
    loss = objective.loss(learner, batch, objective.counts(batch))
    loss.terms["policy"].sum.backward()  # type: ignore[no-untyped-call]
    assert all(bool(p.grad.isfinite().all()) for p in model.parameters() if p.grad is not None)
    if learner.critic is not None:
        assert bool(objective.value_loss(learner, batch, objective.counts(batch)).terms["value"].sum.isfinite())


def slow_advantages(rewards: list[float], kind: str, everything: list[float]) -> list[float]:
    """By the formulas, for one group."""
    found = []
    for place, reward in enumerate(rewards):
        others = rewards[:place] + rewards[place + 1 :]
        found.append({
            "group-normalised": (reward - statistics.mean(rewards)) / (statistics.stdev(rewards) + 1e-4),
            "group-mean": reward - statistics.mean(rewards),
            "leave-one-out": reward - statistics.mean(others),
            "batch-mean": reward - statistics.mean(everything),
        }[kind])  # fmt: skip
    return found


def slow_terms(learner: GRPOLearner, prepared: Experience, options: GRPOOptions) -> tuple[float, float]:
    """The policy's loss and the divergence: one completion, one token at a time, in Python."""
    batch = prepared.batch
    everything = batch["reward"].tolist()  # type: ignore[union-attr]
    groups: dict[int, list[int]] = {}
    for i, group in enumerate(batch["group"].tolist()):  # type: ignore[union-attr]
        groups.setdefault(group, []).append(i)
    advantage: dict[int, float] = {}
    for members in groups.values():
        rewards = [everything[i] for i in members]
        advantage |= dict(zip(members, slow_advantages(rewards, options.advantage.kind, everything)))  # type: ignore[attr-defined]
    ratio, aggregation = options.ratio, options.aggregation
    gains: list[list[float]] = []
    divergences: list[list[float]] = []
    with torch.no_grad():
        for i in range(len(everything)):
            if options.mask_truncated and batch["truncated"][i]:  # type: ignore[index]
                continue
            row, prompt = batch["tokens"].row(i), int(batch["prompt"][i])  # type: ignore[union-attr, index]
            new, reference = (
                (m({"tokens": row[None]})[0]["tokens"][0] / options.temperature).log_softmax(-1)
                for m in (learner.model, learner.reference or learner.model)
            )
            old = batch["old_log_probs"].row(i).tolist()  # type: ignore[union-attr]
            own = [float(new[t - 1, row[t]]) for t in range(prompt, len(row))]
            ref = [float(reference[t - 1, row[t]]) for t in range(prompt, len(row))]
            ratios = [math.exp(a - b) for a, b in zip(own, old)]
            if isinstance(ratio, SequenceRatioOptions):
                ratios = [math.exp(sum(a - b for a, b in zip(own, old)) / len(own))] * len(own)
            if isinstance(ratio, ClippedOptions):
                gains.append([
                    min(r * advantage[i], min(max(r, 1 - ratio.low), 1 + ratio.high) * advantage[i]) for r in ratios
                ])  # fmt: skip
            else:
                gains.append([advantage[i]] * len(own))
            divergences.append([math.exp(a - o) * (math.exp(b - a) - (b - a) - 1) for a, b, o in zip(own, ref, old)])

    def together(parts: list[list[float]]) -> float:
        if isinstance(aggregation, PerTokenOptions):
            return sum(map(sum, parts)) / sum(map(len, parts))
        if isinstance(aggregation, PerConstantOptions):
            return sum(map(sum, parts)) / aggregation.divisor / len(parts)
        return statistics.mean(statistics.mean(part) for part in parts)

    return -together(gains), together(divergences)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"preset": "dr-grpo", "aggregation": {"kind": "constant", "divisor": 8}, "mask_truncated": False},
        {"preset": "dapo", "beta": 0.1},
        {"preset": "gspo", "ratio": {"kind": "sequence", "low": 0.02, "high": 0.03}, "mask_truncated": False},
        {"preset": "rloo"},
        {"preset": "reinforce"},
        {"ratio": {"low": 0.1, "high": 0.3}, "temperature": 0.7, "mask_truncated": False},
    ],
)
def test_equals_a_slow_implementation_however_split(settings: dict[str, object]) -> None:
    objective, model = grpo(epochs=2, **settings), decoder()
    options = objective.options
    learner = objective.build(model)
    prepared = objective.prepare(learner, experience(model, temperature=options.temperature))
    moved(learner)
    policy, divergence = slow_terms(learner, prepared, options)
    counts = objective.counts(prepared.batch)
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
                sums[name] = sums.get(name, 0.0) + float(term.sum.detach() / counts[name])
        assert sums["policy"] == pytest.approx(policy, rel=1e-3, abs=1e-4)
        if options.beta:
            assert sums["kl"] == pytest.approx(divergence, rel=1e-3, abs=1e-5)
            assert sums["kl"] > 0
        if isinstance(options.ratio, ClippedOptions):
            assert sums["clipped"] > 0, "the weights moved far enough to clip"
        gradients.append(torch.cat([p.grad.flatten() for p in learner.model.parameters() if p.grad is not None]))
    assert gradients[0].norm() > 0
    for gradient in gradients[1:]:
        assert (gradient - gradients[0]).norm() <= 1e-5 * gradients[0].norm()


def test_plain_gradients_are_those_of_log_probabilities() -> None:
    """REINFORCE: the gradient of the mean of A log p, whatever the old log-probabilities are."""
    objective, model = grpo(preset="reinforce", mask_truncated=False), decoder()
    learner = objective.build(model)
    prepared = objective.prepare(learner, experience(model))
    moved(learner)
    counts = objective.counts(prepared.batch)
    (objective.loss(learner, prepared.batch, counts).terms["policy"].sum / counts["policy"]).backward()
    found = torch.cat([p.grad.flatten() for p in learner.model.parameters() if p.grad is not None])
    learner.zero_grad()
    lengths = completion_lengths(prepared.batch)
    advantage = prepared.batch["advantage"].repeat_interleave(lengths)  # type: ignore[union-attr]
    (-(advantage * log_probs(model, prepared.batch, 1.0)).mean()).backward()
    expected = torch.cat([p.grad.flatten() for p in learner.model.parameters() if p.grad is not None])
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("epochs", [1, 2])
def test_ratio_is_one_at_the_first_step_and_the_sampler_agrees(epochs: int) -> None:
    objective, model = grpo(epochs=epochs), decoder()
    learner = objective.build(model)
    prepared = objective.prepare(learner, experience(model))
    sampled = prepared.batch["sampled_log_probs"]
    assert isinstance(sampled, Ragged)
    own = log_probs(model, prepared.batch, 1.0).detach()
    torch.testing.assert_close(own, sampled.values, atol=1e-4, rtol=1e-4)
    # One update alone needs no forward pass of its own for what the policy was before it.
    assert ("old_log_probs" in prepared.batch) == (epochs > 1)
    if epochs > 1:
        old = prepared.batch["old_log_probs"]
        assert isinstance(old, Ragged)
        assert old.offsets.equal(sampled.offsets)
        torch.testing.assert_close(old.values, own, atol=1e-6, rtol=0)
    loss = objective.loss(learner, prepared.batch, objective.counts(prepared.batch))
    assert float(loss.terms["clipped"].sum) == 0.0
    assert float(loss.terms["kl"].sum.detach()) == pytest.approx(0.0, abs=1e-6)
    assert float(loss.terms["mismatch"].sum) / len(sampled.values) < 1e-4
    valid = prepared.batch["valid"]
    expected = -prepared.batch["advantage"][valid].sum()  # type: ignore[call-overload, index]
    assert float(loss.terms["policy"].sum.detach()) == pytest.approx(float(expected), abs=1e-4)


@pytest.mark.parametrize("settings", [{"preset": "grpo"}, {"preset": "gspo"}, {"preset": "dapo", "beta": 0.1}])
def test_one_update_learns_as_with_a_pass_for_the_old(settings: dict[str, object]) -> None:
    """Log-probabilities from a pass before the update and from the update's own give the same loss and gradient."""
    found = []
    for epochs in (1, 2):
        objective, model = grpo(epochs=epochs, mask_truncated=False, **settings), decoder()
        learner = objective.build(model)
        prepared = objective.prepare(learner, experience(model))
        counts = objective.counts(prepared.batch)
        terms = objective.loss(learner, prepared.batch, counts).terms
        sum(terms[name].weight * terms[name].sum / counts[name] for name in counts if terms[name].weight).backward()  # type: ignore[union-attr]
        gradient = torch.cat([p.grad.flatten() for p in learner.model.parameters() if p.grad is not None])
        found.append((float(terms["policy"].sum.detach()), gradient))
    assert found[0][0] == pytest.approx(found[1][0], abs=1e-5)
    assert found[0][1].norm() > 0
    torch.testing.assert_close(found[0][1], found[1][1], atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("epochs", [1, 2])
def test_the_divergence_has_the_gradient_of_the_divergence(epochs: int) -> None:
    """Over every token that may be drawn, as often as it is: value and gradient of KL(policy, reference), exactly."""
    objective, model = grpo(epochs=epochs, beta=1.0, mask_truncated=False, advantage="batch-mean"), decoder()
    learner = objective.build(model)
    moved(learner, 0.2)
    prompt, size = torch.tensor([1, 2, 3]), PIPELINE.tokenizer.size
    rows = [torch.cat((prompt, torch.tensor([token]))) for token in range(size)]
    taken = Experience({
        "tokens": Ragged.from_rows(rows), "prompt": torch.full((size,), 3), "group": torch.zeros(size).long(),
        "reward": torch.arange(float(size)), "truncated": torch.zeros(size, dtype=torch.bool),
        "sampled_log_probs": Ragged.from_rows([torch.zeros(1)] * size),
    })  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        prepared = objective.prepare(learner, taken)
    assert learner.reference is not None
    logs, before = (m({"tokens": prompt[None]})[0]["tokens"][0, -1].log_softmax(-1) for m in (model, learner.reference))
    right = (logs.exp() * (logs - before.detach())).sum()
    expected = torch.autograd.grad(right, list(model.parameters()), retain_graph=True)
    terms = [
        objective.loss(learner, part, objective.counts(part)).terms["kl"].sum
        for part in batches.split(prepared.batch, 1)
    ]
    found = (logs.detach().exp() * torch.stack(terms)).sum()
    torch.testing.assert_close(found, right, atol=1e-5, rtol=1e-4)
    assert float(right.detach()) > 0.01
    for own, other in zip(torch.autograd.grad(found, list(model.parameters())), expected):
        torch.testing.assert_close(own, other, atol=1e-5, rtol=1e-3)


def test_advantages_by_group() -> None:
    reward = torch.tensor([1.0, 0.0, 0.5, 0.4, 0.9, 0.1, 0.7], dtype=torch.float64)
    group = torch.tensor([0, 0, 1, 1, 1, 2, 2])
    for kind in ("group-normalised", "group-mean", "leave-one-out", "batch-mean"):
        found = grpo(advantage=kind).advantage(reward, group).tolist()
        expected = [
            value for rows in ([0, 1], [2, 3, 4], [5, 6])
            for value in slow_advantages([float(reward[i]) for i in rows], kind, reward.tolist())
        ]  # fmt: skip
        assert found == pytest.approx(expected)
    assert flat(torch.tensor([1.0, 0.0, 0.5, 0.5]), torch.tensor([0, 0, 1, 1])).tolist() == [False, False, True, True]


@pytest.mark.parametrize("kind", ["group-normalised", "group-mean", "leave-one-out"])
def test_equal_rewards_teach_exactly_nothing(kind: str) -> None:
    """The mean of equal rewards need not be that reward in binary."""
    model = decoder()
    taken = experience(model)
    reward = torch.full((12,), 0.1, dtype=torch.float64)
    with pytest.warns(RuntimeWarning, match="no group has any spread.*raise source.group"):
        prepared = grpo(advantage=kind, beta=0.0).prepare(
            grpo(beta=0.0).build(model), replace(taken, batch={**taken.batch, "reward": reward})
        )
    assert prepared.batch["advantage"].tolist() == [0.0] * 12  # type: ignore[union-attr]


def test_a_stale_sampler_is_noticed_before_several_updates() -> None:
    """Completions of other weights: cause and remedy are told, and the log shows how far they are."""
    objective, model = grpo(beta=0.0, epochs=2), decoder()
    learner = objective.build(model)
    taken = experience(model)
    moved(learner, 0.2)
    with pytest.warns(RuntimeWarning, match="ratios are not 1 at the first step.*publish the weights"):
        prepared = objective.prepare(learner, taken)
    loss = objective.loss(learner, prepared.batch, objective.counts(prepared.batch))
    assert float(loss.terms["mismatch"].sum) > 0.01


class Stale(CompletionSource):
    """Writes with the first weights, for ever."""

    def publish(self, learner: torch.nn.Module, clock: Clock) -> None:
        if self.engine is None:
            super().publish(copy.deepcopy(learner), clock)


@pytest.mark.parametrize("sampler", [CompletionSource, Stale])
def test_a_stale_sampler_is_noticed_in_a_training(sampler: type[CompletionSource]) -> None:
    source = sampler(CompletionOptions(task=CopyOptions(digits=1), prompts=4, group=4, max_tokens=4), seed=0)
    engine = Engine(
        grpo(beta=0.0, mask_truncated=False, advantage="batch-mean"), decoder(), source,
        learn=Learn(batch=16, lr=3e-2, stop=Stop(updates=6), threads=1),
    )  # fmt: skip
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        engine.run()
    told = [str(each.message) for each in caught if "ratios are not 1 at the first step" in str(each.message)]
    assert bool(told) == (sampler is Stale)


def test_presets_are_what_they_are_called() -> None:
    for name in ("grpo", "dr-grpo", "dapo", "gspo", "rloo", "reinforce"):
        options = GRPOOptions(preset=name)  # type: ignore[arg-type]
        assert GRPOOptions.model_validate(options.model_dump(mode="json")) == options
    dapo = GRPOOptions(preset="dapo")
    assert isinstance(dapo.ratio, ClippedOptions)
    assert (dapo.ratio.low, dapo.ratio.high, dapo.beta) == (0.2, 0.28, 0.0)
    assert GRPOOptions.model_validate({"preset": "dapo", "beta": 0.1}).beta == 0.1


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


def test_adapters_give_the_reference_for_nothing() -> None:
    """New ones are switched off for it; those that were loaded are part of it, in a copy."""
    model = decoder()
    adapt(LoRAOptions(rank=2), model)
    learner = grpo(beta=0.1).build(model)
    assert learner.reference is None
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_b" in name:
                parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    taken = experience(model)
    prepared = grpo(beta=0.1).prepare(learner, taken)
    found = prepared.batch["reference_log_probs"]
    assert isinstance(found, Ragged)
    right = log_probs(decoder(), taken.batch, 1.0).detach()
    torch.testing.assert_close(found.values, right, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(right, log_probs(model, taken.batch, 1.0).detach(), atol=1e-2)
    terms = grpo(beta=0.1).loss(learner, prepared.batch, grpo(beta=0.1).counts(prepared.batch)).terms
    assert float(terms["kl"].sum.detach()) > 0
    assert grpo(beta=0.1).build(model).reference is not None


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
    after = [float(source.next(Clock()).batch["reward"].mean()) for _round in range(4)]  # type: ignore[union-attr]
    assert before < 0.2
    # Processors round differently, and seeds end between 0.5 and 0.7.
    assert sum(after) / 4 > 0.4


def test_another_temperature_than_the_samplers_is_refused() -> None:
    """The ratios would be those of another distribution."""
    learner, taken = grpo().build(decoder()), experience(decoder(), temperature=0.7)
    with pytest.raises(ComponentError, match=r"0\.7"):
        grpo().prepare(learner, taken)
    grpo(temperature=0.7).prepare(learner, taken)
