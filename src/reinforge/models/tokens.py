"""Encoders of tokens: rows of different lengths to one row of features each. Padding never changes a result.

Beside `forward`, each offers `sequence(block) -> (features (rows, time, token_features), mask (rows, time) bool)`, with
zeros where the mask is False; `pool`, which makes one row of features of each sequence; and `present`.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from reinforge.core.batch import Leaf
from reinforge.core.ragged import Ragged
from reinforge.errors import ComponentError
from reinforge.models.grow import copy_grown, grow_rows
from reinforge.models.options import BagOptions, RNNOptions
from reinforge.schema.signature import Input

# A prime: hashes of n-grams stay below it, and so within 64 bits when multiplied.
_PRIME, _FACTOR = 2_147_483_647, 1_000_003


class Padded(NamedTuple):
    """Tokens at the same width: ids (rows, time) int64, mask (rows, time) bool, lengths (rows,) int64 on the CPU.

    `full`: no row is padded. At least one place wide.
    """

    ids: Tensor
    mask: Tensor
    lengths: Tensor
    full: bool


def padded(block: Leaf | Padded) -> Padded:
    """Ragged tokens at one width; a tensor (rows, time) has no padding. What is padded stays as it is: exports give
    that, since their graphs can't depend on lengths."""
    if isinstance(block, Padded):
        return block
    if isinstance(block, Tensor):
        rows, time = block.shape
        if time:
            lengths = torch.full((rows,), time, dtype=torch.int64)
            return Padded(block, torch.ones_like(block, dtype=torch.bool), lengths, True)
        block = Ragged(block.flatten(), torch.zeros(rows + 1, dtype=torch.int64))
    ids, lengths = block.pad().long(), block.lengths
    if not ids.shape[1]:
        ids = ids.new_zeros(len(block), 1)
    mask = torch.arange(ids.shape[1]) < lengths[:, None]
    full = bool(mask.all())
    return Padded(ids, mask.to(ids.device), lengths, full)


def pooled(features: Tensor, mask: Tensor, how: str) -> Tensor:
    """(rows, time, size) and (rows, time) to (rows, size): mean, max, or first place; 0 for rows without a token."""
    if how == "first":
        return features[:, 0]
    if how == "max":
        highest = features.masked_fill(~mask.unsqueeze(-1), -torch.inf).amax(1)
        return highest.masked_fill(~mask[:, :1], 0)
    # What is not there is 0 already.
    return features.sum(1) / mask.sum(1, keepdim=True).clamp(min=1).to(features.dtype)


class TokenEncoder(nn.Module):
    """What encoders of tokens share. Raises ComponentError for a block of another form."""

    features: int
    token_features: int

    def __init__(self, name: str, block: Input) -> None:
        super().__init__()
        if block.form != "tokens":
            raise ComponentError(
                f"it takes tokens, not {block.form}", where=f"encoder {name!r}", remedy="Name another encoder."
            )
        self.vocabulary = block.sizes[0]

    def add_ngrams(self, ngrams: int, buckets: int, size: int) -> None:
        """Vectors (buckets, size) for up to so many tokens in a row; from 0, so that they say nothing at first."""
        self.longest = ngrams
        self.grams = nn.Parameter(torch.zeros(buckets, size)) if ngrams > 1 else None

    def with_ngrams(self, embedded: Tensor, ids: Tensor) -> Tensor:
        """Tokens' vectors (rows, time, size) with those of the n-grams that end there; ids (rows, time)."""
        if self.grams is None:
            return embedded
        hashed, time = ids, ids.shape[1]
        if torch.compiler.is_compiling():
            # One graph for every time: what would reach before a row's first token is struck out.
            for n in range(2, self.longest + 1):
                hashed, there = _whole(hashed, ids, n)
                embedded = embedded + functional.embedding(hashed % len(self.grams), self.grams) * there
            return embedded
        for n in range(2, min(self.longest, time) + 1):
            # From the n-th token on: what comes before a row's first is no part of it.
            hashed = _hashed(hashed[:, 1:], ids[:, : time - n + 1], n)
            vectors = functional.embedding(hashed % len(self.grams), self.grams)
            embedded = embedded + functional.pad(vectors, (0, 0, n - 1, 0))
        return embedded

    def forward(self, block: Leaf | Padded) -> Tensor:
        """(rows, features)."""
        return self.pool(*self.sequence(block))

    def sequence(self, block: Leaf | Padded) -> tuple[Tensor, Tensor]:
        """(rows, time, token_features), zeros where there is no token, and (rows, time) bool: where there is one."""
        raise NotImplementedError

    def pool(self, sequence: Tensor, mask: Tensor) -> Tensor:
        """One row of a sequence: (rows, features)."""
        raise NotImplementedError

    def grow_from(self, old: TokenEncoder) -> None:
        """Take the weights of an encoder of fewer tokens: they come first."""
        grow_rows(self, old, ("embedding", "positions"))

    def present(self, block: Leaf | Padded) -> Tensor | None:
        """(rows,) bool: which rows have a token; None where all have."""
        if isinstance(block, Padded):
            return block.lengths > 0
        if isinstance(block, Tensor) or not len(block) or int(block.lengths.min()) > 0:
            return None
        return (block.lengths > 0).to(block.values.device)


class Bag(TokenEncoder):
    """The mean over tokens (or their sum by the root of their number) of a token's vector and those of the n-grams that
    end with it, n-grams by their hash.

    Joulin et al., "Bag of Tricks for Efficient Text Classification" (arXiv:1607.01759).
    """

    def __init__(self, options: BagOptions, block: Input) -> None:
        super().__init__("bag", block)
        self.ngrams, self.buckets, self.dropout = options.ngrams, options.buckets, options.dropout
        self.power = 0.5 if options.pool == "root" else 1.0
        # N-grams begin from 0: what is rarely seen says little. Sums by the root begin about as small as means.
        begin = 0.1 if options.pool == "root" else 1.0
        grams = torch.zeros(options.buckets if options.ngrams > 1 else 0, options.size)
        self.table = nn.Parameter(torch.cat([begin * torch.randn(self.vocabulary, options.size), grams]))
        self.features = self.token_features = options.size

    def forward(self, block: Leaf | Padded) -> Tensor:
        """(rows, size), without padding anything."""
        if isinstance(block, Padded):
            return self.pool(*self.sequence(block))
        ragged = _ragged(block)
        ids, counts = self._ids(ragged)
        bags = torch.cat([counts.new_zeros(1), counts.cumsum(0)])[
            (ragged.offsets - ragged.offsets[0]).to(counts.device)
        ]
        total = functional.embedding_bag(ids, self.table, bags, mode="sum", include_last_offset=True)
        return self._divided(total, ragged.lengths)

    def sequence(self, block: Leaf | Padded) -> tuple[Tensor, Tensor]:
        """(rows, time, size): each token's vector and those of the n-grams that end with it, added up."""
        if isinstance(block, Padded):
            embedded, hashed = functional.embedding(block.ids, self.table), block.ids
            for n in range(2, self.ngrams + 1):
                hashed, there = _whole(hashed, block.ids, n)
                grams = functional.embedding(self.vocabulary + hashed % self.buckets, self.table)
                embedded = embedded + grams * there
            return embedded * block.mask.unsqueeze(-1), block.mask
        ragged = _ragged(block)
        ids, counts = self._ids(ragged)
        ends = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        each = functional.embedding_bag(ids, self.table, ends, mode="sum", include_last_offset=True)
        mask = padded(ragged).mask
        sequence = each.new_zeros(*mask.shape, each.shape[1])
        sequence[mask] = each
        return sequence, mask

    def pool(self, sequence: Tensor, mask: Tensor) -> Tensor:
        """The sum over tokens, divided."""
        return self._divided(sequence.sum(1), mask.sum(1))

    def _divided(self, total: Tensor, lengths: Tensor) -> Tensor:
        """Sums (rows, size) by the number of tokens (rows,), or its root."""
        divisor = lengths.clamp(min=1).to(total.device).unsqueeze(1).to(total.dtype)
        features = total / (divisor if self.power == 1 else divisor**self.power)
        return functional.dropout(features, self.dropout, self.training) if self.dropout else features

    def grow_from(self, old: TokenEncoder) -> None:
        """The same; n-grams stay where they were among theirs."""
        assert isinstance(old, Bag)
        copy_grown(self.table[: self.vocabulary], old.table[: old.vocabulary], "table")
        copy_grown(self.table[self.vocabulary :], old.table[old.vocabulary :], "table", grows=False)

    def _ids(self, ragged: Ragged) -> tuple[Tensor, Tensor]:
        """Rows of the table for each token in turn, end to end, and how many each token has: (tokens,)."""
        values = ragged.values[int(ragged.offsets[0]) : int(ragged.offsets[-1])].long()
        if self.ngrams == 1:
            return values, torch.ones_like(values)
        starts = torch.repeat_interleave(ragged.offsets[:-1] - ragged.offsets[0], ragged.lengths).to(values.device)
        place = torch.arange(len(values), device=values.device) - starts
        columns, here = [values], [torch.ones_like(values, dtype=torch.bool)]
        hashed = values
        for n in range(2, self.ngrams + 1):
            earlier = values.roll(n - 1)
            hashed = _hashed(hashed, earlier, n)
            columns.append(self.vocabulary + hashed % self.buckets)
            here.append(place >= n - 1)
        mask = torch.stack(here, 1)
        return torch.stack(columns, 1)[mask], mask.sum(1)


class RNN(TokenEncoder):
    """A GRU (Cho et al., arXiv:1406.1078) or LSTM (Hochreiter and Schmidhuber, 1997), packed: it never reads padding.

    Pooling "last" takes where each direction ends: the last token, and the first one for the way back.
    """

    def __init__(self, options: RNNOptions, block: Input) -> None:
        super().__init__("rnn", block)
        self.embedding = nn.Parameter(torch.randn(self.vocabulary, options.embedding))
        self.add_ngrams(options.ngrams, options.buckets, options.embedding)
        kind = nn.GRU if options.cell == "gru" else nn.LSTM
        self.network = kind(
            options.embedding, options.size, options.layers, batch_first=True, bidirectional=options.bidirectional,
            dropout=options.dropout if options.layers > 1 else 0.0,
        )  # fmt: skip
        self.size, self.how, self.dropout = options.size, options.pool, options.dropout
        self.features = self.token_features = options.size * (1 + options.bidirectional)

    def sequence(self, block: Leaf | Padded) -> tuple[Tensor, Tensor]:
        """(rows, time, size in each direction)."""
        tokens = padded(block)
        embedded = self.with_ngrams(functional.embedding(tokens.ids, self.embedding), tokens.ids)
        if self.dropout:
            embedded = functional.dropout(embedded, self.dropout, self.training)
        if not tokens.ids.shape[0]:
            return embedded.new_zeros(*tokens.mask.shape, self.features), tokens.mask
        if tokens.full:
            sequence, _ = self.network(embedded)
            return sequence, tokens.mask
        if isinstance(block, Padded):
            return self._by_direction(embedded, tokens), tokens.mask
        # Rows without a token read one, which is struck out after.
        packed = pack_padded_sequence(embedded, tokens.lengths.clamp(min=1), batch_first=True, enforce_sorted=False)
        sequence, _ = pad_packed_sequence(self.network(packed)[0], batch_first=True, total_length=embedded.shape[1])
        if int(tokens.lengths.min()) == 0:
            sequence = sequence.masked_fill(~tokens.mask.unsqueeze(-1), 0)
        return sequence, tokens.mask

    def _by_direction(self, embedded: Tensor, tokens: Padded) -> Tensor:
        """The same without packing, which no graph can say: each direction by itself, the way back over rows that are
        turned round within their own lengths."""
        network, kind = self.network, torch.gru if isinstance(self.network, nn.GRU) else torch.lstm
        states = 1 if isinstance(network, nn.GRU) else 2
        rows, time = tokens.ids.shape
        place = torch.arange(time, device=embedded.device).expand(rows, time)
        last = tokens.lengths.view(-1, 1) - 1
        turned = torch.where(place <= last, last - place, place).unsqueeze(-1)
        x, directions = embedded, 2 if network.bidirectional else 1
        for layer in range(network.num_layers):
            found = []
            for direction in range(directions):
                weights = [getattr(network, name) for name in network._all_weights[layer * directions + direction]]
                given = x if direction == 0 else x.gather(1, turned.expand(-1, -1, x.shape[2]))
                if torch.compiler.is_compiling():
                    out = _scanned(given, weights, states)
                else:
                    zeros = x.new_zeros(1, rows, network.hidden_size)
                    initial: Any = zeros if states == 1 else [zeros, zeros]
                    out = kind(given, initial, weights, True, 1, 0.0, False, False, True)[0]
                found.append(out if direction == 0 else out.gather(1, turned.expand(-1, -1, out.shape[2])))
            x = found[0] if directions == 1 else torch.cat(found, -1)
        return x * tokens.mask.unsqueeze(-1)

    def pool(self, sequence: Tensor, mask: Tensor) -> Tensor:
        """(rows, features)."""
        if self.how != "last":
            features = pooled(sequence, mask, self.how)
        else:
            last = (mask.sum(1) - 1).clamp(min=0)
            features = sequence[torch.arange(last.shape[0], device=last.device), last]
            if self.features > self.size:
                features = torch.cat([features[:, : self.size], sequence[:, 0, self.size :]], 1)
        return functional.dropout(features, self.dropout, self.training) if self.dropout else features


def _hashed(hashed: Tensor, earlier: Tensor, n: int) -> Tensor:
    """The hash of n tokens from that of the last n - 1 of them and the first."""
    return (hashed * _FACTOR + earlier + n) % _PRIME


def _scanned(x: Tensor, weights: list[Tensor], states: int) -> Tensor:
    """A GRU (one state) or LSTM (two) over (rows, time, features) as a loop that a graph holds, whatever the time."""
    from torch._higher_order_ops.scan import scan

    inward, onward, inward_bias, onward_bias = weights
    start = x.new_zeros(x.shape[0], onward.shape[1])

    def gru(held: Tensor, given: Tensor) -> tuple[Tensor, Tensor]:
        reset, update, new = given.chunk(3, 1)
        reset_held, update_held, new_held = functional.linear(held, onward, onward_bias).chunk(3, 1)
        update = (update + update_held).sigmoid()
        new = (new + (reset + reset_held).sigmoid() * new_held).tanh()
        after = new + update * (held - new)
        return after, after.clone()

    def lstm(held: list[Tensor], given: Tensor) -> tuple[list[Tensor], Tensor]:
        gates = given + functional.linear(held[0], onward, onward_bias)
        enter, keep, new, out = gates.chunk(4, 1)
        cell = keep.sigmoid() * held[1] + enter.sigmoid() * new.tanh()
        after = out.sigmoid() * cell.tanh()
        return [after, cell], after.clone()

    given = functional.linear(x, inward, inward_bias)
    initial: Any = start if states == 1 else [start, start.clone()]
    found: Tensor = scan(gru if states == 1 else lstm, initial, given.transpose(0, 1), dim=0)[1]
    return found.transpose(0, 1)


def _whole(hashed: Tensor, ids: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """For every place of rows (rows, time): the hash of the n tokens that end there, from that of the last n - 1, and
    whether there are so many, (1, time, 1)."""
    time = ids.shape[1]
    earlier = functional.pad(ids, (n - 1, 0))[:, :time]
    return _hashed(hashed, earlier, n), (torch.arange(time, device=ids.device) >= n - 1).view(1, -1, 1)


def _ragged(block: Leaf) -> Ragged:
    if isinstance(block, Ragged):
        return block
    rows, time = block.shape
    return Ragged(block.flatten(), torch.arange(rows + 1) * time)


def length_limit(block: Input, otherwise: int) -> int:
    """The most tokens of a row, by the signature where it says."""
    return math.prod(block.shape) if block.shape else otherwise
