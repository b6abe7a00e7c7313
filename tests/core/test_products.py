"""Who multiplies matrices of fp32 on a CPU, and that it stays fp32."""

from __future__ import annotations

import contextlib
import itertools

import pytest
import torch
from torch import nn

from reinforge.core import products
from reinforge.core.products import faster_products

WIDE, NARROW = nn.Linear(256, 128), nn.Sequential(nn.Embedding(1000, 64), nn.Linear(64, 256), nn.Conv2d(256, 256, 3))


def _set() -> str:
    return torch.backends.mkldnn.matmul.fp32_precision


def _onednn_takes_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a processor where it is faster, and exact."""
    monkeypatch.setattr(products, "_onednn_is_faster", lambda: True)
    monkeypatch.setattr(products, "_exact", True)


def test_stays_single_precision() -> None:
    """Whatever this machine chose: an error of fp32, not of bf16, which is a thousand times larger."""
    torch.manual_seed(0)
    one, other = torch.randn(192, 256), torch.randn(256, 160)
    with faster_products(WIDE):
        found = one @ other
        added = torch.zeros(192, 160).addmm_(one, other)
    expected = one.double() @ other.double()
    assert float((found - expected).abs().max()) < 2e-4
    assert float((added - expected).abs().max()) < 2e-4


@pytest.mark.parametrize("faster", [True, False])
@pytest.mark.parametrize("model", [WIDE, NARROW])
def test_set_within_the_block_alone(model: nn.Module, faster: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if faster:
        _onednn_takes_over(monkeypatch)
    else:
        monkeypatch.setattr(products, "_onednn_is_faster", lambda: False)
    before = _set()
    seen = []

    def use() -> None:
        seen.append(_set())
        raise KeyError

    with pytest.raises(KeyError), faster_products(model):
        use()
    assert seen == ["bf16" if faster and model is WIDE else before]
    assert _set() == before


def _set_by(*blocks: tuple[nn.Module, bool]) -> str:
    """What is set within blocks of models that allow rounding or don't."""
    with contextlib.ExitStack() as stack:
        for model, rounded in blocks:
            stack.enter_context(faster_products(model, rounded))
        return _set()


@pytest.mark.parametrize("exact", [True, False])
def test_rounded_while_all_allow_it(exact: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """By oneDNN where it rounds, and layers are wide enough to be worth it."""
    monkeypatch.setattr(products, "_onednn_is_faster", lambda: False)
    monkeypatch.setattr(products, "_exact", exact)
    before, rounds = _set(), (WIDE, True)
    assert (
        _set_by(rounds) == _set_by(rounds, rounds) == _set_by(rounds, (NARROW, True)) == (before if exact else "bf16")
    )
    assert _set_by((NARROW, True)) == before
    assert _set_by(rounds, (NARROW, False)) == _set_by((WIDE, False), rounds) == before
    assert _set_by((WIDE, False)) == _set() == before


def test_what_runs_is_not_disturbed_to_find_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "_exact", None)
    monkeypatch.setattr(products, "_onednn_is_faster", lambda: False)
    with faster_products(NARROW), faster_products(WIDE, rounded=True):
        assert products._exact is None
        assert _set() != "bf16"
    with faster_products(WIDE, rounded=True):
        assert products._exact is not None


def test_gpus_round_while_all_allow_it() -> None:
    """And torch's older setting, which Inductor reads, says the same."""
    cuda = torch.backends.cuda.matmul
    before = cuda.fp32_precision, torch.get_float32_matmul_precision()
    with faster_products(NARROW, rounded=True):
        assert (cuda.fp32_precision, torch.get_float32_matmul_precision()) == ("tf32", "medium")
        with faster_products(NARROW):
            assert (cuda.fp32_precision, torch.get_float32_matmul_precision()) == before
        assert cuda.fp32_precision == "tf32"
    assert (cuda.fp32_precision, torch.get_float32_matmul_precision()) == before


def test_rounded_keeps_eight_bits() -> None:
    """Sums are of fp32: 256 of bf16 would be off by more."""
    torch.manual_seed(0)
    one, other = torch.rand(192, 256), torch.rand(256, 160)
    with faster_products(WIDE, rounded=True):
        found = one @ other
    expected = one.double() @ other.double()
    assert float(((found - expected) / expected).abs().max()) < 2.0**-9


def test_blocks_that_overlap_leave_what_was_set_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """As runs on several threads do: in whatever order they end, it is set until the last one does."""
    _onednn_takes_over(monkeypatch)
    before = _set()
    assert before != "bf16"
    for order in itertools.permutations(range(3)):
        blocks = [faster_products(WIDE) for _place in range(3)]
        for block in blocks:
            block.__enter__()
        for place in order:
            assert _set() == "bf16"
            blocks[place].__exit__(None, None, None)
        assert _set() == before


def test_intels_own_processors_keep_their_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "_maker", lambda: "GenuineIntel")
    products._onednn_is_faster.cache_clear()
    try:
        assert not products._onednn_is_faster()
    finally:
        products._onednn_is_faster.cache_clear()


def test_finding_out_leaves_no_trace() -> None:
    before = _set()
    products._onednn_is_exact()
    assert _set() == before
