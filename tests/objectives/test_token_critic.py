"""PPO for language: advantages against sums written out, losses against a slow implementation, the free reference, and
that it learns."""

from __future__ import annotations

import math

import pytest
import torch

from reinforge.core import batch as batches
from reinforge.core.contracts import Clock
from reinforge.core.ragged import Ragged
from reinforge.engine.loop import Engine
from reinforge.models.adapters import adapt
from reinforge.models.decoder_options import LoRAOptions
from reinforge.objectives.grpo import GRPOLearner, completion_lengths, log_probs
from reinforge.objectives.reward_options import CriticOptions
from reinforge.objectives.token_critic import TokenCritic, critic_of, token_values
from reinforge.recipe.sections import Learn, Stop
from reinforge.sources.completions import CompletionSource
from reinforge.sources.options import CompletionOptions, CopyOptions
from tests.objectives.test_grpo import decoder, experience, grpo, moved


def ppo(**critic: object):  # type: ignore[no-untyped-def]
    return grpo(preset="ppo", advantage={"kind": "critic", **critic}, mask_truncated=False)


def slow_advantages(
    reward: float, values: list[float], away: list[float], options: CriticOptions
) -> tuple[list[float], list[float]]:
    """A_t = sum over l of (gamma lambda)^l (r + gamma V' - V), written out; and returns A_t + V_t."""
    steps = len(values)
    rewards = [-options.kl * each for each in away]
    rewards[-1] += reward
    after = [*values[1:], 0.0]
    errors = [rewards[t] + options.gamma * after[t] - values[t] for t in range(steps)]
    found = [
        sum((options.gamma * options.gae_lambda) ** (later - t) * errors[later] for later in range(t, steps))
        for t in range(steps)
    ]
    return found, [advantage + value for advantage, value in zip(found, values)]


@pytest.mark.parametrize("options", [CriticOptions(), CriticOptions(gamma=0.9, gae_lambda=0.5, kl=0.3)])
def test_advantages_are_the_sums_that_define_them(options: CriticOptions) -> None:
    options = options.model_copy(update={"normalise": False})
    lengths = torch.tensor([3, 1, 5])
    g = torch.Generator().manual_seed(1)
    values, away, reward = torch.randn(9, generator=g), torch.randn(9, generator=g), torch.tensor([1.0, 0.0, 0.5])
    found = TokenCritic(options)(reward, values, away, lengths, torch.ones(3, dtype=torch.bool))
    start = 0
    for row, length in enumerate(lengths.tolist()):
        part = slice(start, start + length)
        advantages, returns = slow_advantages(float(reward[row]), values[part].tolist(), away[part].tolist(), options)
        assert found.advantage_n[part].tolist() == pytest.approx(advantages, abs=1e-5)
        assert found.return_n[part].tolist() == pytest.approx(returns, abs=1e-5)
        start += length
    # With lambda and gamma 1 every token's return is the reward, less what is paid from there on.
    whole = TokenCritic(CriticOptions(gae_lambda=1.0, normalise=False, kl=0.1))
    returns = whole(reward, values, away, lengths, torch.ones(3, dtype=torch.bool)).return_n[:3]
    paid = [0.1 * float(away[t:3].sum()) for t in range(3)]
    assert returns.tolist() == pytest.approx([1.0 - each for each in paid], abs=1e-5)


def test_advantages_are_normalised_over_the_tokens_that_teach() -> None:
    lengths, valid = torch.tensor([3, 4]), torch.tensor([True, False])
    values = torch.randn(7, generator=torch.Generator().manual_seed(0))
    found = TokenCritic(CriticOptions())(torch.tensor([1.0, 9.0]), values, None, lengths, valid).advantage_n[:3]
    assert float(found.mean()) == pytest.approx(0.0, abs=1e-6)
    assert float(found.std()) == pytest.approx(1.0, abs=1e-5)


def test_policy_and_value_equal_a_slow_implementation_however_split() -> None:
    objective, model = ppo(value_clip=0.1), decoder()
    learner = objective.build(model)
    assert learner.critic is not None
    with torch.no_grad():
        learner.critic.score.weight.normal_(0, 0.3, generator=torch.Generator().manual_seed(2))
        for parameter in model.parameters():  # as after some updates: away from the reference
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(4)))
    prepared = objective.prepare(learner, experience(model))
    batch = prepared.batch
    old_values, goals = batch["old_values"], batch["return"]
    assert isinstance(old_values, Ragged)
    assert isinstance(goals, Ragged)
    moved(learner)
    with torch.no_grad():
        learner.critic.score.weight.add_(0.2)
    policy, value, count = 0.0, 0.0, 0
    advantages: list[float] = []
    for i in range(prepared.samples):
        row, prompt = batch["tokens"].row(i), int(batch["prompt"][i])  # type: ignore[union-attr, index]
        with torch.no_grad():
            hidden, _state = learner.critic.hidden({"tokens": row[None]})
            values = (hidden[0] @ learner.critic.score.weight[0]).tolist()
            logs = [
                m({"tokens": row[None]})[0]["tokens"][0].log_softmax(-1) for m in (learner.model, learner.reference)
            ]
        new, reference = ([float(each[t - 1, row[t]]) for t in range(prompt, len(row))] for each in logs)
        old = batch["old_log_probs"].row(i).tolist()  # type: ignore[union-attr]
        away = [a - b for a, b in zip(old, reference)]
        expected, returns = slow_advantages(
            float(batch["reward"][i]),
            old_values.row(i).tolist(),
            away,
            objective.options.advantage,  # type: ignore[index]
        )
        assert goals.row(i).tolist() == pytest.approx(returns, abs=1e-4)
        advantages += expected
        for t in range(len(old)):
            now, before, goal = values[prompt - 1 + t], old_values.row(i)[t].item(), returns[t]
            clipped = before + min(max(now - before, -0.1), 0.1)
            value += 0.5 * max((now - goal) ** 2, (clipped - goal) ** 2)
            policy += 0.0
            count += 1
        ratios = [math.exp(a - b) for a, b in zip(new, old)]
        row_advantages = batch["advantage"].row(i).tolist()  # type: ignore[union-attr]
        policy -= sum(min(r * a, min(max(r, 0.8), 1.2) * a) for r, a in zip(ratios, row_advantages))
    whole = torch.tensor(advantages)
    normal = (whole - whole.mean()) / (whole.std() + 1e-8)
    torch.testing.assert_close(batch["advantage"].values, normal, atol=1e-4, rtol=1e-4)  # type: ignore[union-attr]
    counts = objective.counts(batch)
    model_step, critic_step = objective.steps(learner)
    gradients = []
    for size in (12, 5, 1):
        learner.zero_grad()
        sums = {"policy": 0.0, "value": 0.0}
        for part in batches.split(batch, size):
            for step, name in ((model_step, "policy"), (critic_step, "value")):
                term = step.loss(learner, part, counts).terms[name]
                (term.weight * term.sum / counts[name]).backward()
                sums[name] += float(term.sum.detach() / counts[name])
        assert sums["policy"] == pytest.approx(policy / count, rel=1e-3, abs=1e-4)
        assert sums["value"] == pytest.approx(value / count, rel=1e-3, abs=1e-4)
        gradients.append(torch.cat([p.grad.flatten() for p in learner.parameters() if p.grad is not None]))
    assert gradients[0].norm() > 0
    for gradient in gradients[1:]:
        assert (gradient - gradients[0]).norm() <= 1e-4 * gradients[0].norm()


def test_the_critic_begins_as_the_policy_with_the_value_0() -> None:
    model = decoder()
    learner = ppo().build(model)
    batch = experience(model).batch
    assert not token_values(learner.critic, batch).any()
    assert len(token_values(learner.critic, batch)) == int(completion_lengths(batch).sum())
    assert torch.equal(learner.critic.embedding.weight, model.embedding.weight)
    assert {step.name for step in ppo().steps(learner)} == {"model", "critic"}
    taken = {id(p) for p in ppo().steps(learner)[0].parameters}
    assert not taken & {id(p) for p in learner.critic.parameters()}


@pytest.mark.parametrize("settings", [{"preset": "ppo"}, {"preset": "grpo"}])
def test_adapters_give_the_reference_for_nothing(settings: dict[str, object]) -> None:
    objective, model = grpo(**settings, epochs=2, mask_truncated=False), decoder()
    whole = decoder()
    adapt(LoRAOptions(rank=2), model)
    learner = objective.build(model)
    assert isinstance(learner, GRPOLearner)
    assert learner.reference is None
    taken = experience(model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_b" in name:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    with pytest.warns(RuntimeWarning, match="publish the weights"):
        found = objective.prepare(learner, taken).batch["reference_log_probs"]
    assert isinstance(found, Ragged)
    torch.testing.assert_close(found.values, log_probs(whole, taken.batch, 1.0), atol=1e-5, rtol=1e-5)
    if learner.critic is not None:
        critic = critic_of(whole)
        assert all(torch.equal(critic.state_dict()[n], p) for n, p in learner.critic.state_dict().items())


def test_learns_to_copy_through_the_engine() -> None:
    options = CompletionOptions(task=CopyOptions(digits=1), prompts=16, group=4, max_tokens=4)
    source = CompletionSource(options, seed=0)
    learn = Learn(batch=64, lr=1e-2, clip=1.0, stop=Stop(updates=120), threads=1)
    engine = Engine(ppo(kl=0.0), decoder(), source, learn=learn)
    source.publish(engine.learner, Clock())
    before = float(source.next(Clock()).batch["reward"].mean())  # type: ignore[union-attr]
    engine.run()
    after = float(source.next(Clock()).batch["reward"].mean())  # type: ignore[union-attr]
    assert before < 0.2
    assert after > 0.6
