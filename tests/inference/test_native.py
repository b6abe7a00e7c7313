"""The compiled functions against formulas in double precision, the engine without them, and how they are built."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

from reinforge.core import compiled
from reinforge.inference import native
from reinforge.inference.engine import GenerationEngine
from reinforge.inference.native import Native, built
from reinforge.inference.requests import Request
from reinforge.inference.sampling import Sampling
from reinforge.models.decoder import Decoder
from reinforge.models.decoder_options import DecoderOptions
from reinforge.schema.signature import Input, Output, Signature

TYPES = {torch.float32: 2e-6, torch.bfloat16: 8e-3}


@pytest.fixture
def anew(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """Nothing was built yet; where it will be."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    built.cache_clear()
    yield tmp_path / "reinforge"
    built.cache_clear()


def functions(dtype: torch.dtype) -> Native:
    found = built(dtype)
    if found is None:
        pytest.skip("no compiler")
    return found


def test_attention_takes_what_lies_apart() -> None:
    """Positions that are a column, and heads that are not end to end."""
    own = functions(torch.float32)
    position_nt, cache = torch.tensor([[3, 9], [17, 0], [5, 30]]), random(2, 3, 2, 32, 64, seed=1)
    q, k, v = (random(3, 64, 2, seed=seed).transpose(1, 2) for seed in (2, 3, 4))
    found = [
        own.attend(
            *(each(part) for part in (q, k, v)), None, each(position_nt[:, 0]), *cache.clone(), window=None, scale=0.1
        )
        for each in (lambda x: x, torch.clone, lambda x: x.contiguous())
    ]  # fmt: skip
    assert torch.equal(found[0], found[2])
    assert torch.equal(found[1], found[2])


def test_an_engine_leaves_the_models_norms_as_they_are() -> None:
    model = Decoder(
        DecoderOptions(layers=1, width=64, heads=2, context=8),
        Signature(inputs={"t": Input(form="tokens", sizes=(9,))}, outputs={"t": Output(form="tokens", size=9)}),
    ).train()
    GenerationEngine(model)
    assert all(each.training for each in model.modules())


def random(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.mark.parametrize("dtype", TYPES)
def test_norm_and_gate(dtype: torch.dtype) -> None:
    own, near = functions(dtype), TYPES[dtype]
    x, gain = random(5, 48, dtype=dtype) * 3, random(48, seed=1)
    wide = x.double()
    expected = wide * (wide.square().mean(-1, keepdim=True) + 1e-5).rsqrt() * gain.double()
    torch.testing.assert_close(own.normalise(x, gain, 1e-5).double(), expected, atol=near, rtol=near)
    both = random(7, 96, dtype=dtype, seed=2) * 8
    # Where the exponential would overflow, or vanish.
    both[0, :48], both[1, :48] = 200, -200
    first, second = both.double().chunk(2, -1)
    acts = torch.nn.functional.silu, partial(torch.nn.functional.gelu, approximate="tanh")
    for gelu, act in enumerate(acts):
        torch.testing.assert_close(own.gate(both, bool(gelu)).double(), act(first) * second, atol=8 * near, rtol=near)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(("heads", "kv_heads", "width"), [(4, 4, 64), (4, 2, 32), (2, 1, 128), (3, 3, 96)])
@pytest.mark.parametrize("window", [None, 7])
@pytest.mark.parametrize("turned", [True, False])
def test_attention(dtype: torch.dtype, heads: int, kv_heads: int, width: int, window: int | None, turned: bool) -> None:
    """Against the formula; 600 positions are more than one stretch."""
    own, capacity, slots = functions(dtype), 640, 5
    position_n = torch.tensor([0, 5, 599, 16])
    qkv = random(4, heads + 2 * kv_heads, width, dtype=dtype)
    q, k, v = qkv.split((heads, kv_heads, kv_heads), 1)
    keys = random(slots, kv_heads, capacity, width, dtype=dtype, seed=1)
    values = random(slots, kv_heads, capacity, width, dtype=dtype, seed=2)
    before = keys.clone(), values.clone()
    cos, sin = random(capacity, width, seed=3), random(capacity, width, seed=4)
    tables = (cos, sin) if turned else None
    found = own.attend(q, k, v, tables, position_n, keys, values, window=window, scale=0.2)

    def rotated(x: Tensor, position: int) -> Tensor:
        if not turned:
            return x
        wide = x.double()
        return (wide * cos[position].double() + wide.roll(width // 2, -1) * sin[position].double()).to(dtype)

    for row, position in enumerate(position_n.tolist()):
        torch.testing.assert_close(keys[row, :, position], rotated(k[row], position), atol=1e-6, rtol=TYPES[dtype])
        assert torch.equal(values[row, :, position], v[row])
        first = 0 if window is None else max(0, position + 1 - window)
        for head in range(heads):
            of = head // (heads // kv_heads)
            seen, mixed = (x[row, of, first : position + 1].double() for x in (keys, values))
            weights = (seen @ rotated(q[row, head], position).double() * 0.2).softmax(0)
            torch.testing.assert_close(found[row, head].double(), weights @ mixed, atol=4 * TYPES[dtype], rtol=0.01)
        # Nothing else was touched.
        keys[row, :, position], values[row, :, position] = (x[row, :, position] for x in before)
    assert torch.equal(keys, before[0])
    assert torch.equal(values, before[1])


def test_draw_inverts_the_distribution() -> None:
    own = functions(torch.float32)
    logits, size = random(400, 272) * 4, 272
    logits[:, ::3] = -torch.inf
    logits[3, :] = -torch.inf
    logits[3, 7] = 0
    uniform = torch.rand(400, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    uniform[:4] = torch.tensor([0.0, 1 - 2.0**-53, 0.5, 1 - 2.0**-53])
    token, log_prob = own.draw(logits, uniform)
    reached = logits.double().softmax(-1).cumsum(-1)
    # The running sum passes the number at the token, to rounding.
    above = reached.gather(1, token[:, None]).squeeze(1)
    below = above - logits.double().softmax(-1).gather(1, token[:, None]).squeeze(1)
    assert bool((below - 1e-6 <= uniform).all())
    assert bool((uniform <= above + 1e-6).all())
    assert bool((token % 3 != 0).all())
    assert int(token[3]) == 7
    expected = logits.double().log_softmax(-1).gather(1, token[:, None]).squeeze(1)
    torch.testing.assert_close(log_prob.double(), expected, atol=5e-6, rtol=1e-6)
    for nothing in (torch.nan, torch.inf, -torch.inf):
        broken = logits.clone()
        broken[5] = nothing
        found = own.draw(broken, uniform)[0]
        assert torch.equal(found[:5], token[:5])
        assert torch.equal(found[6:], token[6:])
        assert 0 <= int(found[5]) < size


OPTIONS: list[dict[str, object]] = [
    {}, {"kv_heads": 1, "qk_norm": True}, {"window": 5, "norm_offset": True, "activation": "gelu", "post_norm": True},
]  # fmt: skip


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("options", OPTIONS)
def test_the_engine_says_the_same_without(
    options: dict[str, object], dtype: torch.dtype, anew: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what it says has the full pass's log-probabilities: in bf16, to its rounding."""
    functions(dtype)
    torch.manual_seed(0)
    words = 32
    signature = Signature(
        inputs={"tokens": Input(form="tokens", sizes=(words,))}, outputs={"tokens": Output(form="tokens", size=words)}
    )
    settings = {"layers": 3, "width": 64, "heads": 2, "head_width": 32, "hidden": 96, "context": 40, **options}
    model = Decoder(DecoderOptions.model_validate(settings), signature).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(8) if parameter.ndim == 2 else parameter.add_(random(*parameter.shape) * 0.1)
    model.to(dtype)
    half = dtype == torch.bfloat16
    requests = [Request((1 + n, 2, 3)[: 1 + n % 3], Sampling(20), seed=n) for n in range(6)]
    engine = GenerationEngine(model, slots=4)
    assert engine.cache.native is not None
    found = engine.run(requests)
    monkeypatch.setenv("REINFORGE_NATIVE", "0")
    built.cache_clear()
    without = GenerationEngine(model, slots=4)
    assert without.cache.native is None
    plain = without.run(requests)
    # Rounded, two tokens may be equally likely.
    assert half or [each.tokens for each in found] == [each.tokens for each in plain]
    model.float()
    for request, each in zip(requests, found):
        row = torch.tensor([*request.prompt, *each.tokens])
        with torch.no_grad():
            full = model({"tokens": row[None]})[0]["tokens"][0].log_softmax(-1)
        expected = full[len(request.prompt) - 1 : -1].gather(1, torch.tensor(each.tokens)[:, None]).squeeze(1)
        near = 0.15 if half else 1e-4
        torch.testing.assert_close(torch.tensor(each.log_probs), expected, atol=near, rtol=0 if half else 1e-4)


def test_it_is_built_once_and_anew_where_damaged(anew: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    functions(torch.float32)
    (path,) = anew.iterdir()
    assert (anew.stat().st_mode & 0o077) == 0
    made = path.stat().st_mtime_ns
    built.cache_clear()
    assert built(torch.float32) is not None
    assert path.stat().st_mtime_ns == made
    # As a full disk would leave it, or worse, where none was loaded from: what is open by its name is not opened again.
    whole = path.read_bytes()
    for place, damage in enumerate((b"", b"\x7fELF half of it", whole[:4096], whole[:-4096], b"x" * len(whole))):
        other = tmp_path / str(place) / "reinforge"
        other.mkdir(mode=0o700, parents=True)
        damaged = other / path.name
        damaged.write_bytes(damage)
        monkeypatch.setenv("XDG_CACHE_HOME", str(other.parent))
        built.cache_clear()
        assert built(torch.float32) is not None
        (made_anew,) = other.iterdir()
        assert made_anew.stat().st_size == len(whole)


def test_a_compiler_may_have_options_and_the_cache_is_no_relative_folder(
    anew: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    functions(torch.float32)
    wrapper = tmp_path / "wrapper"
    wrapper.write_text('#!/bin/sh\nexec "$@"\n')
    wrapper.chmod(0o755)
    for named in ("cc -m64", f"'{wrapper}' cc"):
        monkeypatch.setenv("CC", named)
        found, reason = native.attempt(torch.float32)
        assert found is not None, (named, reason)
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    assert compiled._folder() == tmp_path / "home" / ".cache" / "reinforge"
    assert not (tmp_path / "relative").exists()


@pytest.mark.skipif(platform.machine() != "x86_64", reason="options of x86 compilers")
@pytest.mark.parametrize("without", ["-mno-avx512f", "-mno-avx"])
def test_on_processors_with_narrower_vectors(without: str, anew: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", f"{os.environ.get('CC') or 'cc'} {without}")
    for dtype in TYPES:
        functions(dtype)
        test_norm_and_gate(dtype)
        test_attention(dtype, 4, 2, 64, 20, True)
    test_draw_inverts_the_distribution()


def test_why_there_are_none_is_told(anew: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    functions(torch.float32)
    broken = tmp_path / "cc"
    broken.write_text("#!/bin/sh\necho 'no such flag' >&2\nexit 1\n")
    broken.chmod(0o755)
    for named, reason in (("no-such-compiler", "no-such-compiler"), ("'", "'"), (str(broken), "no such flag")):
        monkeypatch.setenv("CC", named)
        found, told = native.attempt(torch.float32)
        assert found is None
        assert reason in told
    anew.chmod(0o777)
    monkeypatch.delenv("CC")
    assert "written by others" in native.attempt(torch.float32)[1]
    monkeypatch.setenv("REINFORGE_NATIVE", "0")
    assert native.attempt(torch.float32) == (None, "REINFORGE_NATIVE=0")


def test_an_engine_in_half_precision_has_its_draws_ready(anew: Path) -> None:
    functions(torch.bfloat16)
    model = Decoder(
        DecoderOptions(layers=1, width=64, heads=2, context=8),
        Signature(inputs={"t": Input(form="tokens", sizes=(9,))}, outputs={"t": Output(form="tokens", size=9)}),
    )
    GenerationEngine(model.to(torch.bfloat16))
    assert len(list(anew.iterdir())) == 2


def test_torch_does_it_where_it_can_not_be_built(anew: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    functions(torch.float32)
    (path,) = anew.iterdir()
    path.unlink()
    anew.chmod(0o777)
    built.cache_clear()
    assert built(torch.float32) is None
    anew.chmod(0o700)
    broken = tmp_path / "cc"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    for compiler in (str(broken), "no-such-compiler"):
        monkeypatch.setenv("CC", compiler)
        built.cache_clear()
        assert built(torch.float32) is None
    assert list(anew.iterdir()) == []
    assert native.native(torch.zeros(1)) is None
    assert native.native(torch.zeros(1, dtype=torch.float16)) is None
