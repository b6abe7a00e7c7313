"""Masked-language modelling: tokens of a text are hidden, and told from what stands on both sides of them.

Shape suffixes: b rows, t time, n tokens of all rows, v vocabulary.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from reinforge.core import batch as batches
from reinforge.core.batch import Batch
from reinforge.core.contracts import Clock, Experience, Outcome
from reinforge.errors import ComponentError
from reinforge.messages import _
from reinforge.objectives.language import Language, LanguageLearner, as_decoder
from reinforge.objectives.options import MaskedOptions
from reinforge.schema.signature import Signature


class Words(Protocol):
    """What hiding needs to know of a tokenizer."""

    @property
    def size(self) -> int: ...

    def decode(self, ids: list[int]) -> str: ...


@dataclass(frozen=True)
class Vocabulary:
    """`mask`: the token that hides others, which no text has. `ordinary_v` (v,) bool: the tokens of texts, special ones
    left out. `opens_v`, `goes_on_v` (v,) bool, where words are hidden whole: a token ends within a word, or begins
    there."""

    mask: int
    ordinary_v: Tensor
    opens_v: Tensor | None = None
    goes_on_v: Tensor | None = None

    @classmethod
    def of(cls, tokenizer: Words, mask: int, specials: set[int], *, words: bool = False) -> Vocabulary:
        """Of a tokenizer. A word is a run of letters and digits without a space or a mark within; each character of
        scripts that leave no spaces (Chinese, Japanese) is one by itself."""
        ordinary_v = torch.ones(tokenizer.size, dtype=torch.bool)
        ordinary_v[[mask, *specials]] = False
        if not words:
            return cls(mask, ordinary_v)
        texts = [tokenizer.decode([token]) for token in range(tokenizer.size)]
        return cls(
            mask, ordinary_v, torch.tensor([_inner(text[-1:]) for text in texts]),
            torch.tensor([_inner(text[:1]) for text in texts]),
        )  # fmt: skip

    def words(self, tokens_n: Tensor, breaks_n: Tensor) -> Tensor:
        """The number of each token's word (n,); `breaks_n`: where a document begins, and with it a word."""
        assert self.opens_v is not None
        assert self.goes_on_v is not None
        begins_n = ~self.goes_on_v[tokens_n] | breaks_n
        begins_n[1:] |= ~self.opens_v[tokens_n[:-1]]
        return begins_n.long().cumsum(0) - begins_n[:1].long()


def hide(
    tokens_n: Tensor, real_n: Tensor, breaks_n: Tensor, options: MaskedOptions, vocabulary: Vocabulary,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The tokens as the model is shown them (n,), and which it is to tell (n,) bool.

    Each real, ordinary token is told with probability `part` (with `whole_words` each word is, all of it); of those, a
    part is hidden, another becomes any ordinary token, the rest stay. All on the CPU, drawn from `generator`.
    """
    size = len(tokens_n)
    told_n = torch.rand(size, generator=generator)
    if options.whole_words:
        told_n = told_n[vocabulary.words(tokens_n, breaks_n)]
    chosen_n = (told_n < options.part) & real_n & vocabulary.ordinary_v[tokens_n]
    fate_n = torch.rand(size, generator=generator)
    ordinary = vocabulary.ordinary_v.nonzero().squeeze(1)
    any_n = ordinary[torch.randint(len(ordinary), (size,), generator=generator)]
    hidden_n = chosen_n & (fate_n < options.hidden)
    other_n = chosen_n & ~hidden_n & (fate_n < options.hidden + options.random)
    shown_n = torch.where(hidden_n, vocabulary.mask, torch.where(other_n, any_n, tokens_n))
    return shown_n, chosen_n


class Masked(Language):
    """Minimises the mean cross-entropy of the tokens that are to be told, in nats, over the whole update (Devlin et
    al., arXiv:1810.04805). Takes the batches of `Language`, of which it needs the inputs; what is hidden is drawn anew
    each time that a text comes by."""

    def __init__(self, options: MaskedOptions, signature: Signature, vocabulary: Vocabulary | None = None) -> None:
        super().__init__(options, signature)
        self.masked, self.vocabulary = options, vocabulary

    def build(self, model: nn.Module) -> LanguageLearner:
        """The learner. Raises ComponentError for a model that sees one side alone, or without a token to hide with."""
        if self.vocabulary is None:
            raise ComponentError(
                _("there is no token to hide others with"), where="objective masked",
                remedy=_("Use data of kind documents, whose template has a token that fills up."),
            )  # fmt: skip
        return LanguageLearner(as_decoder(model, "masked", causal=False))

    def updates(
        self, experience: Experience, generator: torch.Generator, clock: Clock
    ) -> Generator[Batch, Outcome, None]:
        """One update of the whole experience, of which a part was hidden."""
        assert self.vocabulary is not None
        inputs = batches.section(experience.batch, "inputs")
        tokens_bt = inputs[self.name]
        documents_bt = inputs.get("documents")
        numbers_bt = torch.ones_like(tokens_bt) if documents_bt is None else documents_bt
        numbers_n = numbers_bt.cpu().flatten()
        breaks_n = torch.ones_like(numbers_n, dtype=torch.bool)
        breaks_n[1:] = numbers_n[1:] != numbers_n[:-1]
        breaks_n[:: tokens_bt.shape[1]] = True
        shown_n, chosen_n = hide(
            tokens_bt.cpu().flatten(), numbers_n > 0, breaks_n, self.masked, self.vocabulary, generator
        )
        yield {
            "inputs": {**inputs, self.name: shown_n.view_as(tokens_bt).to(tokens_bt.device)},
            "targets": {self.name: tokens_bt},
            "valid": {self.name: chosen_n.view_as(tokens_bt).to(tokens_bt.device)},
        }


def _inner(character: str) -> bool:
    """Whether a word may go on across it: a letter or a digit, of a script with spaces between words."""
    return character.isalnum() and not ("\u2e80" <= character <= "\u9fff" or "\uf900" <= character <= "\ufaff"
                                        or character >= "\U00020000")  # fmt: skip
