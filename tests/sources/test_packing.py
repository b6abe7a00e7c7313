"""Packing against brute force: what shares a row, how dense it is, and that nothing is lost without being told."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reinforge.core.batch import section
from reinforge.core.contracts import Clock
from reinforge.core.ragged import Ragged
from reinforge.sources.options import TokenOptions
from reinforge.sources.packing import Packing, best_fit, next_fit
from reinforge.sources.tokens import TokenSource

LENGTHS = st.lists(st.integers(0, 20), max_size=30)


def slow_best_fit(lengths: list[int], block: int) -> list[list[int]]:
    """The definition: of the rows with enough room, one of those with the least."""
    rows: list[list[int]] = []
    for piece in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        rooms = [(block - sum(lengths[i] for i in row), row) for row in rows]
        fitting = [pair for pair in rooms if pair[0] >= lengths[piece]]
        if fitting:
            least = min(room for room, _row in fitting)
            [row for room, row in fitting if room == least][-1].append(piece)
        else:
            rows.append([piece])
    return rows


def fewest_rows(lengths: list[int], block: int) -> int:
    """By trying everything."""
    best = len(lengths)

    def place(at: int, rooms: list[int]) -> None:
        nonlocal best
        if len(rooms) >= best:
            return
        if at == len(lengths):
            best = len(rooms)
            return
        for i, room in enumerate(rooms):
            if room >= lengths[at] and room not in rooms[:i]:
                place(at + 1, [*rooms[:i], room - lengths[at], *rooms[i + 1 :]])
        place(at + 1, [*rooms, block - lengths[at]])

    place(0, [])
    return best


@settings(max_examples=200, deadline=None)
@given(LENGTHS, st.integers(20, 40))
def test_best_fit_is_its_definition(lengths: list[int], block: int) -> None:
    found, right = best_fit(lengths, block), slow_best_fit(lengths, block)

    def rooms(rows: list[list[int]]) -> list[int]:
        return sorted(sum(lengths[i] for i in row) for row in rows)

    assert rooms(found) == rooms(right)
    assert sorted(i for row in found for i in row) == list(range(len(lengths)))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 12), min_size=1, max_size=8))
def test_best_fit_keeps_its_bound(lengths: list[int]) -> None:
    assert 9 * len(best_fit(lengths, 12)) <= 11 * fewest_rows(lengths, 12) + 6


@settings(max_examples=60, deadline=None)
@given(LENGTHS)
def test_next_fit_keeps_the_order(lengths: list[int]) -> None:
    rows = next_fit(lengths, 20)
    assert [i for row in rows for i in row] == list(range(len(lengths)))
    sums = [sum(lengths[i] for i in row) for row in rows]
    assert all(total <= 20 for total in sums)
    assert all(total + lengths[after[0]] > 20 for total, after in zip(sums, rows[1:]))


def documents(lengths: list[int]) -> Ragged:
    return Ragged.from_rows([torch.arange(100 * i, 100 * i + n) for i, n in enumerate(lengths, 1)])


@settings(max_examples=80, deadline=None)
@given(st.lists(st.integers(0, 25), min_size=1, max_size=20), st.sampled_from(["split", "cut", "drop"]), st.booleans())
def test_rows_hold_what_the_documents_do(
    lengths: list[int], long: Literal["split", "cut", "drop"], ordered: bool
) -> None:
    block, given_documents = 9, documents(lengths)
    packing = Packing.plan(
        given_documents,
        None,
        block=block,
        long=long,
        draw=None if ordered else torch.Generator().manual_seed(3),
        name="t",
    )
    batch, count = packing.packed(slice(0, len(packing)))
    pairs = set()
    inputs, targets = section(batch, "inputs"), section(batch, "targets")
    for row in range(len(packing)):
        for document in range(1, int(inputs["documents"][row].max()) + 1):
            at = inputs["documents"][row] == document
            piece, wanted = inputs["t"][row][at].tolist(), targets["t"][row][at].tolist()
            assert wanted == [token + 1 for token in piece]
            assert piece == list(range(piece[0], piece[0] + len(piece)))
            pairs |= set(piece)
    kept = {
        "split": lambda n: n - 1,
        "cut": lambda n: min(n - 1, block),
        "drop": lambda n: n - 1 if n - 1 <= block else 0,
    }
    expected = {100 * i + j for i, n in enumerate(lengths, 1) for j in range(max(kept[long](n), 0))}
    assert pairs == expected
    assert count == len(expected)
    assert packing.lost.tokens == sum(max(n - 1, 0) for n in lengths) - count
    assert packing.lost.long == sum(n - 1 > block for n in lengths)
    assert packing.lost.empty == sum(n < 2 for n in lengths)
    assert packing.filled == pytest.approx(count / max(1, len(packing) * block))


def test_what_is_learned_is_what_was_said() -> None:
    """Targets count where the predicted token is learned; a piece without any is left out and told."""
    tokens = documents([6, 4, 3])
    learned = torch.zeros(13, dtype=torch.bool)
    learned[[0, 3, 5, 8]] = True  # of the first its own first token, which is never predicted
    packing = Packing.plan(tokens, learned, block=8, long="cut", draw=None, name="t")
    batch, count = packing.packed(slice(0, len(packing)))
    valid, targets = section(batch, "valid")["t"], section(batch, "targets")["t"]
    assert sorted(targets[valid].tolist()) == [103, 105, 202]
    assert count == 8
    assert packing.lost.empty == 1


def test_dense() -> None:
    g = torch.Generator().manual_seed(0)
    lengths = torch.empty(3000).log_normal_(4.6, 0.7, generator=g).clamp(16, 512).int().tolist()
    packing = Packing.plan(documents(lengths), None, block=512, long="split", draw=g, name="t")
    assert packing.filled > 0.98


def test_an_epoch_through_the_source_loses_nothing() -> None:
    source = TokenSource(TokenOptions(block=9), documents([5, 3, 9, 2, 7, 10, 4, 6, 8]), batch=1, seed=1)
    assert source.packing is not None
    seen = []
    for _ in range(len(source.packing)):
        experience = source.next(Clock())
        seen += section(experience.batch, "targets")["tokens"][section(experience.batch, "valid")["tokens"]].tolist()
    assert len(seen) == len(set(seen)) == sum(n - 1 for n in (5, 3, 9, 2, 7, 10, 4, 6, 8))
