"""Fusion against torch's layers and sums by hand; what is missing has no part in it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from reinforge.core.ragged import Ragged
from reinforge.models.composed import Composed
from reinforge.models.fusion import Attention, Gate, Part, WeightedSum
from reinforge.models.options import AttentionOptions, ComposedOptions, GateOptions, WeightedSumOptions
from reinforge.schema.signature import Input, Output, Signature

PARTS = [Part(3), Part(4)]
HERE = torch.tensor([True, False, True, False, True])


def features() -> list[torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    return [torch.randn(5, part.features, generator=g) for part in PARTS]


def test_weighted_sum_by_hand() -> None:
    torch.manual_seed(0)
    fusion = WeightedSum(WeightedSumOptions(size=6), PARTS)
    nn.init.normal_(fusion.scores)
    images = [layer(part) for layer, part in zip(fusion.projections, features())]
    first, second = fusion.scores.softmax(0)
    expected = first * images[0] + second * images[1]
    torch.testing.assert_close(fusion(features(), [None, None]), expected)
    # Where the second is missing, the first is all.
    masked = fusion(features(), [None, HERE])
    torch.testing.assert_close(masked, torch.where(HERE[:, None], expected, images[0]))
    assert not fusion(features(), [HERE, HERE])[~HERE].any()


def test_gate_by_hand() -> None:
    torch.manual_seed(0)
    fusion = Gate(GateOptions(size=6), PARTS)
    one, two = features()

    def by_hand(one: torch.Tensor, two: torch.Tensor) -> list[torch.Tensor]:
        gates = torch.sigmoid(fusion.gates(torch.cat([one, two], 1))).chunk(2, 1)
        return [torch.tanh(layer(part)) * gate for layer, part, gate in zip(fusion.projections, (one, two), gates)]

    torch.testing.assert_close(fusion([one, two], [None, None]), sum(by_hand(one, two)))
    masked = fusion([one, two], [None, HERE])
    torch.testing.assert_close(masked[~HERE], by_hand(one, two * 0)[0][~HERE])
    torch.testing.assert_close(masked[HERE], sum(by_hand(one, two))[HERE])  # type: ignore[index]


def test_attention_is_torchs() -> None:
    torch.manual_seed(0)
    parts = [Part(3), Part(9, 4)]
    fusion = Attention(AttentionOptions(size=8, heads=2), parts)
    theirs = nn.MultiheadAttention(8, 2, batch_first=True)
    with torch.no_grad():
        theirs.in_proj_weight[:8], theirs.in_proj_weight[8:16] = torch.eye(8), fusion.keys.weight
        theirs.in_proj_weight[16:] = fusion.values.weight
        theirs.in_proj_bias.zero_()
        theirs.out_proj.load_state_dict(fusion.out.state_dict())
    g = torch.Generator().manual_seed(0)
    one, sequence = torch.randn(5, 3, generator=g), torch.randn(5, 6, 4, generator=g)
    mask = torch.arange(6) < torch.tensor([6, 0, 2, 3, 1])[:, None]
    placed = torch.cat(
        [fusion.projections[0](one)[:, None] + fusion.kinds[0], fusion.projections[1](sequence) + fusion.kinds[1]], 1
    )
    hidden = torch.cat([torch.zeros(5, 1, dtype=torch.bool), ~mask], 1)
    query = fusion.query.flatten().expand(5, 1, 8)
    expected, _ = theirs(query, placed, placed, key_padding_mask=hidden)
    torch.testing.assert_close(fusion([one, sequence], [None, mask]), expected[:, 0])


SIGNATURE = Signature(
    inputs={
        "numbers": Input(form="numbers", shape=(3,)),
        "text": Input(form="tokens", sizes=(7,), shape=(5,)),
        "image": Input(form="image", shape=(1, 8, 8)),
    },
    outputs={"y": Output(form="number", size=1)},
)


@pytest.mark.parametrize("fusion", ["concat", "weighted-sum", "gate", "attention"])
def test_a_composed_model_fuses_all_its_inputs(fusion: str) -> None:
    torch.manual_seed(0)
    model = Composed(ComposedOptions.model_validate({"fusion": fusion, "encoders": {"text": "rnn"}}), SIGNATURE)
    g = torch.Generator().manual_seed(0)
    lengths = torch.tensor([3, 0, 5, 1])
    text = Ragged(torch.randint(0, 7, (9,), generator=g), torch.tensor([0, *lengths.cumsum(0)]))
    inputs = {
        "numbers": torch.randn(4, 3, generator=g),
        "text": text,
        "image": torch.randint(0, 256, (4, 1, 8, 8), generator=g, dtype=torch.uint8),
    }
    output = model(inputs)[0]["y"]
    assert output.isfinite().all()
    for row in range(4):
        one = {name: v.slice(row, row + 1) if isinstance(v, Ragged) else v[row : row + 1] for name, v in inputs.items()}
        torch.testing.assert_close(model(one)[0]["y"][0], output[row], rtol=1e-4, atol=1e-5)
    gradients = torch.autograd.grad((output * torch.randn(4, 1, generator=g)).sum(), list(model.parameters()))
    assert all(gradient.any() for gradient in gradients)
    for name in inputs:
        changed = {**inputs, name: text.select(torch.tensor([2, 1, 0, 3])) if name == "text" else inputs[name].flip(0)}  # type: ignore[union-attr]
        assert not torch.allclose(model(changed)[0]["y"], output), f"{name} has no part in the result"
