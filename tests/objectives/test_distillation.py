"""Distillation against torch's own divergence, however split; and its refusals."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from reinforge.core import batch as batches
from reinforge.core.batch import Batch
from reinforge.errors import ComponentError
from reinforge.models.decoder import Decoder
from reinforge.models.decoder_options import DecoderOptions
from reinforge.objectives import distillation
from reinforge.objectives.distillation import Distillation
from reinforge.objectives.options import DistillationOptions
from reinforge.schema.signature import Input, Output, Signature


def decoder(seed: int, vocabulary: int = 19, **options: object) -> Decoder:
    torch.manual_seed(seed)
    signature = Signature(
        inputs={"tokens": Input(form="tokens", sizes=(vocabulary,))},
        outputs={"tokens": Output(form="tokens", size=vocabulary)},
    )
    settings = {"layers": 1, "width": 16, "heads": 2, "context": 12, **options}
    model = Decoder(DecoderOptions.model_validate(settings), signature)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(8 if parameter.ndim == 2 else 1)
    return model


def batch() -> Batch:
    g = torch.Generator().manual_seed(0)
    tokens = torch.randint(19, (4, 9), generator=g)
    valid = torch.rand(4, 8, generator=g) < 0.6
    return {"inputs": {"tokens": tokens[:, :-1]}, "targets": {"tokens": tokens[:, 1:]}, "valid": {"tokens": valid}}


def objective(teacher: Decoder | None, **options: object) -> Distillation:
    signature = Signature(
        inputs={"tokens": Input(form="tokens", sizes=(19,))}, outputs={"tokens": Output(form="tokens", size=19)}
    )
    return Distillation(DistillationOptions.model_validate(options), signature, teacher)


def test_equals_torchs_divergence_however_split(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distillation, "ELEMENTS", 19 * 5)
    student, teacher = decoder(0), decoder(1, layers=2, width=32)
    found = objective(teacher, temperature=2.0, weight=0.7)
    learner = found.build(student)
    whole = batch()
    valid = whole["valid"]["tokens"]  # type: ignore[index, call-overload]
    targets = whole["targets"]["tokens"]  # type: ignore[index, call-overload]
    logits, taught = (model(whole["inputs"])[0]["tokens"][valid] for model in (student, teacher))
    far = F.kl_div((logits / 2).log_softmax(-1), (taught / 2).log_softmax(-1), log_target=True, reduction="batchmean")
    wanted = 0.3 * F.cross_entropy(logits, targets[valid]) + 0.7 * 4 * far
    names = list(student.parameters())
    right = torch.autograd.grad(wanted, names)
    counts = found.counts(whole)
    (step,) = found.steps(learner)
    assert {id(p) for p in step.parameters} == {id(p) for p in names}
    for size in (4, 2, 1):
        total = torch.zeros(())
        for part in batches.split(whole, size):
            for name, term in step.loss(learner, part, counts).terms.items():
                total = total + term.weight * term.sum / counts[name]
        torch.testing.assert_close(total, wanted, atol=1e-5, rtol=1e-5)
        for one, other in zip(torch.autograd.grad(total, names), right):
            assert (one - other).norm() <= 1e-4 * other.norm() + 1e-6


def test_the_teacher_is_still_and_teaches_nothing_to_itself() -> None:
    teacher = decoder(1, dropout=0.5)
    found = objective(teacher, weight=1.0)
    student = decoder(1)
    learner = found.build(student)
    learner.train()
    terms = found.loss(learner, batch(), found.counts(batch())).terms
    assert float(terms["distilled"].sum.detach()) == pytest.approx(0.0, abs=1e-4)
    assert not any(p.requires_grad for p in teacher.parameters())


def test_teachers_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ComponentError, match="there is no teacher"):
        objective(None).build(decoder(0))
    with pytest.raises(ComponentError, match="vocabularies of 23 and 19"):
        objective(decoder(0, 23)).build(decoder(0))
