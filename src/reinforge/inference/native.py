"""What lies between the matrix products of a decoding step, in C, compiled once for this processor where it has a
compiler: torch takes a dozen passes over memory, and as many calls, where these take one.

Where there is no such library (`core/compiled.py`), torch does it all, with equal results but for rounding.

Shape suffixes: n rows, d width, f hidden width, h query heads, k key-value heads, e head width, c positions, s slots,
v vocabulary.
"""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from reinforge.core.compiled import compiled

SOURCE = Path(__file__).with_name("native.c")
HALF = {torch.float32: (), torch.bfloat16: ("-DHALF",)}
# Numbers in the widest vector there is; rows must be whole ones.
LANES = 16
WIDEST = 256

_pointer, _long, _float = ctypes.c_void_p, ctypes.c_long, ctypes.c_float


class Native:
    """The functions for one type of numbers. Tensors are on the CPU; each result is a new one."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._normalise = library.normalise
        self._normalise.argtypes = [_pointer] * 3 + [_long] * 2 + [_float]
        self._gate = library.gate
        self._gate.argtypes = [_pointer] * 2 + [_long] * 3
        self._attend = library.attend
        self._attend.argtypes = [_pointer] * 3 + [_long] * 3 + [_pointer] * 6 + [_long] * 6 + [_float, _long]
        self._draw = getattr(library, "draw", None)
        if self._draw is not None:
            self._draw.argtypes = [_pointer] * 4 + [_long] * 3

    def normalise(self, x_nd: Tensor, gain_d: Tensor, epsilon: float) -> Tensor:
        """x / rms(x) * gain over the last dimension, rounded once. The gain is float32."""
        x_nd = x_nd.contiguous()
        out_nd = torch.empty_like(x_nd)
        width = x_nd.shape[-1]
        rows = x_nd.numel() // width
        self._normalise(x_nd.data_ptr(), gain_d.data_ptr(), out_nd.data_ptr(), rows, width, epsilon)
        return out_nd

    def gate(self, both_nf: Tensor, gelu: bool) -> Tensor:
        """SiLU, or GELU by its tanh form, of the first half, times the second: (n, f) of (n, 2 f)."""
        both_nf = both_nf.contiguous()
        hidden = both_nf.shape[-1] // 2
        out_nf = both_nf.new_empty(*both_nf.shape[:-1], hidden)
        self._gate(both_nf.data_ptr(), out_nf.data_ptr(), out_nf.numel() // hidden, hidden, gelu)
        return out_nf

    def attend(
        self, q_nhe: Tensor, k_nke: Tensor, v_nke: Tensor, tables: tuple[Tensor, Tensor] | None, position_n: Tensor,
        keys_skce: Tensor, values_skce: Tensor, *, window: int | None, scale: float,
    ) -> Tensor:  # fmt: skip
        """One token more in each of the first n slots: queries and keys are turned by the `tables` (cosines and signed
        sines (c, e), float32), keys and values written to the cache at `position_n`, and attention reads it up to
        there: (n, h, e)."""
        rows, heads, width = q_nhe.shape
        position_n = position_n.contiguous()
        # Rows may lie apart, as the parts of one product do; a row's heads lie end to end.
        q_nhe, k_nke, v_nke = (
            each if each.stride()[1:] == (width, 1) else each.contiguous() for each in (q_nhe, k_nke, v_nke)
        )
        out_nhe = q_nhe.new_empty(rows, heads, width)
        cos, sin = (None, None) if tables is None else (tables[0].data_ptr(), tables[1].data_ptr())
        self._attend(
            q_nhe.data_ptr(), k_nke.data_ptr(), v_nke.data_ptr(), q_nhe.stride(0), k_nke.stride(0), v_nke.stride(0),
            cos, sin, position_n.data_ptr(), keys_skce.data_ptr(), values_skce.data_ptr(), out_nhe.data_ptr(), rows,
            heads, k_nke.shape[1], width, keys_skce.shape[2], window or 0, scale, torch.get_num_threads(),
        )  # fmt: skip
        return out_nhe

    def draw(self, logits_nv: Tensor, uniform_n: Tensor) -> tuple[Tensor, Tensor]:
        """By inversion, a token of softmax(logits), and its log-probability: (n,) int64, (n,) float32. Logits are
        float32, uniform numbers float64 in [0, 1)."""
        assert self._draw is not None
        logits_nv, uniform_n = logits_nv.contiguous(), uniform_n.contiguous()
        rows, size = logits_nv.shape
        token_n = torch.empty(rows, dtype=torch.int64)
        log_prob_n = torch.empty(rows)
        self._draw(
            logits_nv.data_ptr(), uniform_n.data_ptr(), token_n.data_ptr(), log_prob_n.data_ptr(), rows, size,
            torch.get_num_threads(),
        )  # fmt: skip
        return token_n, log_prob_n


def native(like: Tensor) -> Native | None:
    """The functions for a tensor's type and device; None where there are none."""
    return built(like.dtype) if like.dtype in HALF and like.device.type == "cpu" else None


@cache
def built(dtype: torch.dtype) -> Native | None:
    """The same, compiled where no process did so before."""
    return attempt(dtype)[0]


def attempt(dtype: torch.dtype) -> tuple[Native | None, str]:
    """The same, looked for anew, and why there are none."""
    return compiled(SOURCE, Native, HALF[dtype])
