"""Policy optimisation by rewards for completions: GRPO (DeepSeekMath, arXiv:2402.03300) and its sisters, which differ
in what a reward is compared with, how far the policy may go, and what sums are divided by (`objectives.completions`).

Everything is a raw sum over tokens, divided once by a count of the whole update, so that splitting changes nothing.

Shape suffixes: g completions, n completion tokens of all of them, d width.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Generator, Mapping, Sequence
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn

from reinforge.core import batch as batches
from reinforge.core.batch import Batch
from reinforge.core.contracts import Clock, Experience, Loss, Outcome, Step, Term
from reinforge.core.ragged import Ragged
from reinforge.errors import ComponentError, TrainingWarning
from reinforge.messages import _
from reinforge.models.adapters import adapters_are_new, without_adapters
from reinforge.models.attention import Layout
from reinforge.models.decoder import Decoder
from reinforge.models.scorer import Scorer
from reinforge.models.token_losses import token_losses
from reinforge.objectives.completions import Advantage, Aggregation, Ratio, flat, predicting
from reinforge.objectives.language import as_decoder
from reinforge.objectives.reward_options import CriticOptions, GRPOOptions
from reinforge.objectives.token_critic import TokenCritic, critic_of, token_values
from reinforge.registry import REGISTRY
from reinforge.schema.signature import Signature

# Rows of one forward pass in `prepare`.
PREPARE_ROWS = 64
# What two ways to compute one log-probability may differ by, on average over tokens, by the weights' type: a sampler
# that reads in other batches sums in another order.
AGREES = {torch.float32: 1e-3, torch.float64: 1e-3, torch.bfloat16: 5e-2, torch.float16: 1e-2}


class GRPOLearner(nn.Module):
    """The policy; the frozen reference where its divergence counts, and is not the policy without its adapters; and
    the critic, where there is one."""

    def __init__(self, model: Decoder, reference: Decoder | None, critic: Scorer | None = None) -> None:
        super().__init__()
        self.model, self.reference, self.critic = model, reference, critic


class GRPO:
    """Maximises min(ratio A, clip(ratio) A) - beta KL(policy, reference) over valid completion tokens.

    Takes the experience of `CompletionSource`. `prepare` adds "advantage" (g,), "reference_log_probs" (Ragged, by
    completion token), "valid" (g,) and "flat" (g,), rows of groups without spread; and "old_log_probs" where an
    experience has several updates. In a single one the old log-probabilities are those of its own forward pass.
    With a critic "advantage", "return" and "old_values" are Ragged, by completion token.
    Terms: "policy", "kl", and in a step of its own the critic's "value"; measured alone: "clipped" (tokens whose ratio
    was clipped), "mismatch" (nats between the sampler's log-probabilities and the training's), and by row "flat",
    "truncated", "reward" and "length" (tokens).
    """

    def __init__(self, options: GRPOOptions, signature: Signature) -> None:
        self.options = options
        self.advantage: Advantage | TokenCritic = REGISTRY.build("advantage", options.advantage)
        self.grouped = getattr(options.advantage, "grouped", True)
        # What tokens pay for their distance from the reference.
        self.charged = isinstance(options.advantage, CriticOptions) and options.advantage.kl > 0
        self.compared = options.beta > 0 or self.charged
        self.ratio: Ratio = REGISTRY.build("ratio", options.ratio)
        self.aggregation: Aggregation = REGISTRY.build("aggregation", options.aggregation)

    def build(self, model: nn.Module) -> GRPOLearner:
        """The learner. Raises ComponentError for a model that is no decoder, or one with dropout."""
        decoder = as_decoder(model, "grpo")
        if decoder.options.dropout:
            raise ComponentError(
                "with dropout the ratio would not be 1 before the first step",
                where="objective grpo",
                remedy="Set model.dropout to 0.",
            )
        # With new adapters, the policy without them is the reference.
        copied = self.compared and not adapters_are_new(decoder)
        reference = copy.deepcopy(decoder).requires_grad_(False) if copied else None
        return GRPOLearner(decoder, reference, critic_of(decoder) if isinstance(self.advantage, TokenCritic) else None)

    @torch.no_grad()
    def prepare(self, learner: nn.Module, experience: Experience) -> Experience:
        """Advantages, and log-probabilities before the first update. Warns where nothing can be learned from."""
        assert isinstance(learner, GRPOLearner)
        drawn_at = experience.extra.get("temperature")
        if drawn_at is not None and float(drawn_at) != self.options.temperature:
            raise ComponentError(
                f"completions were drawn at temperature {float(drawn_at)}, and their ratios would be taken at "
                f"{self.options.temperature}",
                where="objective.temperature",
                remedy="Set it to source.temperature.",
            )
        batch = experience.batch
        reward, group = cast(Tensor, batch["reward"]).double(), cast(Tensor, batch["group"])
        without_spread = flat(reward, group)
        truncated = cast(Tensor, batch["truncated"])
        valid = ~truncated if self.options.mask_truncated else torch.ones_like(truncated)
        self._diagnose(without_spread, valid)
        added: dict[str, Tensor | Ragged] = {"flat": without_spread, "valid": valid}
        agrees, once = AGREES.get(learner.model.embedding.weight.dtype, 5e-2), self._once(batch)
        if not once or self.charged:
            old = added["old_log_probs"] = self._log_probs(learner.model, batch)
            if len(old.values) and not once:
                away = (_values(batch, "sampled_log_probs").to(old.values.device) - old.values).abs().mean()
                _compare(float(away), agrees)
        if self.compared:
            added["reference_log_probs"] = self._reference(learner, batch)
        if isinstance(self.advantage, TokenCritic):
            added |= self._valued(learner, batch, {**added, "reward": reward})
        else:
            advantage = self.advantage(reward, group)
            if self.grouped:
                # The mean of equal rewards need not be that reward in binary, and the rest must not be learned from.
                advantage = advantage.masked_fill(without_spread, 0.0)
            added["advantage"] = advantage.float()
        extra = {**experience.extra, "agrees": torch.tensor(agrees)}
        return replace(experience, batch={**batch, **added}, extra=extra)

    def _once(self, batch: Batch) -> bool:
        """Whether there is one update of the whole experience: before it, the policy is the one that was."""
        total = batches.rows(batch)
        return self.options.epochs == 1 and (self.options.minibatch or total) >= total

    def _reference(self, learner: GRPOLearner, batch: Batch) -> Ragged:
        reference, kind = learner.reference, learner.model.embedding.weight.dtype
        if reference is None:
            with without_adapters(learner.model):
                return self._log_probs(learner.model, batch)
        if reference.embedding.weight.dtype != kind:
            # As the policy is rounded, so must be what it is compared with.
            for parameter in reference.parameters():
                parameter.data = parameter.data.to(kind)
        return self._log_probs(reference, batch)

    def _valued(self, learner: GRPOLearner, batch: Batch, known: Mapping[str, Tensor | Ragged]) -> dict[str, Ragged]:
        assert isinstance(self.advantage, TokenCritic)
        assert learner.critic is not None
        value_n = torch.cat([token_values(learner.critic, part) for part in batches.split(batch, PREPARE_ROWS)])
        away_n = None
        if "old_log_probs" in known and "reference_log_probs" in known:
            away_n = _values(known, "old_log_probs") - _values(known, "reference_log_probs")
        found = self.advantage(
            cast(Tensor, known["reward"]), value_n, away_n, completion_lengths(batch), cast(Tensor, known["valid"])
        )
        by_token = {"advantage": found.advantage_n, "return": found.return_n, "old_values": value_n}
        offsets = cast(Ragged, batch["sampled_log_probs"]).offsets
        return {name: Ragged(each.to(value_n.device), offsets) for name, each in by_token.items()}

    def _diagnose(self, without_spread: Tensor, valid: Tensor) -> None:
        """Warn of what can teach nothing."""
        if not valid.any():
            _warn(
                _("every completion was cut before it ended, and is left out"),
                _("raise source.max_tokens, shorten the answers, or teach the model to end them first (SFT)"),
            )
        if without_spread.all() and self.grouped:
            _warn(
                _("no group has any spread in its rewards, so there is nothing to learn from"),
                _("change the difficulty of the task, raise source.group or source.temperature, or give rewards for "
                  "parts of an answer"),
            )  # fmt: skip

    def _log_probs(self, model: Decoder, batch: Batch) -> Ragged:
        parts = [log_probs(model, part, self.options.temperature) for part in batches.split(batch, PREPARE_ROWS)]
        lengths = completion_lengths(batch)
        return Ragged(torch.cat(parts), torch.cat([lengths.new_zeros(1), lengths.cumsum(0)]))

    def updates(
        self, experience: Experience, generator: torch.Generator, clock: Clock
    ) -> Generator[Batch, Outcome, None]:
        """Each epoch, minibatches in a new order; the whole experience as it is where no minibatch is set."""
        total = batches.rows(experience.batch)
        if self._once(experience.batch):
            outcome = yield experience.batch
            _compare(float(outcome.means["model/mismatch"]), float(experience.extra["agrees"]))
            return
        size = self.options.minibatch or total
        for _epoch in range(self.options.epochs):
            if size >= total:
                yield experience.batch
                continue
            order = torch.randperm(total, generator=generator)
            for start in range(0, total, size):
                yield batches.select(experience.batch, order[start : start + size])

    def steps(self, learner: nn.Module) -> Sequence[Step]:
        """One step, called "model", for the policy's parameters; with a critic, one called "critic" for its own."""
        assert isinstance(learner, GRPOLearner)
        steps = [Step("model", [p for p in learner.model.parameters() if p.requires_grad], self.loss)]
        if learner.critic is not None:
            steps.append(Step("critic", list(learner.critic.parameters()), self.value_loss))
        return steps

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        """What each term is divided by: valid completions, or their tokens; rows for what is measured by row."""
        valid = cast(Tensor, batch["valid"]).cpu()
        lengths = completion_lengths(batch)
        tokens, rows = lengths[valid].sum(), torch.tensor(len(valid))
        counted = valid.sum() if self.aggregation(lengths)[1] else tokens
        counts = {"policy": counted, "clipped": tokens, "mismatch": lengths.sum(), "flat": rows, "truncated": rows}
        counts |= {"reward": rows, "length": rows}
        counts |= {"kl": counted} if self.compared else {}
        return counts | ({"value": tokens} if isinstance(self.advantage, TokenCritic) else {})

    def loss(self, learner: nn.Module, batch: Batch, counts: Mapping[str, Tensor]) -> Loss:
        """Sums over the valid completion tokens."""
        assert isinstance(learner, GRPOLearner)
        valid_g = cast(Tensor, batch["valid"])
        lengths_g = completion_lengths(batch).to(valid_g.device)
        valid_n = valid_g.float().repeat_interleave(lengths_g)
        weight_n = self.aggregation(lengths_g)[0].repeat_interleave(lengths_g) * valid_n
        advantage = batch["advantage"]
        advantage_n = advantage.values if isinstance(advantage, Ragged) else advantage.repeat_interleave(lengths_g)  # type: ignore[union-attr]
        log_prob_n = log_probs(learner.model, batch, self.options.temperature)
        old_n = _values(batch, "old_log_probs") if "old_log_probs" in batch else log_prob_n.detach()
        found = self.ratio(log_prob_n, old_n, advantage_n, lengths_g)
        terms = {
            "policy": Term(-(found.gain_n * weight_n).sum()),
            "clipped": Term((found.held_n * valid_n).sum(), 0.0),
            "mismatch": Term((_values(batch, "sampled_log_probs").to(old_n.device) - old_n).abs().sum(), 0.0),
            "length": Term(lengths_g.float().sum(), 0.0),
        }
        for name in ("flat", "truncated", "reward"):
            terms[name] = Term(cast(Tensor, batch[name]).float().sum(), 0.0)
        if self.compared:
            # Never negative, and unbiased for the sampled token (Schulman's k3); by the ratio its gradient is that of
            # the divergence too, which alone it is not (DeepSeek-V3.2, arXiv:2512.02556).
            away_n = _values(batch, "reference_log_probs") - log_prob_n
            ratio_n = (log_prob_n - old_n).exp()
            terms["kl"] = Term(((away_n.exp() - away_n - 1) * ratio_n * weight_n).sum(), self.options.beta)
        return Loss(terms)

    def value_loss(self, learner: nn.Module, batch: Batch, counts: Mapping[str, Tensor]) -> Loss:
        """The critic's sum over the valid completion tokens."""
        assert isinstance(learner, GRPOLearner)
        assert learner.critic is not None
        assert isinstance(self.advantage, TokenCritic)
        valid_g = cast(Tensor, batch["valid"])
        valid_n = valid_g.float().repeat_interleave(completion_lengths(batch).to(valid_g.device))
        return Loss({"value": Term(self.advantage.loss(token_values(learner.critic, batch), batch, valid_n))})

    def after_update(self, learner: nn.Module, clock: Clock) -> None:
        """Nothing: the reference stays as it is."""


def completion_lengths(batch: Batch) -> Tensor:
    """Completion tokens of each row: (g,) int64, on the CPU. Of several turns, the model's own alone: what it was told
    in between counts nowhere."""
    if "own" in batch:
        return cast(Ragged, batch["sampled_log_probs"]).lengths
    return cast(Ragged, batch["tokens"]).lengths - cast(Tensor, batch["prompt"]).cpu()


def log_probs(model: Decoder, batch: Batch, temperature: float) -> Tensor:
    """Log-probabilities of all completion tokens, row after row: (n,) float32, over the support of untruncated
    sampling."""
    rows, place_n, target_n = predicting(batch)
    hidden_nd = model.hidden_of(rows.values, Layout.of_ragged(rows))[place_n]
    if temperature != 1.0:
        hidden_nd = hidden_nd / temperature
    return -token_losses(hidden_nd, model.head_weight, target_n)


def _values(batch: Mapping[str, object], name: str) -> Tensor:
    ragged = cast(Ragged, batch[name])
    return ragged.values


def _compare(away: float, agrees: float) -> None:
    """Warn where the sampler's log-probabilities are so far from the model's own, in nats on average."""
    if not away <= agrees:
        _warn(
            _("the sampler's log-probabilities are {away:.3g} nats from the model's own, so that ratios are "
              "not 1 at the first step").format(away=away),
            _("the completions were written by other weights or another distribution: publish the weights "
              "before sampling, and sample at objective.temperature without top-k or top-p"),
        )  # fmt: skip


def _warn(problem: str, remedy: str) -> None:
    warnings.warn(f"{problem}: {remedy}", TrainingWarning, stacklevel=4)
