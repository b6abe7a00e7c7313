"""Attention within documents against one query at a time in float64, on every road that it takes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from reinforge.core.ragged import Ragged
from reinforge.errors import ComponentError
from reinforge.models.attention import KEPT_WEIGHTS, GroupedAttention, Layout, attend

LENGTHS = (5, 33, 1, 5, 64, 0, 31)
# Of one length that needs no filling up: nothing is gathered.
EVEN = (32, 32, 32)
ON_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def given(
    dtype: torch.dtype, device: str = "cpu", heads: int = 4, kv_heads: int = 2, width: int = 8,
    lengths: tuple[int, ...] = LENGTHS,
) -> list[Tensor]:  # fmt: skip
    g = torch.Generator().manual_seed(0)
    shapes = [(sum(lengths), h, width) for h in (heads, kv_heads, kv_heads)]
    return [torch.randn(shape, generator=g).to(device, dtype).requires_grad_() for shape in shapes]


def by_hand(
    q: Tensor, k: Tensor, v: Tensor, window: int | None, scale: float, lengths: tuple[int, ...] = LENGTHS
) -> Tensor:
    """Each query of each head alone."""
    rows, start = [], 0
    for length in lengths:
        for at in range(start, start + length):
            first = start if window is None else max(start, at - window + 1)
            for head in range(q.shape[1]):
                kv = head * k.shape[1] // q.shape[1]
                weights = (k[first : at + 1, kv] @ q[at, head] * scale).softmax(0)
                rows.append(weights @ v[first : at + 1, kv])
        start += length
    return torch.stack(rows).view(q.shape)


def compare(
    found: Tensor, inputs: list[Tensor], window: int | None, scale: float, tolerance: float,
    lengths: tuple[int, ...] = LENGTHS,
) -> None:  # fmt: skip
    exact = [x.detach().cpu().double().requires_grad_() for x in inputs]
    right = by_hand(exact[0], exact[1], exact[2], window, scale, lengths)
    weights = torch.randn(right.shape, generator=torch.Generator().manual_seed(1)).double()
    gradients = torch.autograd.grad((found.cpu().double() * weights).sum(), inputs)
    oracle = torch.autograd.grad((right * weights).sum(), exact)
    for one, other in zip((found.detach(), *gradients), (right.detach(), *oracle)):
        assert float((one.cpu().double() - other).norm() / other.norm()) < tolerance


@pytest.mark.parametrize("window", [None, 2, 7])
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize("road", ["float32", "bfloat16", "grouped"])
def test_equals_one_query_at_a_time(road: str, kv_heads: int, window: int | None) -> None:
    inputs, layout = (
        given(getattr(torch, road, torch.float32), kv_heads=kv_heads),
        Layout(LENGTHS, None, torch.device("cpu")),
    )
    if road == "grouped":
        found = GroupedAttention.apply(*inputs, layout, window, 0.3)
    else:
        found = attend(inputs[0], inputs[1], inputs[2], layout, window=window, scale=0.3)
    compare(found, inputs, window, 0.3, 0.02 if road == "bfloat16" else 1e-5)


@pytest.mark.parametrize("window", [None, 7])
@pytest.mark.parametrize("kv_heads", [1, 4])
def test_documents_of_one_length(kv_heads: int, window: int | None) -> None:
    inputs, layout = given(torch.float32, kv_heads=kv_heads, lengths=EVEN), Layout(EVEN, None, torch.device("cpu"))
    assert layout.even
    assert not Layout(LENGTHS, None, torch.device("cpu")).even
    assert not Layout((5, 5), None, torch.device("cpu")).even
    # As a part of one tensor, which queries, keys and values are.
    joined = torch.cat(inputs, 1).detach().requires_grad_()
    parts = [*joined.split([4, kv_heads, kv_heads], 1)]
    compare(GroupedAttention.apply(*parts, layout, window, 0.3), parts, window, 0.3, 1e-5, EVEN)


@pytest.mark.parametrize("length", [KEPT_WEIGHTS // 4, 1])
def test_long_documents_in_half_precision_take_the_other_road(length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reinforge.models.attention.KEPT_WEIGHTS", length)
    inputs = given(torch.bfloat16)
    found = attend(inputs[0], inputs[1], inputs[2], Layout(LENGTHS, None, torch.device("cpu")), scale=0.3)
    assert ("Grouped" in type(found.grad_fn).__name__) == (length > 1)
    compare(found, inputs, None, 0.3, 0.02)


def test_without_gradients_it_is_the_same() -> None:
    inputs, layout = given(torch.bfloat16), Layout(LENGTHS, None, torch.device("cpu"))
    found = attend(inputs[0], inputs[1], inputs[2], layout)
    with torch.no_grad():
        plain = attend(inputs[0], inputs[1], inputs[2], layout)
    assert float((found - plain).detach().float().norm() / plain.float().norm()) < 0.01


def test_layout_of_rows_that_are_filled_up() -> None:
    documents = torch.tensor([[1, 1, 2, 0], [3, 1, 1, 1], [1, 2, 2, 2]])
    layout = Layout.of_documents(documents)
    # The number 1 goes on in the next row, where another document has it.
    assert layout.lengths == (2, 1, 1, 3, 1, 3)
    assert layout.place is not None
    assert layout.place.tolist() == [0, 1, 2, 4, 5, 6, 7, 8, 9, 10, 11]
    assert layout.positions.tolist() == [0, 1, 0, 0, 0, 1, 2, 0, 0, 1, 2]
    assert Layout.of_documents(torch.ones(2, 3, dtype=torch.int64)).lengths == (3, 3)
    assert Layout.of_documents(torch.zeros(2, 3, dtype=torch.int64)).lengths == ()
    assert Layout.of_ragged(Ragged.from_rows([torch.arange(3), torch.arange(0), torch.arange(2)])).lengths == (3, 0, 2)


def test_a_mask_of_ones_is_no_numbering() -> None:
    with pytest.raises(ComponentError, match="must number the document of each position"):
        Layout.of_documents(torch.ones(2, 3, dtype=torch.bool))


@ON_GPU
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("window", [None, 7])
def test_on_a_gpu(window: int | None, dtype: str) -> None:
    inputs = given(getattr(torch, dtype), "cuda", width=64)
    layout = Layout(LENGTHS, None, torch.device("cuda"))
    found = attend(inputs[0], inputs[1], inputs[2], layout, window=window, scale=0.3)
    compare(found, inputs, window, 0.3, 0.02 if dtype == "bfloat16" else 1e-4)
