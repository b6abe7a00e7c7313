"""Noise in texts, on their tokens: of characters where tokens are characters, of words where they are words.

The first and the last token of a text stay as they are.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reinforge.core.batch import Batch, Leaf
from reinforge.core.ragged import Ragged
from reinforge.data.augmentation.blocks import changed, chosen
from reinforge.data.augmentation.options import TokenDropoutOptions, TokenNoiseOptions
from reinforge.data.augmentation.random import Draws
from reinforge.errors import ComponentError
from reinforge.schema.signature import Signature

Index = NDArray[np.int64]


class TokenNoise:
    """Swapped, left out and replaced tokens. Raises ComponentError where a target points at a text's tokens."""

    mixes = False

    def __init__(self, options: TokenNoiseOptions, signature: Signature) -> None:
        self.options = options
        self.inputs = chosen(signature, options.inputs, "tokens", options.kind)
        for name, output in signature.outputs.items():
            if output.of in self.inputs or output.form == "tokens":
                raise ComponentError(
                    f"target {name!r} points at tokens, which would move",
                    where=f"augmentation {options.kind!r}",
                    remedy="Use token-dropout, which leaves each token its place.",
                )

    def apply(self, batch: Batch, rows: Tensor, seed: int, epoch: int) -> Batch:
        """The batch with misspelled texts; none is longer than before, and none is empty."""

        def misspell(text: Leaf) -> Leaf:
            if not isinstance(text, Ragged):
                raise ComponentError("it needs texts of different lengths", where="augmentation 'token-noise'")
            options = self.options
            draws = Draws(rows.numpy(), seed, epoch)
            row, place, inner = _places(text, draws.uniform(1)[:, 0] < options.probability)
            action = draws.uniform_at(row, place)
            delete, replace = options.delete, options.delete + options.replace
            deleted = inner & (action < delete)
            replaced = inner & (action >= delete) & (action < replace)
            next_inner = np.append(inner[1:], False)
            swapped = inner & next_inner & (action >= replace) & (action < replace + options.swap)
            source = np.arange(len(row))
            lengths = text.lengths.numpy()
            other = 1 + np.floor(draws.uniform_at(row, place) * (lengths[row] - 2)).astype(np.int64)
            source[replaced] += (other - place)[replaced]
            # A swapped token comes to stand behind the next one.
            order = np.argsort(np.arange(len(row)) + 1.5 * swapped, kind="stable")
            order = order[~deleted[order]]
            kept = np.bincount(row[~deleted], minlength=len(text))
            offsets = torch.from_numpy(np.concatenate([[0], np.cumsum(kept)]))
            return Ragged(text.values[torch.from_numpy(source[order]).to(text.values.device)], offsets)

        return changed(batch, self.inputs, misspell)


class TokenDropout:
    """Hidden tokens."""

    mixes = False

    def __init__(self, options: TokenDropoutOptions, signature: Signature) -> None:
        self.options = options
        self.inputs = chosen(signature, options.inputs, "tokens", options.kind)
        small = next((name for name in self.inputs if signature.inputs[name].sizes[0] <= options.token), None)
        if small is not None:
            raise ComponentError(
                f"input {small!r} has no token {options.token}", where=f"augmentation {options.kind!r}"
            )

    def apply(self, batch: Batch, rows: Tensor, seed: int, epoch: int) -> Batch:
        """The batch with some tokens hidden."""

        def hide(text: Leaf) -> Leaf:
            ragged = text if isinstance(text, Ragged) else _ragged(text)
            draws = Draws(rows.numpy(), seed, epoch)
            row, place, inner = _places(ragged, draws.uniform(1)[:, 0] < self.options.probability)
            hidden = torch.from_numpy(inner & (draws.uniform_at(row, place) < self.options.part))
            values = ragged.values.masked_fill(hidden.to(ragged.values.device), self.options.token)
            return Ragged(values, ragged.offsets) if isinstance(text, Ragged) else values.view(text.shape)

        return changed(batch, self.inputs, hide)


def _ragged(text: Tensor) -> Ragged:
    """Texts of one length, (n, time)."""
    return Ragged(text.flatten(), torch.arange(text.shape[0] + 1) * text.shape[1])


def _places(text: Ragged, there: NDArray[np.bool_]) -> tuple[Index, Index, NDArray[np.bool_]]:
    """For every token: its row, its place in it, and whether it may change: not at the ends, and `there` (n,)."""
    lengths = text.lengths.numpy()
    row = np.repeat(np.arange(len(text)), lengths)
    place = np.arange(len(row)) - text.offsets.numpy()[row]
    return row, place, there[row] & (place > 0) & (place < lengths[row] - 1)
