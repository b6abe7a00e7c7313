"""Speculative decoding against the model alone: the same text at temperature 0, the same distribution elsewhere."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import pytest
import torch
from torch import Tensor

from reinforge.errors import ReinforgeError
from reinforge.inference.engine import GenerationEngine
from reinforge.inference.native import built
from reinforge.inference.requests import Request
from reinforge.inference.sampling import Sampler, Sampling
from reinforge.inference.speculative import SpeculativeEngine, judge
from reinforge.models.decoder import Decoder
from tests.inference.oracle import distribution
from tests.inference.test_generation import WORDS, decoder, full_log_probs


def other(seed: int = 1, **options: object) -> Decoder:
    """A draft: another shape, and weights of its own."""
    model = decoder(layers=1, width=16, heads=2, kv_heads=1, **options)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model


def requests(sampling: Sampling, count: int = 12) -> list[Request]:
    generator = torch.Generator().manual_seed(5)
    lengths = torch.randint(1, 12, (count,), generator=generator).tolist()
    return [
        Request(tuple(torch.randint(0, WORDS, (length,), generator=generator).tolist()), sampling, seed)
        for seed, length in enumerate(lengths)
    ]


@pytest.mark.parametrize("proposals", [1, 4, 7])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"window": 5, "pattern": ("local", "global")},
        {"kv_heads": 4, "bias": "all", "post_norm": True, "norm_offset": True},
        {"kv_heads": 1, "qk_norm": True, "context": 33},
    ],
)
def test_greedy_text_is_that_of_the_model_alone(options: dict[str, object], proposals: int) -> None:
    """To the end of the context, with few slots: whatever the draft is, itself among them."""
    context = {"context": options.get("context", 40)}
    model = decoder(**{**context, **options})
    asked = requests(Sampling(60, 0.0, stop=(4,)))
    expected = [GenerationEngine(model, slots=3).run([each])[0] for each in asked]
    assert {each.reason for each in expected} == {"stop", "length"}
    for draft in (other(**context), model):
        engine = SpeculativeEngine(model, draft, proposals=proposals, slots=3)
        found = engine.run(asked)
        for one, alone in zip(found, expected):
            assert (one.tokens, one.reason) == (alone.tokens, alone.reason)
            torch.testing.assert_close(torch.tensor(one.log_probs), torch.tensor(alone.log_probs), atol=1e-4, rtol=1e-4)
        share = sum(engine.accepted.values()) / sum(engine.proposed.values())
        # A request that ends among its proposals leaves the rest.
        assert share == 1 if draft is model else share < 0.9


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_draft_that_is_the_model_is_always_right(temperature: float) -> None:
    """In any company, by the compiled functions too: each row is at a position of its own."""
    model = decoder(context=40, width=64, heads=2, kv_heads=2)
    asked = requests(Sampling(30, temperature))
    found = []
    for slots in (1, 4):
        engine = SpeculativeEngine(model, model, proposals=4, slots=slots)
        if built(torch.float32) is not None:
            assert engine.cache.draft.native is not None
        found.append([each.tokens for each in engine.run(asked)])
        assert sum(engine.accepted.values()) == sum(engine.proposed.values()) > 0
    assert found[0] == found[1]


SETTINGS = [
    Sampling(3, 1.0),
    Sampling(3, 0.6, top_k=4),
    Sampling(3, 1.4, top_p=0.7),
    Sampling(3, 1.2, min_p=0.15),
    Sampling(3, 1.0, top_k=6, top_p=0.9, min_p=0.03, repetition=1.3, presence=0.4),
]


@pytest.mark.parametrize("sampling", SETTINGS)
def test_texts_are_distributed_as_those_of_the_model_alone(sampling: Sampling) -> None:
    """Every text of three tokens against its probability, token by token from full passes; by chi-square."""
    model, prompt, drawn = decoder(), (1, 2, 3), 6000
    probability: dict[tuple[int, ...], float] = {(): 1.0}
    for _step in range(sampling.max_tokens):
        texts = [text for text, p in probability.items() if p > 0]
        with torch.no_grad():
            logits = model({"tokens": torch.tensor([(*prompt, *text) for text in texts])})[0]["tokens"][:, -1]
        probability = {
            (*text, token): probability[text] * p
            for text, row in zip(texts, logits.tolist())
            for token, p in enumerate(distribution(row, sampling, prompt=prompt, own=text))
        }
    engine = SpeculativeEngine(model, other(), proposals=2, slots=200)
    found = Counter(each.tokens for each in engine.run(Request(prompt, sampling, seed) for seed in range(drawn)))
    assert all(probability[text] > 0 for text in found), "nothing that could not be"
    assert 0.05 < sum(engine.accepted.values()) / sum(engine.proposed.values()) < 0.95, "both ways must be taken"
    common = {text: p for text, p in probability.items() if p * drawn >= 8}
    cells = [(found[text], p * drawn) for text, p in common.items()]
    rest = 1 - sum(common.values())
    if rest * drawn >= 8:
        cells.append((drawn - sum(found[text] for text in common), rest * drawn))
    statistic = sum((seen - expected) ** 2 / expected for seen, expected in cells)
    # Wilson and Hilferty: about a standard normal number.
    freedom = len(cells) - 1
    z = ((statistic / freedom) ** (1 / 3) - (1 - 2 / (9 * freedom))) / math.sqrt(2 / (9 * freedom))
    assert z < 3.5, (statistic, freedom)


def exact(p_tv: Tensor, q_v: Tensor, ahead: int, grid: int) -> Tensor:
    """The distribution of the first token, by all proposals and a fine grid of numbers: (v,)."""
    size = len(q_v)
    fine = (torch.arange(grid, dtype=torch.float64) + 0.5) / grid
    total_v = torch.zeros(size, dtype=torch.float64)
    for proposal in range(size):
        uniform, last = (each.flatten() for each in torch.meshgrid(fine, fine, indexing="ij"))
        count = len(uniform)
        kept_n, drawn_n = judge(
            p_tv.expand(count, -1, -1), q_v.expand(count, 1, -1), torch.full((count, 1), proposal),
            torch.full((count,), ahead), uniform[:, None], last,
        )  # fmt: skip
        first_n = torch.where(kept_n > 0, proposal, drawn_n)
        total_v += q_v[proposal] * torch.bincount(first_n, minlength=size) / count
    return total_v


def test_judging_gives_exactly_the_targets_distribution() -> None:
    """By quadrature over the numbers that decide; whatever was proposed, and from whichever distribution."""
    generator = torch.Generator().manual_seed(0)
    for cut in range(4):
        p_tv = torch.rand(2, 5, generator=generator, dtype=torch.float64)
        q_v = torch.rand(5, generator=generator, dtype=torch.float64)
        p_tv[0, :cut] = 0
        q_v[2 : 2 + cut] = 0
        p_tv, q_v = p_tv / p_tv.sum(-1, keepdim=True), q_v / q_v.sum()
        torch.testing.assert_close(exact(p_tv, q_v, 1, 300), p_tv[0], atol=4e-3, rtol=0)
        # Without proposals, whatever stands there is not looked at.
        torch.testing.assert_close(exact(p_tv, q_v, 0, 300), p_tv[0], atol=4e-3, rtol=0)


def test_the_distribution_is_the_one_that_is_drawn_from() -> None:
    generator = torch.Generator().manual_seed(0)
    settings = [Sampling(1, 0.0), *SETTINGS]
    logits = torch.randn(len(settings), 300, generator=generator) * 2
    counts = torch.zeros(2, len(settings), 300, dtype=torch.int32)
    counts[0, :, [3, 7]], counts[1, :, 7] = 1, 1
    prob, told = Sampler(settings, torch.device("cpu")).distribution(logits, None, (counts[0], counts[1]))
    for row, sampling in enumerate(settings):
        oracle = torch.tensor(distribution(logits[row].tolist(), sampling, prompt=[3], own=[7])).double()
        torch.testing.assert_close(prob[row], oracle, atol=1e-6, rtol=1e-4)
        told_of = logits[row].log_softmax(-1) if not sampling.temperature else oracle.log().float()
        torch.testing.assert_close(told[row], told_of, atol=1e-4, rtol=1e-4)


def test_log_probs_are_those_of_the_model() -> None:
    model, sampling = decoder(context=64), Sampling(40, 0.9, top_k=7, repetition=1.2)
    asked = requests(sampling)
    for request, one in zip(asked, SpeculativeEngine(model, other(context=64), slots=4).run(asked)):
        oracle = full_log_probs(model, torch.tensor(request.prompt), torch.tensor(one.tokens), sampling)
        torch.testing.assert_close(torch.tensor(one.log_probs), oracle, atol=1e-4, rtol=1e-4)


def test_a_request_draws_the_same_whatever_is_beside_it() -> None:
    """Of many lengths and limits, at the end of the context too, one with a constraint among them."""

    class Fixed:
        def allowed(self) -> Tensor:
            return torch.arange(WORDS) == 3

        def advance(self, token: int) -> None:
            pass

    model, draft = decoder(context=24), other(context=24)
    limits = itertools.cycle([1, 2, 5, 30])
    asked = [Request(each.prompt, Sampling(next(limits), 1.0), each.seed) for each in requests(Sampling(9))]
    asked.append(Request((1,), Sampling(6), 0, constraint=Fixed()))
    together = SpeculativeEngine(model, draft, slots=5).run(asked)
    for request, one in zip(asked, together):
        alone = SpeculativeEngine(model, draft, slots=1).run([request])[0]
        assert alone.tokens == one.tokens
        assert len(one.tokens) == min(request.sampling.max_tokens, 24 - len(request.prompt) + 1)
    assert together[-1].tokens == (3,) * 6


def test_streaming_watching_likeliest_masks_and_cancelling() -> None:
    model = decoder(context=40)
    seen: list[int] = []

    def watch(token: int) -> bool:
        seen.append(token)
        return len(seen) == 7

    allowed = torch.arange(WORDS) % 2 == 0
    engine = SpeculativeEngine(model, model, slots=3)
    numbers = [
        engine.add(Request((1, 2), Sampling(20), 0, watch=watch)),
        engine.add(Request((1, 2), Sampling(20, 0.0), 1, likeliest=2, allowed=allowed)),
        engine.add(Request((1, 2), Sampling(20), 2)),
    ]
    written: dict[int, list[int]] = {number: [] for number in numbers}
    for step in itertools.count():
        for token in engine.step():
            written[token.request].append(token.token)
            if token.request == numbers[1]:
                assert token.likeliest is not None
                assert len(token.likeliest.tokens) == 2
                assert token.token % 2 == 0
        if step == 0:
            engine.cancel(numbers[2])
        if engine.idle:
            break
    assert written[numbers[0]] == seen
    assert len(seen) == 7
    assert len(written[numbers[1]]) == 20
    assert len(written[numbers[2]]) <= 5
    assert engine.step() == []


def test_weights_that_change_are_the_ones_that_write() -> None:
    model, draft, asked = decoder(), other(), requests(Sampling(8, 0.0))
    engine = SpeculativeEngine(model, draft, slots=4)
    before = engine.run(asked)
    with torch.no_grad():
        for parameter in (*model.parameters(), *draft.parameters()):
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)))
    engine.flush()
    after = engine.run(asked)
    assert [each.tokens for each in before] != [each.tokens for each in after]
    assert [each.tokens for each in after] == [each.tokens for each in GenerationEngine(model, slots=4).run(asked)]


def test_drafts_that_do_not_fit_are_refused() -> None:
    model = decoder()
    with pytest.raises(ReinforgeError, match="context of 16 is shorter"):
        SpeculativeEngine(model, decoder(context=16))
    with pytest.raises(ReinforgeError, match="proposals must be at least 1"):
        SpeculativeEngine(model, model, proposals=0)
    wide = decoder()
    wide.embedding = torch.nn.Embedding(WORDS + 1, 32)
    with pytest.raises(ReinforgeError, match="vocabulary has 12 tokens"):
        SpeculativeEngine(model, wide)
