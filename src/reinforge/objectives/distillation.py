"""Distillation: a model learns the whole distribution of a larger one, token by token, not its likeliest word alone.

Shape suffixes: n valid tokens, d width, v vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from reinforge.core import batch as batches
from reinforge.core.batch import Batch
from reinforge.core.contracts import Loss, Step, Term
from reinforge.errors import ComponentError
from reinforge.messages import _
from reinforge.models.decoder import Decoder
from reinforge.models.token_losses import summed_loss
from reinforge.objectives.language import Language, LanguageLearner, as_decoder
from reinforge.objectives.options import DistillationOptions
from reinforge.schema.signature import Signature

# Logits of both models that are held at once.
ELEMENTS = 1 << 23
# The term's name, beside the one that is called as the output.
DISTILLED = "distilled"


class DistillationLearner(LanguageLearner):
    """The decoder, and the frozen teacher."""

    def __init__(self, model: Decoder, teacher: Decoder) -> None:
        super().__init__(model)
        self.teacher = teacher


class Distillation(Language):
    """Minimises (1 - weight) cross-entropy + weight T² KL(teacher || student), both distributions at temperature T, per
    valid token (arXiv:1503.02531). Takes the batches of `Language`; terms: the output's name, and "distilled"."""

    def __init__(self, options: DistillationOptions, signature: Signature, teacher: nn.Module | None = None) -> None:
        super().__init__(options, signature)
        self.distilled, self.teacher = options, teacher

    def build(self, model: nn.Module) -> DistillationLearner:
        """The learner. Raises ComponentError for a model that is no decoder, or a teacher of another vocabulary."""
        decoder, teacher = as_decoder(model, "distillation"), self.teacher
        if not isinstance(teacher, Decoder):
            raise ComponentError(
                _("there is no teacher"), where="objective distillation",
                remedy=_("Name the bundle of a larger model: objective.teacher."),
            )  # fmt: skip
        as_decoder(teacher, "distillation")
        if teacher.embedding.num_embeddings != decoder.embedding.num_embeddings:
            raise ComponentError(
                _("teacher and model have vocabularies of {theirs} and {own} tokens").format(
                    theirs=teacher.embedding.num_embeddings, own=decoder.embedding.num_embeddings
                ),
                where="objective.teacher", remedy=_("Both must be made with one tokenizer."),
            )  # fmt: skip
        return DistillationLearner(decoder, teacher.requires_grad_(False).eval())

    def steps(self, learner: nn.Module) -> list[Step]:
        """One step, called "model", for the student's parameters."""
        student = cast(nn.Module, learner.model)
        return [Step("model", [p for p in student.parameters() if p.requires_grad], self.loss)]

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        """Valid target tokens."""
        counts = super().counts(batch)
        return {**counts, DISTILLED: counts[self.name]}

    def loss(self, learner: nn.Module, batch: Batch, counts: Mapping[str, Tensor]) -> Loss:
        """Both terms over the valid tokens."""
        assert isinstance(learner, DistillationLearner)
        student, teacher, options = learner.model, learner.teacher, self.distilled
        inputs = cast(Batch, batch["inputs"])
        hidden_nd = student.hidden(inputs)[0].flatten(0, 1)
        with torch.no_grad():
            # A learner in training mode must not switch the teacher's dropout on.
            taught_nd = teacher.eval().hidden(inputs)[0].flatten(0, 1)
        targets_n = batches.section(batch, "targets")[self.name].flatten()
        valid = batches.section(batch, "valid").get(self.name)
        if valid is not None:
            index_n = valid.flatten().nonzero().squeeze(1)
            hidden_nd, taught_nd, targets_n = hidden_nd[index_n], taught_nd[index_n], targets_n[index_n]
        total = hidden_nd.new_zeros((), dtype=torch.float32)
        size = max(1, ELEMENTS // student.embedding.num_embeddings)
        for start in range(0, len(targets_n), size):
            part = slice(start, start + size)
            # Logits are made again for the backward pass, and never all held.
            total = total + checkpoint(
                divergence, hidden_nd[part], student.head_weight, taught_nd[part], teacher.head_weight,
                options.temperature, use_reentrant=False,
            )  # fmt: skip
        spoken = summed_loss(hidden_nd, student.head_weight, targets_n)
        square = options.temperature**2
        return Loss({
            self.name: Term(spoken, 1 - options.weight), DISTILLED: Term(total * square, options.weight)
        })  # fmt: skip


def divergence(
    hidden_nd: Tensor, weight_vd: Tensor, taught_nd: Tensor, teaching_vd: Tensor, temperature: float
) -> Tensor:
    """The sum of KL(teacher || student) over tokens, in nats."""
    student_nv = (hidden_nd @ weight_vd.t()).float().div(temperature).log_softmax(-1)
    teacher_nv = (taught_nd @ teaching_vd.t()).float().div(temperature).log_softmax(-1)
    return (teacher_nv.exp() * (teacher_nv - student_nv)).sum()
