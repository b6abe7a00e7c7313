"""Preferences: losses against formulas written from the papers, gradients however split, references for nothing."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from reinforge.core import batch as batches
from reinforge.core.contracts import Experience
from reinforge.core.ragged import Ragged
from reinforge.models.adapters import adapt
from reinforge.models.decoder import Decoder
from reinforge.models.decoder_options import DecoderOptions, LoRAOptions
from reinforge.objectives.preferences import PreferenceLearner, answer_logs
from reinforge.registry import REGISTRY
from reinforge.schema.signature import Input, Output, Signature

SIGNATURE = Signature(
    inputs={"tokens": Input(form="tokens", sizes=(19,))}, outputs={"tokens": Output(form="tokens", size=19)}
)
ROWS = 5


def decoder() -> Decoder:
    torch.manual_seed(0)
    model = Decoder(DecoderOptions(layers=2, width=16, heads=2, context=24), SIGNATURE)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(8 if parameter.ndim == 2 else 1)
    return model


def answers(seed: int) -> dict[str, Ragged]:
    """Prompts of 2 to 5 tokens (the same for each seed) and answers of 1 to 6."""
    prompts, own = torch.Generator().manual_seed(7), torch.Generator().manual_seed(seed)
    rows, learned = [], []
    for _ in range(ROWS):
        asked = torch.randint(19, (int(torch.randint(2, 6, (), generator=prompts)),), generator=prompts)
        said = torch.randint(19, (int(torch.randint(1, 7, (), generator=own)),), generator=own)
        rows.append(torch.cat([asked, said]))
        learned.append(torch.cat([torch.zeros(len(asked)), torch.ones(len(said))]).bool())
    return {"tokens": Ragged.from_rows(rows), "learned": Ragged.from_rows(learned)}


def data(kind: str) -> dict[str, Any]:
    if kind == "kto":
        return {"answer": answers(1), "wanted": torch.tensor([True, False, True, True, False])}
    return {"chosen": answers(1), "rejected": answers(2)}


def by_hand(model: Decoder, rows: dict[str, Ragged]) -> tuple[Tensor, Tensor]:
    """Sum of log-probabilities, and how many: one row at a time."""
    sums, counts = [], []
    for index in range(len(rows["tokens"])):
        tokens, learned = rows["tokens"].row(index), rows["learned"].row(index)
        logs = model({"tokens": tokens[None]})[0]["tokens"][0].double().log_softmax(-1)
        own = [logs[at - 1, tokens[at]] for at in range(1, len(tokens)) if learned[at]]
        sums.append(torch.stack(own).sum())
        counts.append(len(own))
    return torch.stack(sums), torch.tensor(counts)


def learner_of(kind: str, **options: object) -> tuple[Any, PreferenceLearner]:
    objective = REGISTRY.build("objective", REGISTRY.find("objective", kind).options(**options), SIGNATURE)
    learner = objective.build(decoder())
    with torch.no_grad():  # as after some updates
        for number, parameter in enumerate(learner.model.parameters()):
            g = torch.Generator().manual_seed(number)
            parameter.add_(0.05 * parameter.abs().mean() * torch.randn(parameter.shape, generator=g))
    return objective, learner


def formula(kind: str, learner: PreferenceLearner, batch: dict[str, Any]) -> Tensor:
    """The mean loss from the papers, in float64."""
    if kind == "kto":
        pi, _n = by_hand(learner.model, batch["answer"])
        ref, _n = by_hand(decoder(), batch["answer"])
        mixed: dict[str, list[Tensor]] = {"tokens": [], "learned": []}
        for i in range(ROWS):
            j = (i + 1) % ROWS
            asked = batch["answer"]["tokens"].row(j)[~batch["answer"]["learned"].row(j)]
            said = batch["answer"]["tokens"].row(i)[batch["answer"]["learned"].row(i)]
            mixed["tokens"].append(torch.cat([asked, said]))
            mixed["learned"].append(torch.cat([torch.zeros(len(asked)), torch.ones(len(said))]).bool())
        others = {name: Ragged.from_rows(rows) for name, rows in mixed.items()}
        z = (by_hand(learner.model, others)[0] - by_hand(decoder(), others)[0]).mean().clamp(min=0).detach()
        r = 0.1 * (pi - ref)
        values = torch.where(batch["wanted"], 1 - torch.sigmoid(r - 0.1 * z), 0.7 * (1 - torch.sigmoid(0.1 * z - r)))
        return values.mean()
    (pc, nc), (pr, nr) = (by_hand(learner.model, batch[name]) for name in ("chosen", "rejected"))
    (rc, _), (rr, _) = (by_hand(decoder(), batch[name]) for name in ("chosen", "rejected"))
    h = (pc - rc) - (pr - rr)
    match kind:
        case "dpo":
            return (-0.9 * torch.log(torch.sigmoid(0.1 * h)) - 0.1 * torch.log(torch.sigmoid(-0.1 * h))).mean()
        case "ipo":
            return (((pc - rc) / nc - (pr - rr) / nr - 1 / 0.2) ** 2).mean()
        case "simpo":
            return -torch.log(torch.sigmoid(2.0 * (pc / nc - pr / nr) - 1.0)).mean()
        case _:
            odds = [torch.exp(p / n) / (1 - torch.exp(p / n)) for p, n in ((pc, nc), (pr, nr))]
            return -pc.sum() / nc.sum() - 0.1 * torch.log(torch.sigmoid(torch.log(odds[0] / odds[1]))).mean()


OPTIONS: dict[str, dict[str, object]] = {
    "dpo": {"smoothing": 0.1}, "ipo": {}, "simpo": {}, "orpo": {}, "kto": {"unwanted": 0.7},
}  # fmt: skip


@pytest.mark.parametrize("kind", OPTIONS)
def test_equals_the_papers_however_split(kind: str) -> None:
    objective, learner = learner_of(kind, **OPTIONS[kind])
    batch = data(kind)
    with torch.no_grad():
        prepared = objective.prepare(learner, Experience(batch)).batch
    counts = objective.counts(prepared)
    right = formula(kind, learner, batch)
    names = list(learner.model.parameters())
    wanted = torch.autograd.grad(right, names)
    for size in (ROWS, 2, 1):
        total = torch.zeros(())
        for part in batches.split(prepared, size):
            for name, term in objective.loss(learner, part, counts).terms.items():
                total = total + term.weight * term.sum / counts[name]
        torch.testing.assert_close(total.double(), right, atol=1e-5, rtol=1e-5)
        for one, other in zip(torch.autograd.grad(total, names), wanted):
            assert (one - other).norm() <= 1e-3 * other.norm() + 1e-6


@pytest.mark.parametrize("kind", ["dpo", "kto"])
def test_at_the_start_the_ratio_is_one(kind: str) -> None:
    objective = REGISTRY.build("objective", REGISTRY.find("objective", kind).options(), SIGNATURE)
    learner = objective.build(decoder())
    prepared = objective.prepare(learner, Experience(data(kind))).batch
    found = objective.loss(learner, prepared, objective.counts(prepared)).terms["preference"].sum / ROWS
    torch.testing.assert_close(found, torch.tensor(0.5 if kind == "kto" else 0.6931472), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["dpo", "ipo", "kto"])
def test_adapters_give_the_reference_for_nothing(kind: str) -> None:
    objective, copied = learner_of(kind)
    model = decoder()
    adapt(LoRAOptions(rank=2), model)
    learner = objective.build(model)
    assert learner.reference is None
    with torch.no_grad():
        for name, parameter in learner.model.named_parameters():
            if "lora_b" in name:
                parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    before = copy.deepcopy(learner.model.state_dict())
    batch = data(kind)
    name = objective.names[0]
    found = objective.prepare(learner, Experience(batch)).batch[name]["reference"]
    right = answer_logs(copied.reference, [batch[name]["tokens"]], [batch[name]["learned"]])[0][0]
    torch.testing.assert_close(found, right, atol=1e-5, rtol=1e-5)
    assert all(torch.equal(before[key], value) for key, value in learner.model.state_dict().items())
    assert not torch.allclose(found, by_hand(learner.model, batch[name])[0].float(), atol=1e-2)


def test_answers_are_those_of_each_row_alone() -> None:
    model, rows = decoder(), answers(3)
    (sums, counts), (again, _) = answer_logs(
        model, [rows["tokens"], rows["tokens"].slice(1, 3)], [rows["learned"], rows["learned"].slice(1, 3)]
    )
    right, sizes = by_hand(model, rows)
    torch.testing.assert_close(sums.double(), right, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(again, sums[1:3], atol=1e-5, rtol=1e-5)
    assert counts.tolist() == sizes.tolist()
