"""Learning from preferences: DPO, IPO, SimPO, ORPO and KTO as a few lines each over one implementation.

Shape suffixes: r rows (pairs, or judged answers), a answers, n tokens.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import ClassVar, Generic, NamedTuple, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reinforge.core import batch as batches
from reinforge.core.batch import Batch
from reinforge.core.contracts import Experience, Loss, Term
from reinforge.core.modes import evaluating
from reinforge.core.ragged import Ragged
from reinforge.models.adapters import adapters_are_new, without_adapters
from reinforge.models.attention import Layout
from reinforge.models.decoder import Decoder
from reinforge.models.token_losses import token_losses
from reinforge.objectives.language import as_decoder
from reinforge.objectives.options import (
    DPOOptions,
    IPOOptions,
    KTOOptions,
    ORPOOptions,
    PreferenceOptions,
    SimPOOptions,
)
from reinforge.objectives.plain import Plain
from reinforge.schema.signature import Signature

Chosen = TypeVar("Chosen", bound=PreferenceOptions)
PAIR = ("chosen", "rejected")


class Answered(NamedTuple):
    """The answers of one name: `logs`, the sum of their tokens' log-probabilities (r,), `tokens`, how many (r,), and
    `reference`, the sums by the model at the start (0 where there is none)."""

    logs: Tensor
    tokens: Tensor
    reference: Tensor

    @property
    def ratio(self) -> Tensor:
        """log(policy / reference)."""
        return self.logs - self.reference


class PreferenceLearner(nn.Module):
    """The decoder, and a frozen copy of how it began; without one where new adapters can be switched off instead, or
    nothing is compared."""

    def __init__(self, model: Decoder, *, reference: bool) -> None:
        super().__init__()
        self.model = model
        self.reference: Decoder | None = None
        if reference and not adapters_are_new(model):
            self.reference = copy.deepcopy(model).requires_grad_(False)


class Preference(Plain, Generic[Chosen]):
    """Batches: {"chosen" and "rejected": {"tokens": Ragged, "learned": Ragged of bool}}, or {"answer": the same,
    "wanted": (rows,) bool}: prompts with their answers, of which `learned` are the answer's own tokens.

    What is compared with the model at the start is computed once per experience.
    """

    names: ClassVar[tuple[str, ...]] = PAIR

    def __init__(self, options: Chosen, signature: Signature) -> None:
        self.options = options

    def build(self, model: nn.Module) -> PreferenceLearner:
        """The learner. Raises ComponentError for a model that is no decoder."""
        decoder = as_decoder(model, str(getattr(self.options, "kind", "preference")))
        return PreferenceLearner(decoder, reference=self.options.reference)

    def prepare(self, learner: nn.Module, experience: Experience) -> Experience:
        """Adds "reference" (rows,) to each answer where it is compared."""
        if not self.options.reference:
            return experience
        model, reference = cast(Decoder, learner.model), cast("Decoder | None", learner.reference)
        if reference is not None and reference.embedding.weight.dtype != model.embedding.weight.dtype:
            # As the policy is rounded, so must be what it is compared with.
            for parameter in reference.parameters():
                parameter.data = parameter.data.to(model.embedding.weight.dtype)
        batch = dict(experience.batch)
        judge = reference or model
        with evaluating(judge), without_adapters(model) if reference is None else nullcontext():
            for name in self.names:
                part = cast(Batch, batch[name])
                logs, _tokens = answer_logs(judge, [cast(Ragged, part["tokens"])], [cast(Ragged, part["learned"])])[0]
                batch[name] = {**part, "reference": logs}
        return dataclasses.replace(experience, batch=batch)

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        """Rows, by which every term is divided."""
        rows = torch.tensor(batches.rows(batch))
        return {"preference": rows, "accuracy": rows, "margin": rows}

    def loss(self, learner: nn.Module, batch: Batch, counts: Mapping[str, Tensor]) -> Loss:
        """ "preference", the loss; and measured beside it, "accuracy" (how often the better answer is rated higher) and
        "margin" (by how much, in nats)."""
        found = self._answered(learner, batch)
        better, worse = self.rated(found[0]), self.rated(found[1])
        return Loss({"preference": Term(self.losses(found[0], found[1]).sum()), **measured(better - worse)})

    def _answered(self, learner: nn.Module, batch: Batch) -> list[Answered]:
        parts = [cast(Batch, batch[name]) for name in self.names]
        logs = answer_logs(
            cast(Decoder, learner.model),
            [cast(Ragged, part["tokens"]) for part in parts],
            [cast(Ragged, part["learned"]) for part in parts],
        )
        return [
            Answered(each, tokens, cast(Tensor, part["reference"]) if "reference" in part else torch.zeros_like(each))
            for (each, tokens), part in zip(logs, parts)
        ]

    def rated(self, answer: Answered) -> Tensor:
        """What the objective holds an answer to be worth, in nats: (r,)."""
        return answer.ratio

    def losses(self, chosen: Answered, rejected: Answered) -> Tensor:
        """One loss a pair: (r,)."""
        raise NotImplementedError


class DPO(Preference[DPOOptions]):
    """-log sigmoid(beta h), h the difference of the two log-ratios (equation 7)."""

    def losses(self, chosen: Answered, rejected: Answered) -> Tensor:
        """Of each pair; with smoothing, mixed with that of the pair the other way round."""
        logits_r, wrong = self.options.beta * (chosen.ratio - rejected.ratio), self.options.smoothing
        return -(1 - wrong) * F.logsigmoid(logits_r) - wrong * F.logsigmoid(-logits_r)


class IPO(Preference[IPOOptions]):
    """(h - 1 / (2 beta))², with the log-ratios taken per token (equation 17)."""

    def rated(self, answer: Answered) -> Tensor:
        """The log-ratio per token."""
        return answer.ratio / answer.tokens.clamp(min=1)

    def losses(self, chosen: Answered, rejected: Answered) -> Tensor:
        """Of each pair."""
        return (self.rated(chosen) - self.rated(rejected) - 1 / (2 * self.options.beta)).square()


class SimPO(Preference[SimPOOptions]):
    """-log sigmoid(beta (mean log chosen - mean log rejected) - gamma) (equation 6)."""

    def rated(self, answer: Answered) -> Tensor:
        """The mean log-probability of its tokens."""
        return answer.logs / answer.tokens.clamp(min=1)

    def losses(self, chosen: Answered, rejected: Answered) -> Tensor:
        """Of each pair."""
        return -F.logsigmoid(self.options.beta * (self.rated(chosen) - self.rated(rejected)) - self.options.gamma)


class ORPO(Preference[ORPOOptions]):
    """The chosen answers' cross-entropy, and -log sigmoid of the logarithm of the odds ratio (equations 6 and 7)."""

    def rated(self, answer: Answered) -> Tensor:
        """The mean log-probability of its tokens."""
        return answer.logs / answer.tokens.clamp(min=1)

    def losses(self, chosen: Answered, rejected: Answered) -> Tensor:
        """Of each pair, the odds' part alone."""
        better, worse = self.rated(chosen), self.rated(rejected)
        return -F.logsigmoid(better - worse - log_complement(better) + log_complement(worse))

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        """Rows, and the chosen answers' tokens."""
        learned = cast(Ragged, cast(Batch, batch["chosen"])["learned"])
        return {**super().counts(batch), "chosen": _learned_targets(learned).sum()}

    def loss(self, learner: nn.Module, batch: Batch, counts: Mapping[str, Tensor]) -> Loss:
        """ "chosen", the cross-entropy per token; "preference", the odds; and what is measured."""
        chosen, rejected = self._answered(learner, batch)
        odds = Term(self.losses(chosen, rejected).sum(), self.options.weight)
        terms = {"chosen": Term(-chosen.logs.sum()), "preference": odds}
        return Loss({**terms, **measured(self.rated(chosen) - self.rated(rejected))})


class KTO(Preference[KTOOptions]):
    """1 - sigmoid(beta (ratio - z)) for wanted answers and 1 - sigmoid(beta (z - ratio)) for unwanted ones, weighted
    (equation 7); z is the mean log-ratio of answers behind others' prompts, at least 0."""

    names: ClassVar[tuple[str, ...]] = ("answer",)

    def prepare(self, learner: nn.Module, experience: Experience) -> Experience:
        """Adds "reference", and "baseline", the same z for every row: of each answer behind the next row's prompt."""
        experience = super().prepare(learner, experience)
        answer = cast(Batch, experience.batch["answer"])
        mixed, learned = _shifted(cast(Ragged, answer["tokens"]), cast(Ragged, answer["learned"]))
        model, reference = cast(Decoder, learner.model), cast("Decoder | None", learner.reference)
        with evaluating(learner):
            ((logs, _tokens),) = answer_logs(model, [mixed], [learned])
            with without_adapters(model) if reference is None else nullcontext():
                ((before, _same),) = answer_logs(reference or model, [mixed], [learned])
        z = (logs - before).mean().clamp(min=0)
        batch = {**experience.batch, "baseline": z.expand(len(logs)).clone()}
        return dataclasses.replace(experience, batch=batch)

    def loss(self, learner: nn.Module, batch: Batch, counts: Mapping[str, Tensor]) -> Loss:
        """ "preference", and "accuracy" of which side of z an answer lies on, "margin" by how much."""
        (answer,) = self._answered(learner, batch)
        wanted, baseline = cast(Tensor, batch["wanted"]), cast(Tensor, batch["baseline"])
        sign = torch.where(wanted, 1.0, -1.0)
        weight = torch.where(wanted, self.options.wanted, self.options.unwanted)
        margin = sign * (answer.ratio - baseline)
        losses = weight * (1 - torch.sigmoid(self.options.beta * margin))
        return Loss({"preference": Term(losses.sum()), **measured(margin)})


def measured(margin_r: Tensor) -> dict[str, Term]:
    """Terms that only measure."""
    margin_r = margin_r.detach()
    return {"accuracy": Term((margin_r > 0).float().sum(), 0.0), "margin": Term(margin_r.sum(), 0.0)}


def log_complement(logs: Tensor) -> Tensor:
    """log(1 - exp(logs)), steady on both ends (Mächler, 2012)."""
    logs = logs.clamp(max=-1e-7)
    return torch.where(logs > -0.693, torch.log(-torch.expm1(logs)), torch.log1p(-torch.exp(logs)))


def answer_logs(model: Decoder, tokens: Sequence[Ragged], learned: Sequence[Ragged]) -> list[tuple[Tensor, Tensor]]:
    """For each, the sum of log-probabilities of each row's learned tokens given all before them (rows,) float32, and
    how many they are (rows,). All rows of all go through the model together, end to end."""
    values = torch.cat([_own(each) for each in tokens]).long()
    lengths = torch.cat([each.lengths for each in tokens])
    taught = torch.cat([_learned_targets(each) for each in learned])
    device = model.embedding.weight.device
    place = taught.cpu().nonzero().squeeze(1)
    row = torch.repeat_interleave(torch.arange(len(lengths)), lengths)[place].to(device)
    place = place.to(device)
    hidden_nd = model.hidden_of(values, Layout(tuple(lengths.tolist()), None, device))
    logs_n = -token_losses(hidden_nd[place], model.head_weight, values[place + 1])
    sums = logs_n.new_zeros(len(lengths)).index_add(0, row, logs_n)
    counts = torch.zeros(len(lengths), device=device).index_add(0, row, torch.ones_like(logs_n))
    sizes = [len(each) for each in tokens]
    return list(zip(torch.split(sums, sizes), torch.split(counts, sizes)))


def _own(ragged: Ragged) -> Tensor:
    return ragged.values[int(ragged.offsets[0]) : int(ragged.offsets[-1])]


def _learned_targets(learned: Ragged) -> Tensor:
    """For each position, whether the token after it, in the same row, is learned: (n,) bool."""
    values, ends = _own(learned), (learned.offsets[1:] - learned.offsets[0] - 1)[learned.lengths > 0]
    after = torch.zeros_like(values)
    after[:-1] = values[1:]
    after[ends.to(values.device)] = False
    return after


def _shifted(tokens: Ragged, learned: Ragged) -> tuple[Ragged, Ragged]:
    """Each row's answer behind the prompt of the next row."""
    rows, marks = [], []
    firsts = [int(learned.row(i).nonzero()[0]) if bool(learned.row(i).any()) else 0 for i in range(len(tokens))]
    for index in range(len(tokens)):
        other = (index + 1) % len(tokens)
        prompt, answer = tokens.row(other)[: firsts[other]], tokens.row(index)[firsts[index] :]
        marks.append(torch.cat([torch.zeros_like(prompt, dtype=torch.bool), learned.row(index)[firsts[index] :]]))
        rows.append(torch.cat([prompt, answer]))
    return Ragged.from_rows(rows), Ragged.from_rows(marks)
