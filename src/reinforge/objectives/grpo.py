"""Group-relative policy optimisation (DeepSeekMath, arXiv:2402.03300): clipped ratios, advantages within a group of
completions to one prompt, a penalty for leaving a frozen reference.

Summed over completion tokens and divided by their number in the whole update (as in DAPO, arXiv:2503.14476), so that
long and short completions weigh by their tokens, and splitting an update changes nothing.

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
from reinforge.errors import ComponentError
from reinforge.models.decoder import Decoder
from reinforge.models.token_losses import token_losses
from reinforge.objectives.language import as_decoder
from reinforge.objectives.options import GRPOOptions
from reinforge.schema.signature import Signature

# Rows of one forward pass in `prepare`.
PREPARE_ROWS = 64
EPSILON = 1e-4


class GRPOLearner(nn.Module):
    """The policy, and the frozen reference where its divergence counts."""

    def __init__(self, model: Decoder, reference: Decoder | None) -> None:
        super().__init__()
        self.model, self.reference = model, reference


class GRPO:
    """Maximises min(ratio A, clip(ratio) A) - beta KL(policy, reference), the mean over valid completion tokens.

    Takes the experience of `CompletionSource`. `prepare` adds "advantage" (g,), "old_log_probs" and
    "reference_log_probs" (Ragged, by completion token), "valid" (g,) and "flat" (g,), rows of groups without spread.
    Terms: "policy", "kl"; measured alone: "clipped" (tokens whose ratio was clipped), and by row "flat", "truncated"
    and "reward".
    """

    def __init__(self, options: GRPOOptions, signature: Signature) -> None:
        self.options = options

    def build(self, model: nn.Module) -> GRPOLearner:
        """The learner. Raises ComponentError for a model that is no decoder, or one with dropout."""
        decoder = as_decoder(model, "grpo")
        if decoder.options.dropout:
            raise ComponentError(
                "with dropout the ratio would not be 1 before the first step",
                where="objective grpo",
                remedy="Set model.dropout to 0.",
            )
        reference = copy.deepcopy(decoder).requires_grad_(False) if self.options.beta else None
        return GRPOLearner(decoder, reference)

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
        reward, group = cast(Tensor, batch["reward"]), cast(Tensor, batch["group"])
        advantage, flat = advantages(reward, group, self.options.scale)
        truncated = cast(Tensor, batch["truncated"])
        valid = ~truncated if self.options.mask_truncated else torch.ones_like(truncated)
        if not valid.any():
            warnings.warn(
                "every completion was cut before it ended, and is left out: raise max_tokens, or shorten the answers",
                RuntimeWarning,
                stacklevel=3,
            )
        if flat.all():
            warnings.warn(
                "no group has any spread in its rewards, so there is nothing to learn from: change the "
                "difficulty of the task, or raise the size of the groups",
                RuntimeWarning,
                stacklevel=3,
            )
        added: dict[str, Tensor | Ragged] = {"advantage": advantage, "flat": flat, "valid": valid}
        added["old_log_probs"] = self._log_probs(learner.model, batch)
        if learner.reference is not None:
            added["reference_log_probs"] = self._log_probs(learner.reference, batch)
        return replace(experience, batch={**batch, **added})

    def _log_probs(self, model: Decoder, batch: Batch) -> Ragged:
        parts = [log_probs(model, part, self.options.temperature) for part in batches.split(batch, PREPARE_ROWS)]
        lengths = completion_lengths(batch)
        return Ragged(torch.cat(parts), torch.cat([lengths.new_zeros(1), lengths.cumsum(0)]))

    def updates(
        self, experience: Experience, generator: torch.Generator, clock: Clock
    ) -> Generator[Batch, Outcome, None]:
        """Each epoch, minibatches in a new order; the whole experience as it is where no minibatch is set."""
        total = batches.rows(experience.batch)
        size = self.options.minibatch or total
        for _ in range(self.options.epochs):
            if size >= total:
                yield experience.batch
                continue
            order = torch.randperm(total, generator=generator)
            for start in range(0, total, size):
                yield batches.select(experience.batch, order[start : start + size])

    def steps(self, learner: nn.Module) -> Sequence[Step]:
        """One step, called "model", for the policy's parameters."""
        return [Step("model", [p for p in cast(nn.Module, learner.model).parameters() if p.requires_grad], self.loss)]

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        """Completion tokens of valid rows; rows for what is measured by row."""
        valid = cast(Tensor, batch["valid"]).cpu()
        tokens, rows = completion_lengths(batch)[valid].sum(), torch.tensor(len(valid))
        counts = {"policy": tokens, "clipped": tokens, "flat": rows, "truncated": rows, "reward": rows}
        return {**counts, "kl": tokens} if self.options.beta else counts

    def loss(self, learner: nn.Module, batch: Batch, counts: Mapping[str, Tensor]) -> Loss:
        """Sums over the valid completion tokens."""
        assert isinstance(learner, GRPOLearner)
        options = self.options
        valid_g = cast(Tensor, batch["valid"])
        lengths_g = completion_lengths(batch).to(valid_g.device)
        weight_n = valid_g.float().repeat_interleave(lengths_g)
        advantage_n = cast(Tensor, batch["advantage"]).repeat_interleave(lengths_g)
        log_prob_n = log_probs(learner.model, batch, options.temperature)
        ratio_n = (log_prob_n - _values(batch, "old_log_probs")).exp()
        clipped_n = ratio_n.clamp(1 - options.clip, 1 + (options.clip_high or options.clip))
        gain_n, clipped_gain_n = ratio_n * advantage_n, clipped_n * advantage_n
        terms = {
            "policy": Term(-(torch.minimum(gain_n, clipped_gain_n) * weight_n).sum()),
            "clipped": Term(((clipped_gain_n < gain_n) * weight_n).sum(), 0.0),
        }
        for name in ("flat", "truncated", "reward"):
            terms[name] = Term(cast(Tensor, batch[name]).float().sum(), 0.0)
        if learner.reference is not None:
            # Never negative, and unbiased for the sampled token (Schulman's k3).
            away_n = _values(batch, "reference_log_probs") - log_prob_n
            terms["kl"] = Term(((away_n.exp() - away_n - 1) * weight_n).sum(), options.beta)
        return Loss(terms)

    def after_update(self, learner: nn.Module, clock: Clock) -> None:
        """Nothing: the reference stays as it is."""


def advantages(reward_g: Tensor, group_g: Tensor, scale: str) -> tuple[Tensor, Tensor]:
    """Reward less its group's mean, divided by the group's standard deviation (ddof 1) plus 1e-4 where `scale` is
    "group"; and the rows (bool) of groups without any spread, whose advantage is exactly 0. Groups count from 0."""
    groups = int(group_g.max()) + 1
    size_k = torch.zeros(groups, dtype=torch.float64, device=reward_g.device).index_add_(
        0, group_g, torch.ones_like(reward_g, dtype=torch.float64)
    )
    reward = reward_g.double()
    mean_k = torch.zeros_like(size_k).index_add_(0, group_g, reward) / size_k
    lowest_k = torch.zeros_like(size_k).scatter_reduce_(0, group_g, reward, "amin", include_self=False)
    highest_k = torch.zeros_like(size_k).scatter_reduce_(0, group_g, reward, "amax", include_self=False)
    flat_g = (lowest_k == highest_k)[group_g]
    centred = (reward - mean_k[group_g]).masked_fill(flat_g, 0.0)
    if scale == "group":
        variance_k = torch.zeros_like(size_k).index_add_(0, group_g, centred.square()) / (size_k - 1).clamp(min=1)
        centred = centred / (variance_k.sqrt()[group_g] + EPSILON)
    return centred.float(), flat_g


def completion_lengths(batch: Batch) -> Tensor:
    """Completion tokens of each row: (g,) int64, on the CPU."""
    return cast(Ragged, batch["tokens"]).lengths - cast(Tensor, batch["prompt"]).cpu()


def log_probs(model: Decoder, batch: Batch, temperature: float) -> Tensor:
    """Log-probabilities of all completion tokens, row after row: (n,) float32, over the support of untruncated
    sampling."""
    tokens = cast(Ragged, batch["tokens"])
    hidden_gtd, _ = model.hidden({model.input: tokens})
    lengths_g, prompt_g = tokens.lengths, cast(Tensor, batch["prompt"]).cpu()
    time = torch.arange(hidden_gtd.shape[1])
    # The position before a token predicts it.
    predicts = (time >= prompt_g[:, None] - 1) & (time < lengths_g[:, None] - 1)
    row, column = (index.to(hidden_gtd.device) for index in predicts.nonzero(as_tuple=True))
    targets_n = tokens.pad()[row, column + 1]
    return -token_losses(hidden_gtd[row, column] / temperature, model.head_weight, targets_n)


def _values(batch: Batch, name: str) -> Tensor:
    ragged = cast(Ragged, batch[name])
    return ragged.values
