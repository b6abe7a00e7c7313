"""The decoder against an independent implementation, brute force, and itself in other arrangements."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import Tensor

from reinforge.core.ragged import Ragged
from reinforge.errors import ComponentError
from reinforge.models.attention import Layout
from reinforge.models.decoder import Decoder, Gated, Normalise
from reinforge.models.decoder_options import DecoderOptions, RotaryOptions
from reinforge.models.rotary import Rotate, rotary_tables
from reinforge.models.token_losses import summed_loss, token_losses
from reinforge.registry import REGISTRY
from reinforge.schema.signature import Input, Output, Signature

WORDS = 23
EPSILON = 1e-6


def signature(size: int = WORDS) -> Signature:
    return Signature(
        inputs={"tokens": Input(form="tokens", sizes=(size,))}, outputs={"tokens": Output(form="tokens", size=size)}
    )


def decoder(**options: object) -> Decoder:
    torch.manual_seed(0)
    settings = {"layers": 2, "width": 32, "heads": 4, "kv_heads": 2, "context": 16, **options}
    model = REGISTRY.build("model", DecoderOptions.model_validate(settings), signature())
    assert isinstance(model, Decoder)
    # Away from the small initial weights, where attention is nearly uniform and mistakes hardly show.
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1 + 0.2 * torch.randn_like(parameter)) if parameter.ndim == 1 else parameter.mul_(8)
    return model


def tokens(rows: int = 3, time: int = 11) -> Tensor:
    return torch.randint(WORDS, (rows, time), generator=torch.Generator().manual_seed(1))


def reference_logits(model: Decoder, tokens_bt: Tensor) -> Tensor:
    """The same network written from the papers, one position and one head at a time, in float64."""
    p = {name: value.detach().double() for name, value in model.state_dict().items()}
    o = model.options
    width, heads, kv = o.width, o.heads, o.kv_heads or o.heads
    e = width // heads

    def norm(x: Tensor, gain: Tensor) -> Tensor:
        return x / ((x**2).mean(-1, keepdim=True) + EPSILON).sqrt() * gain

    def rotate(x: Tensor, position: int) -> Tensor:
        pairs = torch.view_as_complex(torch.stack((x[: e // 2], x[e // 2 :]), -1))
        angles = position * o.rotary.base ** (-2 * torch.arange(e // 2, dtype=torch.float64) / e)
        turned = torch.view_as_real(pairs * torch.polar(torch.ones_like(angles), angles))
        return torch.cat((turned[:, 0], turned[:, 1]))

    rows = []
    for row in tokens_bt:
        x = p["embedding.weight"][row]
        for layer in range(o.layers):
            at = f"blocks.{layer}."
            qkv = norm(x, p[at + "attention_norm.weight"]) @ p[at + "attention.qkv.weight"].T
            mixed = torch.zeros_like(x)
            for t in range(len(row)):
                for h in range(heads):
                    g = h // (heads // kv)
                    q = rotate(qkv[t, h * e : (h + 1) * e], t)
                    keys = [rotate(qkv[s, (heads + g) * e : (heads + g + 1) * e], s) for s in range(t + 1)]
                    values = [qkv[s, (heads + kv + g) * e : (heads + kv + g + 1) * e] for s in range(t + 1)]
                    weight = (torch.stack(keys) @ q / math.sqrt(e)).softmax(0)
                    mixed[t, h * e : (h + 1) * e] = weight @ torch.stack(values)
            x = x + mixed @ p[at + "attention.out.weight"].T
            gate, up = (norm(x, p[at + "feed_forward_norm.weight"]) @ p[at + "feed_forward.gate_up.weight"].T).chunk(
                2, -1
            )
            x = x + (gate * torch.sigmoid(gate) * up) @ p[at + "feed_forward.down.weight"].T
        rows.append(norm(x, p["norm.weight"]) @ p.get("head.weight", p["embedding.weight"]).T)
    return torch.stack(rows)


@pytest.mark.parametrize("options", [{}, {"kv_heads": None}, {"kv_heads": 1, "tied": False, "hidden": 20}])
def test_equals_the_papers(options: dict[str, object]) -> None:
    model = decoder(**options)
    logits, state = model({"tokens": tokens()})
    assert state is None
    assert logits["tokens"].dtype == torch.float32
    torch.testing.assert_close(logits["tokens"].double(), reference_logits(model, tokens()), atol=2e-4, rtol=1e-4)


def test_gradients_without_grad_mode_and_with_it_agree() -> None:
    model = decoder()
    with torch.no_grad():
        plain = model({"tokens": tokens()})[0]["tokens"]
    torch.testing.assert_close(model({"tokens": tokens()})[0]["tokens"], plain, atol=1e-5, rtol=1e-5)


def test_closed_form_gradients() -> None:
    g = torch.Generator().manual_seed(2)
    x = torch.randn(2, 3, 6, dtype=torch.float64, generator=g, requires_grad=True)
    gain = torch.randn(6, dtype=torch.float64, generator=g, requires_grad=True)
    assert torch.autograd.gradcheck(Normalise.apply, (x, gain, EPSILON))
    torch.testing.assert_close(Normalise.apply(x, gain, EPSILON), F.rms_norm(x, (6,), gain, EPSILON))
    cos, sin = (table.double()[:, None] for table in rotary_tables(4, 6, RotaryOptions(base=100.0)))
    both = torch.randn(2, 3, 8, dtype=torch.float64, generator=g, requires_grad=True)
    for gelu in (False, True):
        assert torch.autograd.gradcheck(lambda t, gelu=gelu: Gated.apply(t, gelu), (both,))
        gate, up = both.chunk(2, -1)
        right = (F.gelu(gate, approximate="tanh") if gelu else F.silu(gate)) * up
        torch.testing.assert_close(Gated.apply(both, gelu), right)
    heads = torch.randn(2, 4, 3, 6, dtype=torch.float64, generator=g, requires_grad=True)
    assert torch.autograd.gradcheck(lambda t: Rotate.apply(t, cos, sin), (heads,))


def test_norm_in_bf16_is_computed_in_fp32() -> None:
    g = torch.Generator().manual_seed(2)
    x, gain = torch.randn(5, 64, generator=g).bfloat16(), torch.ones(64).bfloat16()
    exact = F.rms_norm(x.float(), (64,), gain.float(), EPSILON)
    assert torch.equal(Normalise.apply(x, gain, EPSILON), exact.bfloat16())


def test_future_is_not_seen() -> None:
    model = decoder()
    changed = tokens()
    changed[:, 7:] = (changed[:, 7:] + 1) % WORDS
    one, other = (model({"tokens": t})[0]["tokens"] for t in (tokens(), changed))
    torch.testing.assert_close(one[:, :7], other[:, :7], atol=0, rtol=0)
    assert not torch.allclose(one[:, 7:], other[:, 7:])


def test_packed_equals_unpacked() -> None:
    """Losses and gradients of three documents in one row are those of each alone; without "documents" they are not."""
    model = decoder()
    documents = [tokens(1, n)[0] for n in (6, 3, 5)]

    def train(rows: list[dict[str, Tensor]], targets: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        model.zero_grad()
        losses = []
        for row, target in zip(rows, targets):
            hidden, _ = model.hidden({name: value[None] for name, value in row.items()})
            losses.append(token_losses(hidden[0], model.head_weight, target))
        torch.cat(losses).sum().backward()
        return torch.cat(losses).detach(), [p.grad.clone() for p in model.parameters() if p.grad is not None]

    apart, apart_gradients = train([{"tokens": d[:-1]} for d in documents], [d[1:] for d in documents])
    row = {"tokens": torch.cat([d[:-1] for d in documents])}
    targets = torch.cat([d[1:] for d in documents])
    numbers = torch.tensor([1, 2, 3]).repeat_interleave(torch.tensor([5, 2, 4]))
    packed, packed_gradients = train([{**row, "documents": numbers}], [targets])
    torch.testing.assert_close(packed, apart, atol=1e-4, rtol=1e-4)
    for one, other in zip(packed_gradients, apart_gradients):
        assert (one - other).norm() <= 1e-4 * other.norm()
    mixed, _ = train([row], [targets])
    assert (mixed - apart).abs().max() > 0.01


def test_ragged_rows_equal_rows_alone() -> None:
    model = decoder()
    rows = [tokens(1, n)[0] for n in (2, 9, 4)]
    logits, _ = model({"tokens": Ragged.from_rows(rows)})
    for row, got in zip(rows, logits["tokens"]):
        alone, _ = model({"tokens": row[None]})
        torch.testing.assert_close(got[: len(row)], alone["tokens"][0], atol=1e-5, rtol=1e-5)


def test_cached_equals_full_in_any_pieces() -> None:
    """Rows of different lengths, continued by different pieces, give the logits of one full pass."""
    model = decoder()
    whole = [tokens(3, 14)[i, :n] for i, n in enumerate((9, 6, 11))]
    full = [model({"tokens": row[None]})[0]["tokens"][0] for row in whole]
    with torch.no_grad():
        state = model.initial_state(3)
        done = [0, 0, 0]
        for sizes in ((4, 1, 6), (1, 1, 1), (3, 4, 2), (1, 0, 2)):
            parts = [row[d : d + n] for row, d, n in zip(whole, done, sizes)]
            logits, state = model({"tokens": Ragged.from_rows(parts)}, state)
            for i, n in enumerate(sizes):
                torch.testing.assert_close(
                    logits["tokens"][i, :n], full[i][done[i] : done[i] + n], atol=1e-4, rtol=1e-4
                )
            done = [d + n for d, n in zip(done, sizes)]
    assert state is not None
    assert state["lengths"].tolist() == [9, 6, 11]


def test_token_losses_by_chunks() -> None:
    g = torch.Generator().manual_seed(3)
    hidden = torch.randn(17, 8, generator=g, dtype=torch.float64)
    weight = torch.randn(WORDS, 8, generator=g, dtype=torch.float64)
    targets = torch.randint(WORDS, (17,), generator=g)
    scale = torch.randn(17, generator=g)
    found = []
    for elements in (1, 5 * WORDS, 10**6):
        h, w = hidden.float().requires_grad_(), weight.float().requires_grad_()
        losses = token_losses(h, w, targets, elements)
        (losses * scale).sum().backward()
        found.append((losses.detach(), h.grad, w.grad))
    h, w = hidden.requires_grad_(), weight.requires_grad_()
    oracle = -(h @ w.T).log_softmax(-1)[torch.arange(17), targets]
    (oracle * scale).sum().backward()
    for one in found:
        for got, right in zip(one, (oracle.detach(), h.grad, w.grad)):
            torch.testing.assert_close(got, right.float(), atol=1e-5, rtol=1e-5)
    assert token_losses(hidden.float()[:0], weight.float(), targets[:0]).shape == (0,)
    # What is frozen gets no gradient, and the other's stays the same.
    for frozen in (0, 1):
        pair = [hidden.detach().float(), weight.detach().float()]
        pair[1 - frozen].requires_grad_()
        (token_losses(*pair, targets, 5 * WORDS) * scale).sum().backward()
        assert pair[frozen].grad is None
        torch.testing.assert_close(pair[1 - frozen].grad, found[1][1:][1 - frozen])


@pytest.mark.parametrize("frozen", ["nothing", "hidden", "weight"])
@pytest.mark.parametrize("elements", [1, 5 * WORDS, 10**6])
def test_summed_loss_by_chunks(elements: int, frozen: str) -> None:
    g = torch.Generator().manual_seed(3)
    hidden = torch.randn(17, 8, generator=g, requires_grad=frozen != "hidden")
    weight = torch.randn(WORDS, 8, generator=g, requires_grad=frozen != "weight")
    targets = torch.randint(WORDS, (17,), generator=g)
    learned = [x for x in (hidden, weight) if x.requires_grad]
    found = summed_loss(hidden, weight, targets, elements)
    oracle = F.cross_entropy(hidden @ weight.T, targets, reduction="sum")
    torch.testing.assert_close(found, oracle)
    for got, right in zip(torch.autograd.grad(found * 0.3, learned), torch.autograd.grad(oracle * 0.3, learned)):
        torch.testing.assert_close(got, right, atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(summed_loss(hidden, weight, targets, elements), oracle)
    nothing = summed_loss(hidden[:0], weight, targets[:0], elements)
    assert float(nothing.detach()) == 0.0
    assert not any(g.any() for g in torch.autograd.grad(nothing, learned))


@pytest.mark.parametrize("elements", [None, 100 * WORDS])
def test_losses_of_many_rows_are_those_of_rows_filled_up(elements: int | None) -> None:
    """On a CPU products have a multiple of 64 rows; what fills them up counts nowhere."""
    g = torch.Generator().manual_seed(3)
    hidden = torch.randn(777, 8, generator=g, requires_grad=True)
    weight = torch.randn(WORDS, 8, generator=g, requires_grad=True)
    targets = torch.randint(WORDS, (777,), generator=g)
    oracle = F.cross_entropy(hidden @ weight.T, targets, reduction="none")
    losses = token_losses(hidden, weight, targets, elements)
    torch.testing.assert_close(losses, oracle)
    total = summed_loss(hidden, weight, targets, elements)
    torch.testing.assert_close(total, oracle.sum())
    right = torch.autograd.grad(oracle.sum(), (hidden, weight))
    for found in (losses.sum(), total):
        for got, expected in zip(torch.autograd.grad(found, (hidden, weight)), right):
            torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("context", [16, 256])
def test_numbers_of_rows_are_few(monkeypatch: pytest.MonkeyPatch, context: int) -> None:
    """oneDNN keeps a kernel for each: packs of 513 to 700 tokens are products of 576, 640 and 704 rows. States and
    gradients are those of documents alone."""
    model, counts = decoder(context=context), set()
    linear = F.linear

    def counted(x: Tensor, *rest: Tensor | None) -> Tensor:
        counts.add(len(x))
        return linear(x, *rest)

    for total in (513, 600, 640, 700):
        sizes = [15] * (total // 15) + [total % 15]
        rows = [tokens(1, size)[0] for size in sizes if size]
        model.zero_grad()
        alone = torch.cat([model.hidden({"tokens": row[None]})[0][0] for row in rows])
        alone.square().sum().backward()
        expected = [p.grad.clone() for p in model.parameters() if p.grad is not None]
        model.zero_grad()
        with monkeypatch.context() as patch:
            patch.setattr(F, "linear", counted)
            found = model.hidden_of(torch.cat(rows), Layout(tuple(map(len, rows)), None, torch.device("cpu")))
        assert found.shape == (total, 32)
        torch.testing.assert_close(found, alone, atol=1e-5, rtol=1e-5)
        found.square().sum().backward()
        for p, gradient in zip((p for p in model.parameters() if p.grad is not None), expected, strict=True):
            assert p.grad is not None
            assert (p.grad - gradient).norm() <= 1e-4 * gradient.norm()
    assert counts == {576, 640, 704}


def test_initialisation() -> None:
    torch.manual_seed(0)
    model = Decoder(DecoderOptions(layers=8, width=128, tied=False), signature(500))
    assert float(model.embedding.weight.detach().std()) == pytest.approx(0.02, rel=0.05)
    assert float(model.blocks[0].feed_forward.gate_up.weight.detach().std()) == pytest.approx(0.02, rel=0.05)  # type: ignore[union-attr]
    assert float(model.blocks[3].attention.out.weight.detach().std()) == pytest.approx(0.02 / 4, rel=0.05)  # type: ignore[union-attr]
    loss = token_losses(model.hidden({"tokens": tokens()})[0].flatten(0, 1), model.head_weight, tokens().flatten())
    assert float(loss.detach().mean()) == pytest.approx(math.log(500), rel=0.05)


def test_bf16_follows_fp32() -> None:
    model = decoder()
    exact = model({"tokens": tokens()})[0]["tokens"]
    rough = model.bfloat16()({"tokens": tokens()})[0]["tokens"]
    assert rough.dtype == torch.float32
    assert float((rough - exact).detach().norm() / exact.detach().norm()) < 0.1


def test_dropout_acts_in_training_alone() -> None:
    model = decoder(dropout=0.3)
    one, other = model({"tokens": tokens()})[0]["tokens"], model({"tokens": tokens()})[0]["tokens"]
    assert not torch.equal(one, other)
    model.eval()
    one, other = model({"tokens": tokens()})[0]["tokens"], model({"tokens": tokens()})[0]["tokens"]
    assert torch.equal(one, other)


def test_refusals() -> None:
    with pytest.raises(ComponentError, match="17 positions do not fit a context of 16"):
        decoder()({"tokens": tokens(1, 17)})
    numbers = Signature(
        inputs={"numbers": Input(form="numbers", shape=(2,))}, outputs={"y": Output(form="number", size=1)}
    )
    with pytest.raises(ComponentError, match="one input and one output"):
        Decoder(DecoderOptions(), numbers)
    with pytest.raises(ValidationError, match="do not divide"):
        DecoderOptions(heads=4, kv_heads=3)
    with pytest.raises(ValidationError, match="even width"):
        DecoderOptions(width=36, heads=4)
