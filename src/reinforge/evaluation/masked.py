"""Evaluation of encoders of text: how well they tell what is hidden in held-out documents."""

from __future__ import annotations

import torch
from torch import Tensor

from reinforge.core import seeds
from reinforge.core.ragged import Ragged
from reinforge.data.text import TextPipeline
from reinforge.errors import RecipeError
from reinforge.evaluation.language import DocumentEvaluator
from reinforge.messages import _
from reinforge.models.attention import Layout
from reinforge.objectives.masked import Vocabulary, hide
from reinforge.objectives.options import MaskedOptions


class MaskedEvaluator(DocumentEvaluator):
    """Cross-entropy of hidden tokens: `evaluate` returns "loss" (nats per told token), "perplexity" (its exponential)
    and "accuracy". What is hidden of a document is a function of its number and its length alone, the same in every
    evaluation. Documents longer than `context` are cut there."""

    # What is told is what stands there.
    ahead = 0

    def __init__(self, documents: Ragged, options: MaskedOptions, vocabulary: Vocabulary, *, context: int) -> None:
        super().__init__(documents, None, context=context)
        self.options, self.vocabulary = options, vocabulary

    def _part(
        self, rows: list[tuple[int, int, int]], learned: Tensor, device: torch.device
    ) -> tuple[list[int], Tensor, Tensor, Tensor, Layout]:
        shown: list[Tensor] = []
        told: list[Tensor] = []
        values: list[Tensor] = []
        for number, start, size in rows:
            tokens = self.documents.values[start : start + size].long()
            breaks = torch.arange(size) == 0
            draw = seeds.generator(0, "masked", number, size)
            found = hide(tokens, torch.ones_like(breaks), breaks, self.options, self.vocabulary, draw)
            shown, told, values = [*shown, found[0]], [*told, found[1]], [*values, tokens]
        layout = Layout(tuple(size for _number, _start, size in rows), None, device)
        numbers = [number for number, _start, _size in rows]
        return numbers, torch.cat(shown).to(device), torch.cat(values).to(device), torch.cat(told).to(device), layout


def vocabulary_of(pipeline: TextPipeline, options: MaskedOptions) -> Vocabulary:
    """What hides a text's tokens: the mark that fills up, which no text has, stands for what is hidden.

    Raises RecipeError where the tokenizer has none, or one that also begins or ends documents.
    """
    named = pipeline.special_ids
    mask = named.get("pad")
    if mask is None:
        raise RecipeError(
            _("the tokenizer has no token that fills up, which would hide others"), where="objective masked",
            remedy=_("Use data of kind documents with a tokenizer of its own, or one that has such a token."),
        )  # fmt: skip
    if mask in (named.get("bos"), named.get("eos")):
        raise RecipeError(
            _("the token that fills up ({token}) also begins or ends documents, and can't hide others").format(
                token=pipeline.marks.pad
            ),
            where="objective masked",
            remedy=_("Use data of kind documents with a tokenizer of its own, or one that has such a token."),
        )
    # The template's own tell nothing of a text either.
    special = getattr(pipeline.tokenizer, "special", lambda text: None)
    found = (special(text) for text in getattr(pipeline.tokenizer, "specials", ()))
    marks = {*named.values(), *(token for token in found if token is not None)}
    return Vocabulary.of(pipeline.tokenizer, mask, marks, words=options.whole_words)
