"""Encoders of tokens against torch's own layers on unpadded rows; padding never changes a result."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from reinforge.core.ragged import Ragged
from reinforge.errors import ComponentError
from reinforge.models.options import BagOptions, RNNOptions, TransformerOptions
from reinforge.models.tokens import RNN, Bag, TokenEncoder, padded
from reinforge.models.transformer import Transformer
from reinforge.registry import REGISTRY
from reinforge.schema.signature import Input

WORDS = 13
BLOCK = Input(form="tokens", sizes=(WORDS,), shape=(12,))
ENCODERS = [
    BagOptions(size=6),
    BagOptions(size=6, ngrams=3, buckets=50),
    RNNOptions(embedding=5, size=4),
    RNNOptions(embedding=5, size=4, layers=2, bidirectional=False, pool="mean"),
    RNNOptions(cell="lstm", embedding=5, size=4, pool="max"),
    RNNOptions(cell="lstm", embedding=5, size=4, layers=2),
    TransformerOptions(width=8, heads=2, layers=2),
    TransformerOptions(width=8, heads=2, layers=1, positions="learned", pool="max"),
    TransformerOptions(width=8, heads=2, layers=1, pool="first"),
    TransformerOptions(width=8, heads=2, layers=1, ngrams=2, buckets=31),
    RNNOptions(embedding=4, size=6, ngrams=3, buckets=31),
]
NAMES = [f"{o.kind}-{i}" for i, o in enumerate(ENCODERS)]


def build(options: Any, block: Input = BLOCK) -> TokenEncoder:
    torch.manual_seed(0)
    encoder: TokenEncoder = REGISTRY.build("encoder", options, block)
    return encoder


def texts(*lengths: int, seed: int = 0) -> Ragged:
    g = torch.Generator().manual_seed(seed)
    return Ragged.from_rows([torch.randint(0, WORDS, (n,), generator=g) for n in lengths])


@pytest.mark.parametrize("options", ENCODERS, ids=NAMES)
@settings(max_examples=15, deadline=None)
@given(lengths=st.lists(st.integers(0, 12), min_size=1, max_size=5), seed=st.integers(0, 100))
def test_a_row_alone_equals_the_row_among_others(options: Any, lengths: list[int], seed: int) -> None:
    """To 1e-5, features and places."""
    encoder, ragged = build(options), texts(*lengths, seed=seed)
    features, (sequence, mask) = encoder(ragged), encoder.sequence(ragged)
    assert features.isfinite().all()
    assert mask.sum(1).tolist() == lengths
    assert not sequence[~mask].any(), "places without a token hold something"
    for row, length in enumerate(lengths):
        alone = ragged.slice(row, row + 1)
        torch.testing.assert_close(encoder(alone)[0], features[row], rtol=1e-5, atol=1e-5)
        if length:
            # The row as a plain tensor: nothing can be padded.
            places, whole = encoder.sequence(ragged.row(row)[None])
            assert whole.all()
            torch.testing.assert_close(places[0], sequence[row, :length], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("options", ENCODERS, ids=NAMES)
def test_gradients_do_not_see_padding(options: Any) -> None:
    encoder, ragged = build(options), texts(3, 12, 0, 1)
    weights = torch.randn(encoder.features, generator=torch.Generator().manual_seed(1))
    parameters = list(encoder.parameters())
    whole = torch.autograd.grad((encoder(ragged) @ weights).sum(), parameters)
    parts = [
        # A row of one token has no n-grams.
        torch.autograd.grad((encoder(ragged.slice(i, i + 1)) @ weights).sum(), parameters, materialize_grads=True)
        for i in range(4)
    ]
    for together, *apart in zip(whole, *parts):
        torch.testing.assert_close(together, torch.stack(apart).sum(0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("options", ENCODERS, ids=NAMES)
def test_views_of_a_larger_batch_read_their_own_rows(options: Any) -> None:
    encoder, ragged = build(options), texts(4, 2, 5, 3)
    view = ragged.slice(1, 3)
    copied = Ragged.from_rows([ragged.row(1), ragged.row(2)])
    assert torch.equal(encoder(view), encoder(copied))
    # Offsets that don't begin at 0 mean the same.
    shifted = Ragged(ragged.values, ragged.offsets[1:4])
    assert torch.equal(encoder(shifted), encoder(copied))


@pytest.mark.parametrize("cell", ["gru", "lstm"])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_rnn_is_torchs_on_unpadded_rows(cell: str, bidirectional: bool) -> None:
    encoder = build(RNNOptions(cell=cell, embedding=5, size=4, layers=2, bidirectional=bidirectional))  # type: ignore[arg-type]
    assert isinstance(encoder, RNN)
    kind = nn.GRU if cell == "gru" else nn.LSTM
    theirs = kind(5, 4, 2, batch_first=True, bidirectional=bidirectional)
    theirs.load_state_dict(encoder.network.state_dict())
    ragged = texts(7, 1, 4)
    features, (sequence, _) = encoder(ragged), encoder.sequence(ragged)
    for row in range(3):
        output, state = theirs(encoder.embedding[ragged.row(row)][None])
        last = state[0] if cell == "lstm" else state
        torch.testing.assert_close(sequence[row, : output.shape[1]], output[0])
        torch.testing.assert_close(
            features[row], torch.cat([last[-2, 0], last[-1, 0]]) if bidirectional else last[-1, 0]
        )


@pytest.mark.parametrize("positions", ["learned", "rotary"])
def test_transformer_is_torchs_encoder_layer(positions: str) -> None:
    options = TransformerOptions(width=8, heads=2, layers=2, hidden=24, positions=positions)  # type: ignore[arg-type]
    encoder = build(options)
    assert isinstance(encoder, Transformer)
    if encoder.rotary:
        # Without turning, rotary positions are none: what is left is torch's.
        encoder.cos.fill_(1)
        encoder.sin.fill_(0)
    layers = []
    for ours in encoder.layers:
        theirs = nn.TransformerEncoderLayer(8, 2, 24, 0.0, "gelu", batch_first=True, norm_first=True)
        state = ours.state_dict()
        names = {
            "self_attn.in_proj_weight": "qkv.weight", "self_attn.in_proj_bias": "qkv.bias",
            "self_attn.out_proj.weight": "out.weight", "self_attn.out_proj.bias": "out.bias",
            "linear1.weight": "up.weight", "linear1.bias": "up.bias",
            "linear2.weight": "down.weight", "linear2.bias": "down.bias",
            "norm1.weight": "attention_norm.weight", "norm1.bias": "attention_norm.bias",
            "norm2.weight": "feed_forward_norm.weight", "norm2.bias": "feed_forward_norm.bias",
        }  # fmt: skip
        theirs.load_state_dict({name: state[own] for name, own in names.items()})
        layers.append(theirs)
    ragged = texts(7, 1, 4)
    sequence, mask = encoder.sequence(ragged)
    for row in range(3):
        tokens = ragged.row(row)
        x = encoder.embedding[tokens] + (0 if encoder.positions is None else encoder.positions[: len(tokens)])
        x = x[None]
        for layer in layers:
            x = layer(x)
        expected = nn.functional.layer_norm(x, (8,), encoder.norm.weight, encoder.norm.bias)[0]
        torch.testing.assert_close(sequence[row, : len(tokens)], expected)
        torch.testing.assert_close(encoder.pool(sequence, mask)[row], expected.mean(0))


def test_rotary_attention_sees_distances_alone() -> None:
    """Shifting all tokens of a row by repeated padding in front would not be the same; a shift of positions is."""
    encoder = build(TransformerOptions(width=8, heads=2, layers=1, context=64), Input(form="tokens", sizes=(WORDS,)))
    assert isinstance(encoder, Transformer)
    row = texts(6).row(0)[None]
    before, _ = encoder.sequence(row)
    encoder.cos, encoder.sin = encoder.cos.roll(-9, 0), encoder.sin.roll(-9, 0)
    after, _ = encoder.sequence(row)
    torch.testing.assert_close(before, after, rtol=1e-5, atol=1e-6)
    backwards, _ = encoder.sequence(row.flip(1))
    assert not torch.allclose(backwards.flip(1), before)


def test_bag_is_the_mean_of_vectors() -> None:
    encoder = build(BagOptions(size=6))
    assert isinstance(encoder, Bag)
    ragged = texts(4, 0, 1)
    expected = [encoder.table[ragged.row(i)].sum(0) / max(1, len(ragged.row(i))) for i in range(3)]
    torch.testing.assert_close(encoder(ragged), torch.stack(expected))
    tokens = ragged.row(0)
    torch.testing.assert_close(encoder(tokens.flip(0)[None]), encoder(tokens[None]))


def test_bag_by_the_root_of_the_number() -> None:
    encoder = build(BagOptions(size=6, ngrams=2, buckets=5, pool="root"))
    assert isinstance(encoder, Bag)
    encoder.table.data.normal_()
    mean = build(BagOptions(size=6, ngrams=2, buckets=5))
    mean.load_state_dict(encoder.state_dict())
    ragged = texts(4, 0, 1)
    expected = mean(ragged) * ragged.lengths.clamp(min=1).sqrt()[:, None]
    torch.testing.assert_close(encoder(ragged), expected)
    torch.testing.assert_close(encoder.pool(*encoder.sequence(ragged)), expected)


def test_bag_of_n_grams_by_brute_force() -> None:
    encoder = build(BagOptions(size=3, ngrams=3, buckets=7))
    assert isinstance(encoder, Bag)
    # They begin from 0, and say nothing before they learn.
    assert encoder.table[:WORDS].all()
    assert not encoder.table[WORDS:].any()
    encoder.table.data.normal_()
    seen: dict[tuple[int, ...], int] = {}

    def bucket(gram: tuple[int, ...]) -> Tensor:
        """Which one is the encoder's affair, but a gram has always the same: found from texts of that gram alone."""
        if gram not in seen:
            tokens = torch.tensor([gram])
            sequence, _ = encoder.sequence(tokens)
            inner = bucket(gram[1:]) if len(gram) > 2 else 0
            rest = sequence[0, -1] - encoder.table[gram[-1]] - inner
            distance = (encoder.table[WORDS:] - rest).square().sum(1)
            assert float(distance.detach().min()) < 1e-10, "no bucket's vector"
            seen[gram] = int(distance.argmin())
        return encoder.table[WORDS + seen[gram]] + (bucket(gram[1:]) if len(gram) > 2 else 0)

    row = texts(9).row(0)
    words = tuple(row.tolist())
    expected = torch.stack(
        [encoder.table[w] + (bucket(words[max(0, i - 2) : i + 1]) if i else 0) for i, w in enumerate(words)]
    )
    torch.testing.assert_close(encoder(row[None])[0], expected.mean(0), rtol=1e-4, atol=1e-5)
    assert len(set(seen.values())) > 2, "all grams share a bucket"
    assert not torch.allclose(encoder(row.flip(0)[None]), encoder(row[None]))


@pytest.mark.parametrize("kind", ["bag", "rnn", "transformer"])
def test_dropout_works_in_training_alone(kind: str) -> None:
    encoder = build(REGISTRY.find("encoder", kind).options(dropout=0.5))
    ragged = texts(5, 3)
    assert not torch.equal(encoder(ragged), encoder(ragged))
    encoder.eval()
    assert torch.equal(encoder(ragged), encoder(ragged))


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_checkpointing_changes_nothing(dropout: float) -> None:
    results = []
    for checkpointing in (False, True):
        encoder = build(TransformerOptions(width=8, heads=2, layers=3, dropout=dropout, checkpointing=checkpointing))
        torch.manual_seed(5)
        features = encoder(texts(5, 2, 0))
        results.append([features, *torch.autograd.grad(features.square().sum(), list(encoder.parameters()))])
    for one, other in zip(*results):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-7)


def test_checkpointing_stores_less() -> None:
    def stored(checkpointing: bool) -> int:
        encoder = build(TransformerOptions(width=16, heads=2, layers=4, checkpointing=checkpointing))
        total = 0

        def count(tensor: Tensor) -> Tensor:
            nonlocal total
            total += tensor.nbytes
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            encoder(texts(12, 12, 9))
        return total

    assert stored(True) < stored(False) / 3


def test_too_many_tokens_are_refused() -> None:
    encoder = build(TransformerOptions(width=8, heads=2))
    with pytest.raises(ComponentError, match="13 tokens do not fit a context of 12"):
        encoder(texts(13))
    with pytest.raises(ComponentError, match="takes tokens, not image"):
        build(RNNOptions(), Input(form="image", shape=(1, 4, 4)))


@pytest.mark.parametrize(
    "options", [RNNOptions(ngrams=3, buckets=97, embedding=5), TransformerOptions(ngrams=3, buckets=97, width=8)]
)
def test_n_grams_of_recurrent_networks_and_transformers_are_those_of_a_bag(options: Any) -> None:
    """Vectors of the token and of the n-grams that end with it, in each place; they say nothing before they learn."""
    encoder: Any = REGISTRY.build("encoder", options, Input(form="tokens", sizes=(50,)))
    assert not encoder.grams.any()
    encoder.grams.data.normal_()
    bag = Bag(BagOptions(ngrams=3, buckets=97, size=encoder.embedding.shape[1]), Input(form="tokens", sizes=(50,)))
    bag.table.data = torch.cat([encoder.embedding.data, encoder.grams.data])
    ragged = Ragged(torch.randint(50, (12,)), torch.tensor([0, 1, 6, 6, 12]))
    ids = padded(ragged).ids
    found = encoder.with_ngrams(torch.nn.functional.embedding(ids, encoder.embedding), ids)
    expected, mask = bag.sequence(ragged)
    assert torch.allclose(found[mask], expected[mask], atol=1e-6)
    # No n-gram reaches over the end of its row, or further than the row is long.
    alone = encoder.with_ngrams(torch.nn.functional.embedding(ids[:1, :1], encoder.embedding), ids[:1, :1])
    assert torch.equal(alone[0, 0], encoder.embedding[ids[0, 0]])


def test_padded_says_what_is_there() -> None:
    found = padded(texts(2, 0))
    assert found.mask.tolist() == [[True, True], [False, False]]
    assert not found.full
    assert padded(texts(0)).mask.tolist() == [[False]]
    assert padded(torch.zeros(2, 0, dtype=torch.int64)).ids.shape == (2, 1)
    assert padded(texts(3, 3)).full
