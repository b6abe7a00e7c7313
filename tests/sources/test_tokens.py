"""Token blocks and packed documents: what is in them, in which order, and exact resume."""

from __future__ import annotations

import pytest
import torch

from reinforge.core.contracts import Clock, Experience
from reinforge.core.ragged import Ragged
from reinforge.errors import CheckpointError, DataError
from reinforge.sources.options import TokenOptions
from reinforge.sources.tokens import TokenSource

STREAM = torch.arange(1000, 1103, dtype=torch.int32)


def take(source: TokenSource, n: int) -> list[Experience]:
    return [source.next(Clock()) for _ in range(n)]


def documents() -> Ragged:
    g = torch.Generator().manual_seed(0)
    lengths = torch.randint(0, 19, (40,), generator=g).tolist()
    return Ragged.from_rows([torch.arange(100 * i, 100 * i + n) for i, n in enumerate(lengths, 1)])


@pytest.mark.parametrize("order", ["sampled", "shuffled", "consecutive"])
def test_blocks_are_the_stream(order: str) -> None:
    source = TokenSource(TokenOptions(block=8, order=order), STREAM, batch=3, seed=1)  # type: ignore[arg-type]
    seen: list[int] = []
    for experience in take(source, 4):
        inputs, targets = experience.batch["inputs"]["tokens"], experience.batch["targets"]["tokens"]  # type: ignore[index]
        assert inputs.shape == targets.shape == (3, 8)
        assert inputs.dtype == targets.dtype == torch.int64
        assert (inputs.diff(dim=1) == 1).all()
        assert torch.equal(targets, inputs + 1), "a target is the token after its input"
        assert (experience.samples, experience.tokens) == (3, 24)
        seen += targets.flatten().tolist()
    assert max(seen) <= 1102
    if order != "sampled":
        assert len(set(seen)) == len(seen) == 96, "tiles don't overlap"
        assert experience.epochs == 1.0
    if order == "consecutive":
        assert seen == sorted(seen)


def test_epochs_differ_and_follow_from_the_seed() -> None:
    def epoch(source: TokenSource) -> list[list[int]]:
        return [e.batch["inputs"]["tokens"][:, 0].tolist() for e in take(source, 4)]  # type: ignore[index, call-overload]

    one, same, other = (TokenSource(TokenOptions(block=8), STREAM, batch=3, seed=s) for s in (1, 1, 2))
    first, second = epoch(one), epoch(one)
    assert first != second
    assert (first, second) == (epoch(same), epoch(same))
    assert first != epoch(other)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("taken", [0, 3, 4, 5, 23])
def test_resume_is_exact(packed: bool, taken: int) -> None:
    def build() -> TokenSource:
        return TokenSource(TokenOptions(block=8), documents() if packed else STREAM, batch=3, seed=5)

    source = build()
    take(source, taken)
    resumed = build()
    resumed.load_state_dict(source.state_dict())
    for one, other in zip(take(source, 9), take(resumed, 9)):
        assert (one.epochs, one.tokens) == (other.epochs, other.tokens)
        for part in one.batch:
            for name, value in one.batch[part].items():  # type: ignore[union-attr]
                assert torch.equal(value, other.batch[part][name])  # type: ignore[arg-type, index]


@pytest.mark.parametrize("order", ["shuffled", "consecutive"])
def test_packing_keeps_every_document_whole(order: str) -> None:
    source = TokenSource(TokenOptions(block=20, order=order), documents(), batch=1, seed=3)  # type: ignore[arg-type]
    found: dict[int, list[int]] = {}
    while True:
        experience = source.next(Clock())
        inputs, targets, valid = (experience.batch[part] for part in ("inputs", "targets", "valid"))
        row, document = inputs["tokens"][0], inputs["documents"][0]  # type: ignore[index, call-overload]
        target, ok = targets["tokens"][0], valid["tokens"][0]  # type: ignore[index, call-overload]
        assert torch.equal(ok, document > 0)
        assert experience.tokens == int(ok.sum())
        numbers = document[ok].unique_consecutive().tolist()
        assert numbers == list(range(1, len(numbers) + 1)), "documents are numbered in their row"
        for number in numbers:
            at = document == number
            key = int(row[at][0])
            assert key not in found, "a document that fits a row is never cut"
            found[key] = row[at].tolist()
            assert target[at].tolist() == [t + 1 for t in found[key]]
        if experience.epochs == 1.0:
            break
    expected = [d.tolist() for d in (documents().row(i) for i in range(40)) if len(d) > 1]
    assert sorted(found.values()) == sorted(d[:-1] for d in expected)
    if order == "consecutive":
        assert list(found) == [d[0] for d in expected]


def test_packing_cuts_what_is_longer_than_a_row() -> None:
    source = TokenSource(TokenOptions(block=4), Ragged.from_rows([torch.arange(11)]), batch=1, seed=3)
    targets = []
    for experience in take(source, 3):
        valid = experience.batch["valid"]["tokens"]  # type: ignore[index]
        targets += experience.batch["targets"]["tokens"][valid].tolist()  # type: ignore[index, call-overload]
    assert sorted(targets) == list(range(1, 11)), "each token but the first is predicted once"


def test_packing_is_dense() -> None:
    source = TokenSource(TokenOptions(block=64), documents(), batch=1, seed=3)
    rows = take(source, 5)
    filled = sum(e.tokens for e in rows) / (64 * len(rows))
    assert filled > 0.8


def test_refusals() -> None:
    with pytest.raises(DataError, match="make 12 rows of 8, less than a batch of 13"):
        TokenSource(TokenOptions(block=8, order="consecutive"), STREAM, batch=13)
    with pytest.raises(DataError, match="0 rows"):
        TokenSource(TokenOptions(block=200), STREAM, batch=1)
    with pytest.raises(DataError, match="0 rows"):
        TokenSource(TokenOptions(), Ragged.from_rows([torch.arange(1), torch.arange(0)]), batch=1)
    source = TokenSource(TokenOptions(block=8), STREAM, batch=3)
    with pytest.raises(CheckpointError, match="size 103, this one 102"):
        TokenSource(TokenOptions(block=8), STREAM[:-1], batch=3).load_state_dict(source.state_dict())


def test_a_token_that_looks_like_padding_is_learned_where_it_is_real() -> None:
    """Padding is filled with 0, and 0 may be the very token that ends a document: only length tells them apart."""
    lengths = [5, 9, 3, 7]
    ended = Ragged.from_rows([torch.cat([torch.arange(1, n), torch.zeros(1, dtype=torch.int64)]) for n in lengths])
    source = TokenSource(TokenOptions(block=10), ended, batch=1, seed=0)
    ends = real = 0
    while True:
        experience = source.next(Clock())
        targets = experience.batch["targets"]["tokens"]  # type: ignore[index]
        valid = experience.batch["valid"]["tokens"]  # type: ignore[index]
        ends += int((targets[valid] == 0).sum())  # type: ignore[index]
        real += int(valid.sum())  # type: ignore[union-attr]
        if experience.epochs == 1.0:
            break
    assert ends == len(lengths)
    assert real == sum(lengths) - len(lengths)
