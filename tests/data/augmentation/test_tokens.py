"""Noise in texts: what stays, what moves, and how often."""

from __future__ import annotations

from collections import Counter
from typing import Any, cast

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reinforge.core.batch import Leaf
from reinforge.core.ragged import Ragged
from reinforge.data.augmentation.options import TokenDropoutOptions, TokenNoiseOptions
from reinforge.data.options import CharacterOptions, WordOptions
from reinforge.errors import ComponentError
from reinforge.registry import REGISTRY, Options
from reinforge.schema.signature import Input, Output, Signature

SIGNATURE = Signature(
    inputs={"text": Input(form="tokens", sizes=(100_000,))}, outputs={"y": Output(form="number", size=1)}
)


def changed(options: Options, text: Leaf, seed: int = 0) -> Any:
    augmentation = REGISTRY.build("augmentation", options, SIGNATURE)
    return cast(Any, augmentation.apply({"inputs": {"text": text}}, torch.arange(len(text)), seed, 0))["inputs"]["text"]


def numbered(*lengths: int) -> Ragged:
    """Texts whose tokens are 1, 2, 3, ..."""
    return Ragged.from_rows([torch.arange(1, length + 1) for length in lengths])


texts = st.lists(st.integers(0, 30), min_size=1, max_size=8)


@settings(max_examples=60, deadline=None)
@given(lengths=texts, seed=st.integers(0, 9))
def test_swapping_keeps_the_tokens(lengths: list[int], seed: int) -> None:
    before = numbered(*lengths)
    found = changed(TokenNoiseOptions(swap=0.5, delete=0, replace=0), before, seed)
    for i, length in enumerate(lengths):
        tokens = found.row(i).tolist()
        assert sorted(tokens) == list(range(1, length + 1))
        assert tokens[:1] == [1][:length]
        assert tokens[-1:] == [length][:length]
        # A swapped token goes one place on; those it meets come to the front.
        assert all(token - place <= 2 for place, token in enumerate(tokens, 1))


@settings(max_examples=60, deadline=None)
@given(lengths=texts, seed=st.integers(0, 9))
def test_deleting_keeps_the_order_and_the_ends(lengths: list[int], seed: int) -> None:
    found = changed(TokenNoiseOptions(swap=0, delete=0.5, replace=0), numbered(*lengths), seed)
    for i, length in enumerate(lengths):
        tokens = found.row(i).tolist()
        assert tokens == sorted(set(tokens))
        assert tokens[:1] + tokens[-1:] == [1, length][: 2 * length] if length else tokens == []
    everything = changed(TokenNoiseOptions(swap=0, delete=1, replace=0), numbered(*lengths), seed)
    assert everything.lengths.tolist() == [min(length, 2) for length in lengths]


@settings(max_examples=60, deadline=None)
@given(lengths=texts, seed=st.integers(0, 9))
def test_replacing_keeps_length_and_ends(lengths: list[int], seed: int) -> None:
    found = changed(TokenNoiseOptions(swap=0, delete=0, replace=1), numbered(*lengths), seed)
    assert found.lengths.tolist() == lengths
    for i, length in enumerate(lengths):
        tokens = found.row(i).tolist()
        assert tokens[:1] + tokens[-1:] == [1, length][: 2 * length] if length else tokens == []
        assert all(1 < token < length for token in tokens[1:-1])


def test_how_often() -> None:
    text = numbered(*[502] * 40)
    inner = 40 * 500
    deleted = changed(TokenNoiseOptions(swap=0, delete=0.1, replace=0), text)
    assert inner - (int(deleted.lengths.sum()) - 80) == pytest.approx(0.1 * inner, rel=0.1)
    replaced = changed(TokenNoiseOptions(swap=0, delete=0, replace=0.1), text)
    assert int((replaced.values != text.values).sum()) == pytest.approx(0.1 * inner, rel=0.1)
    counts = Counter(changed(TokenNoiseOptions(swap=0, delete=0, replace=1), text).values.tolist())
    assert max(counts[token] for token in range(2, 502)) < 80
    swapped = changed(TokenNoiseOptions(swap=0.05, delete=0, replace=0), text).values.view(40, 502)
    assert int((swapped.diff(dim=1) < 0).sum()) == pytest.approx(0.05 * inner, rel=0.15)
    some = changed(TokenNoiseOptions(swap=0, delete=0.5, replace=0, probability=0.5), text)
    assert 10 <= int((some.lengths == 502).sum()) <= 30


@pytest.mark.parametrize("options", [CharacterOptions(), WordOptions(least=1)])
def test_letters_go_wrong_where_tokens_are_letters(options: Options) -> None:
    text = "the quick brown fox jumps over the lazy dog"
    tokenizer = REGISTRY.build("tokenizer", options, [text])
    before = Ragged.from_rows([tokenizer.encode(text)] * 50)
    found = changed(TokenNoiseOptions(swap=0.1, delete=0.1, replace=0), before)
    misspelt = [tokenizer.decode(found.row(i)).split() for i in range(50)]
    known = set(text.split())
    strange = sum(not set(words) <= known for words in misspelt)
    assert strange > 40 if isinstance(options, CharacterOptions) else strange == 0
    assert sum(words != text.split() for words in misspelt) > 30


@pytest.mark.parametrize("dense", [False, True])
def test_dropout(dense: bool) -> None:
    ragged = numbered(*[102] * 50)
    text = ragged.values.view(50, 102) if dense else ragged
    found = changed(TokenDropoutOptions(part=0.2, token=7_777), text)
    values = found.view(50, 102) if dense else found.values.view(50, 102)
    hidden = values == 7_777
    assert not hidden[:, [0, -1]].any()
    assert float(hidden[:, 1:-1].double().mean()) == pytest.approx(0.2, abs=0.02)
    assert torch.equal(values[~hidden], torch.arange(1, 103).expand(50, -1)[~hidden])
    assert isinstance(found, Ragged) != dense
    if not dense:
        assert found.lengths.tolist() == [102] * 50


def test_what_it_is_not_for() -> None:
    span = Signature(inputs=SIGNATURE.inputs, outputs={"answer": Output(form="span", size=10, of="text")})
    with pytest.raises(ComponentError, match="'answer' points at tokens"):
        REGISTRY.build("augmentation", TokenNoiseOptions(), span)
    REGISTRY.build("augmentation", TokenDropoutOptions(), span)
    with pytest.raises(ComponentError, match="has no token 100000"):
        REGISTRY.build("augmentation", TokenDropoutOptions(token=100_000), SIGNATURE)
    numbers = Signature(inputs={"x": Input(form="numbers", shape=(1,))}, outputs={})
    with pytest.raises(ComponentError, match="no input of the form 'tokens'"):
        REGISTRY.build("augmentation", TokenNoiseOptions(), numbers)
    with pytest.raises(ComponentError, match="called 'y'"):
        REGISTRY.build("augmentation", TokenNoiseOptions(inputs=("y",)), SIGNATURE)
    with pytest.raises(ComponentError, match="different lengths"):
        changed(TokenNoiseOptions(), torch.ones(3, 4, dtype=torch.int64))
