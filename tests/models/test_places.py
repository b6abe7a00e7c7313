"""The Transformer over rows of numbers: torch's own layers, sets, and what it refuses."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from reinforge.errors import ComponentError
from reinforge.models.places import Attention
from reinforge.models.policy_options import AttentionOptions
from reinforge.schema.signature import Input

BLOCK = Input(form="box", shape=(4, 3))


@pytest.mark.parametrize("pool", ["mean", "last"])
def test_it_is_torchs_encoder_layer(pool: str) -> None:
    torch.manual_seed(0)
    encoder = Attention(AttentionOptions(width=8, heads=2, layers=2, hidden=12, pool=pool), BLOCK)  # type: ignore[arg-type]
    assert encoder.positions is not None
    x = torch.randn(5, 4, 3)
    expected = encoder.enter(x) + encoder.positions
    for ours in encoder.layers:
        theirs = nn.TransformerEncoderLayer(8, 2, 12, 0.0, "gelu", batch_first=True, norm_first=True)
        own = ours.state_dict()
        names = {"qkv": "self_attn.in_proj_", "out": "self_attn.out_proj.", "up": "linear1.", "down": "linear2."}
        names |= {"attention_norm": "norm1.", "feed_forward_norm": "norm2."}
        theirs.load_state_dict({names[k.rpartition(".")[0]] + k.rpartition(".")[2]: v for k, v in own.items()})
        expected = theirs(expected)
    expected = nn.functional.layer_norm(expected, (8,), encoder.norm.weight, encoder.norm.bias)
    torch.testing.assert_close(encoder(x), expected.mean(1) if pool == "mean" else expected[:, -1])
    assert encoder(x).shape == (5, encoder.features)


def test_without_positions_places_are_a_set() -> None:
    x, order = torch.randn(2, 4, 3), torch.tensor([2, 0, 3, 1])
    for positions in (False, True):
        encoder = Attention(AttentionOptions(width=8, heads=2, positions=positions), BLOCK)
        same = torch.allclose(encoder(x), encoder(x[:, order]), atol=1e-6)
        assert same != positions


def test_what_has_no_places_is_refused() -> None:
    with pytest.raises(ComponentError, match="places and numbers"):
        Attention(AttentionOptions(), Input(form="box", shape=(4,)))
    with pytest.raises(ValueError, match="heads"):
        AttentionOptions(width=10, heads=4)
