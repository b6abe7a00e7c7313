"""Generation against full forward passes and against the distribution it must draw from."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch
from torch import Tensor

from reinforge.core.ragged import Ragged
from reinforge.errors import DataError, RecipeError
from reinforge.inference.engine import GenerationEngine
from reinforge.inference.generation import generate
from reinforge.inference.requests import Request
from reinforge.inference.sampling import Sampler, Sampling
from reinforge.models.decoder import Decoder
from reinforge.models.decoder_options import DecoderOptions
from reinforge.schema.signature import Input, Output, Signature
from tests.inference.oracle import distribution

WORDS = 11


def decoder(**options: object) -> Decoder:
    torch.manual_seed(0)
    signature = Signature(
        inputs={"tokens": Input(form="tokens", sizes=(WORDS,))},
        outputs={"tokens": Output(form="tokens", size=WORDS)},
    )
    settings = {"layers": 2, "width": 32, "heads": 4, "kv_heads": 2, "context": 20, **options}
    model = Decoder(DecoderOptions.model_validate(settings), signature)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(12)
    return model


def prompts() -> Ragged:
    return Ragged.from_rows([torch.tensor(row) for row in ([1, 2, 3], [4], [5, 6, 7, 8, 9, 1, 2], [3, 3])])


def full_log_probs(model: Decoder, prompt: Tensor, completion: Tensor, sampling: Sampling) -> Tensor:
    """Of each completion token, from one pass over everything and the plain sampler."""
    with torch.no_grad():
        logits = model({"tokens": torch.cat((prompt, completion))[None]})[0]["tokens"][0]
    found = []
    for step, token in enumerate(completion.tolist()):
        row = logits[len(prompt) - 1 + step]
        if sampling.temperature:
            own = completion[:step].tolist()
            found.append(math.log(distribution(row.tolist(), sampling, prompt=prompt.tolist(), own=own)[token]))
        else:
            found.append(float(row.log_softmax(-1)[token]))
    return torch.tensor(found)


def test_greedy_equals_the_full_pass() -> None:
    model = decoder()
    result = generate(model, prompts(), Sampling(max_tokens=9, temperature=0.0))
    for i in range(4):
        row = prompts().row(i)
        for token in result.tokens.row(i):
            with torch.no_grad():
                best = int(model({"tokens": row[None]})[0]["tokens"][0, -1].argmax())
            assert best == int(token)
            row = torch.cat((row, token[None]))
    assert result.tokens.lengths.tolist() == [9, 9, 9, 9]
    assert not result.stopped.any()


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(9, 0.0),
        Sampling(9, 1.0, stop=(4,)),
        Sampling(9, 0.7, top_k=4),
        Sampling(9, 1.3, top_p=0.8, stop=(2, 5)),
        Sampling(9, 1.0, top_k=6, top_p=0.9),
        Sampling(9, 1.2, min_p=0.2),
        Sampling(9, 0.9, repetition=1.4, presence=0.5),
        Sampling(9, 1.0, top_k=7, top_p=0.95, min_p=0.02, repetition=1.2, presence=0.3, stop=(3,)),
    ],
)
def test_log_probs_equal_the_full_pass(sampling: Sampling) -> None:
    model = decoder()
    result = generate(model, prompts(), sampling, (5, 6, 7, 8))
    for i in range(4):
        oracle = full_log_probs(model, prompts().row(i), result.tokens.row(i), sampling)
        torch.testing.assert_close(result.log_probs.row(i), oracle, atol=1e-4, rtol=1e-4)


def test_rows_end_at_stop_tokens_limits_and_the_context() -> None:
    model = decoder()
    sampling = Sampling(30, 3.0, stop=(4,))
    seen = Counter()
    for seed in range(10):
        result = generate(model, prompts(), sampling, [4 * seed + i for i in range(4)])
        for i in range(4):
            row, room = result.tokens.row(i).tolist(), 20 - len(prompts().row(i)) + 1
            assert 4 not in row[:-1]
            assert (row[-1] == 4) == bool(result.stopped[i])
            assert len(row) == room or result.stopped[i]
            seen[bool(result.stopped[i])] += 1
    assert len(seen) == 2, "both endings must occur"


def test_a_row_draws_the_same_whatever_is_beside_it() -> None:
    model, sampling = decoder(), Sampling(8, 1.0, stop=(4,))
    together = generate(model, prompts(), sampling, (10, 11, 12, 13))
    for i in range(4):
        alone = generate(model, prompts().slice(i, i + 1), sampling, (10 + i,))
        assert alone.tokens.row(0).tolist() == together.tokens.row(i).tolist()


SETTINGS = (
    Sampling(1),
    Sampling(1, 0.5),
    Sampling(1, 0.0),
    Sampling(1, 1.0, top_k=2),
    Sampling(1, 2.0, top_p=0.7),
    Sampling(1, 1.0, min_p=0.1),
    Sampling(1, 1.5, top_k=6, top_p=0.9, min_p=0.05),
    Sampling(1, 1.0, top_p=1e-6),
    Sampling(1, 1.0, top_k=50, top_p=1.0),
    Sampling(1, 1.0, repetition=1.8),
    Sampling(1, 0.8, presence=1.1),
    Sampling(1, 1.3, top_k=5, top_p=0.95, repetition=0.7, presence=-0.4),
)


def test_each_setting_gives_its_distribution() -> None:
    """Inverting a fine grid of numbers gives each token as often as the plain sampler says, in one mixed batch."""
    generator = torch.Generator().manual_seed(0)
    grid, size = 2000, 9
    uniform = (torch.arange(grid, dtype=torch.float64) + 0.5) / grid
    prompt, own = [0, 3, 3], [5, 1]
    allowed = [token != 7 for token in range(size)]
    logits = torch.randn(len(SETTINGS), size, generator=generator) * 2
    rows = logits.repeat_interleave(grid, 0)
    counts = torch.zeros(2, size, dtype=torch.int32)
    for place, tokens in enumerate(([*prompt, *own], own)):
        for token in tokens:
            counts[place, token] += 1
    sampler = Sampler([s for s in SETTINGS for _ in range(grid)], torch.device("cpu"))
    written = (counts[0].expand(len(rows), -1), counts[1].expand(len(rows), -1))
    mask = torch.tensor(allowed).expand(len(rows), -1)
    token, log_prob = sampler(rows, uniform.repeat(len(SETTINGS)), mask, written)
    for place, sampling in enumerate(SETTINGS):
        expected = distribution(logits[place].tolist(), sampling, prompt=prompt, own=own, allowed=allowed)
        drawn = token[place * grid : (place + 1) * grid]
        found = torch.bincount(drawn, minlength=size) / grid
        oracle = torch.tensor(expected)
        torch.testing.assert_close(found, oracle, atol=1.5 / grid, rtol=0, msg=str(sampling))
        assert not found[oracle == 0].any()
        if sampling.temperature:
            given = log_prob[place * grid : (place + 1) * grid].exp()
            torch.testing.assert_close(given, oracle[drawn], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("size", [300, 1000])
def test_wide_vocabularies(size: int) -> None:
    """Wider than a block and than the first look for candidates."""
    logits = torch.randn(3, size, generator=torch.Generator().manual_seed(1))
    for sampling in (
        Sampling(1),
        Sampling(1, 1.0, top_p=0.99),
        Sampling(1, 3.0, min_p=1e-3),
        Sampling(1, 1.0, top_k=200),
        Sampling(1, 1.0, top_k=2**70),
    ):
        oracle = [distribution(row.tolist(), sampling) for row in logits]
        sampler = Sampler([sampling] * 3, torch.device("cpu"))
        for number in (0.0, 0.1, 0.37, 0.93, 1 - 2**-53):
            token, log_prob = sampler(logits, torch.full((3,), number, dtype=torch.float64))
            for row in range(3):
                p = oracle[row][int(token[row])]
                assert p > 0
                assert float(log_prob[row]) == pytest.approx(math.log(p), abs=1e-4)
    # Frequencies of the plain draw, which goes by blocks.
    grid = 50_000
    uniform = (torch.arange(grid, dtype=torch.float64) + 0.5) / grid
    token, _ = Sampler([Sampling(1)] * grid, torch.device("cpu"))(logits[:1].expand(grid, -1), uniform)
    found = torch.bincount(token, minlength=size) / grid
    torch.testing.assert_close(
        found, torch.tensor(distribution(logits[0].tolist(), Sampling(1))), atol=2 / grid, rtol=0
    )


def test_the_draw_never_gives_what_has_no_probability() -> None:
    logits = torch.full((2, 400), -torch.inf)
    logits[:, [3, 250]] = torch.tensor([1.0, -30.0])
    sampler = Sampler([Sampling(1)] * 2, torch.device("cpu"))
    assert sampler(logits, torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64))[0].tolist()[0] == 3
    for number in torch.linspace(0, 1 - 2**-53, 50, dtype=torch.float64):
        assert set(sampler(logits, number.expand(2))[0].tolist()) <= {3, 250}


@pytest.mark.parametrize("settings", [{}, {"temperature": 0.0}, {"top_p": 0.5}, {"top_k": 3}])
def test_a_row_that_is_no_number_leaves_its_neighbours_theirs(settings: dict[str, float]) -> None:
    logits, uniform = torch.randn(3, WORDS, generator=torch.Generator().manual_seed(0)), torch.full((3,), 0.4).double()
    sampler = Sampler([Sampling(1, **settings)] * 3, torch.device("cpu"))  # type: ignore[arg-type]
    expected = sampler(logits, uniform)[0]
    for nothing in (torch.nan, torch.inf, -torch.inf):
        broken = logits.clone()
        broken[1] = nothing
        token, _log_prob = sampler(broken, uniform)
        assert token[0] == expected[0]
        assert token[2] == expected[2]
        assert 0 <= int(token[1]) < WORDS


def test_any_one_may_leave_and_the_others_go_on() -> None:
    """Between steps, outside of any mode: whoever moves into the free slot says what it says alone."""
    model = decoder(context=40)
    requests = [Request((1 + n, 2, 3), Sampling(20, temperature=0.9), seed=n) for n in range(4)]
    alone = [GenerationEngine(model, slots=1).run([each])[0].tokens for each in requests]
    for leaves in range(4):
        engine = GenerationEngine(model, slots=4)
        numbers = [engine.add(each) for each in requests]
        written: dict[int, list[int]] = {number: [] for number in numbers}
        for step in range(20):
            if step == 5:
                engine.cancel(numbers[leaves])
            for token in engine.step():
                written[token.request].append(token.token)
        assert len(written[leaves]) == 5
        for number in numbers:
            assert tuple(written[number]) == alone[number][: len(written[number])]
            assert number == leaves or len(written[number]) == 20


def test_weights_that_change_are_the_ones_that_write() -> None:
    """In one engine, between two runs, and the cache is as if it were new."""
    model, sampling = decoder(), Sampling(6, 0.0)
    engine = GenerationEngine(model, slots=4)
    requests = [Request(tuple(prompts().row(i).tolist()), sampling) for i in range(4)]
    before = engine.run(requests)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)))
    engine.flush()
    after = engine.run(requests)
    assert [each.tokens for each in before] != [each.tokens for each in after]
    for i, each in enumerate(after):
        oracle = full_log_probs(model, prompts().row(i), torch.tensor(each.tokens), sampling)
        torch.testing.assert_close(torch.tensor(each.log_probs), oracle, atol=1e-4, rtol=1e-4)
    engine.add(requests[0])
    with pytest.raises(RuntimeError, match="weights changed"):
        engine.flush()


def test_training_mode_is_kept_and_dropout_is_off() -> None:
    model = decoder(dropout=0.5)
    one, other = (generate(model, prompts(), Sampling(6, 0.0)) for _ in range(2))
    assert one.tokens.values.tolist() == other.tokens.values.tolist()
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())


def test_edges() -> None:
    model = decoder()
    none = generate(model, Ragged(torch.empty(0, dtype=torch.int64), torch.tensor([0])), Sampling(3))
    assert len(none.tokens) == 0
    full = generate(model, Ragged.from_rows([torch.ones(20, dtype=torch.int64)]), Sampling(3))
    assert full.tokens.lengths.tolist() == [1], "the context holds one token that is never fed back"
    for length in (0, 21):
        with pytest.raises(DataError, match=f"prompt 1: a prompt of {length} tokens"):
            generate(
                model, Ragged.from_rows([torch.ones(2).long(), torch.ones(length, dtype=torch.int64)]), Sampling(3)
            )


def test_slots_are_refilled_and_groups_share_their_prompt() -> None:
    """More requests than slots, of many lengths, twins among them: each says what it says alone."""
    model = decoder(context=64)
    generator = torch.Generator().manual_seed(2)
    requests = []
    for number in range(23):
        length = int(torch.randint(1, 30, (1,), generator=generator))
        prompt = tuple(torch.randint(0, WORDS, (length,), generator=generator).tolist())
        limit = int(torch.randint(1, 34, (1,), generator=generator))
        twins = 3 if number % 4 == 0 else 1
        requests += [Request(prompt, Sampling(limit, 1.0, stop=(4,)), 100 * number + twin) for twin in range(twins)]
    together = GenerationEngine(model, slots=5).run(requests)
    for request, completion in zip(requests, together):
        alone = GenerationEngine(model, slots=1).run([request])[0]
        assert alone.tokens == completion.tokens
        assert alone.reason == completion.reason
        torch.testing.assert_close(
            torch.tensor(alone.log_probs), torch.tensor(completion.log_probs), atol=1e-4, rtol=1e-4
        )


@pytest.mark.parametrize(
    "options",
    [
        {"window": 5, "pattern": ("local", "global")},
        {"window": 3, "pattern": ("local", "unrotated"), "qk_norm": True, "kv_heads": 1},
        {"kv_heads": 4, "bias": "all", "post_norm": True, "norm_offset": True},
    ],
)  # fmt: skip
def test_every_shape_of_decoder(options: dict[str, object]) -> None:
    """Windows, norms, biases, each number of key-value heads: the log-probs of one full pass."""
    model, sampling = decoder(context=80, **options), Sampling(60, 1.0)
    result = generate(model, prompts(), sampling)
    for i in range(4):
        oracle = full_log_probs(model, prompts().row(i), result.tokens.row(i), sampling)
        torch.testing.assert_close(result.log_probs.row(i), oracle, atol=1e-4, rtol=1e-4)


def test_masks_constraints_watching_and_letting_go() -> None:
    model = decoder()
    allowed = torch.zeros(WORDS, dtype=torch.bool)
    allowed[[2, 5]] = True

    class Alternating:
        """2, 5, 2, 5, ..."""

        turn = 0

        def allowed(self) -> Tensor:
            return torch.arange(WORDS) == (2, 5)[self.turn % 2]

        def advance(self, token: int) -> None:
            self.turn += 1

    seen: list[int] = []

    def watch(token: int) -> bool:
        seen.append(token)
        return len(seen) == 3

    engine = GenerationEngine(model, slots=8)
    requests = [
        Request((1, 2), Sampling(6), 0, allowed=allowed),
        Request((1, 2), Sampling(6), 1, constraint=Alternating()),
        Request((1, 2), Sampling(6), 2, watch=watch),
        Request((1, 2), Sampling(6), 3),
    ]
    found = engine.run(requests)
    assert set(found[0].tokens) <= {2, 5}
    assert found[1].tokens == (2, 5, 2, 5, 2, 5)
    assert found[1].log_probs == pytest.approx([0.0] * 6)
    assert found[2].tokens == tuple(seen)
    assert found[2].reason == "stop"
    assert len(found[3].tokens) == 6
    # Streaming gives the same, and what is let go gives nothing more.
    engine.flush()
    streamed: dict[int, list[int]] = {}
    for token in engine.stream([requests[0], requests[3]]):
        streamed.setdefault(token.request, []).append(token.token)
        if token.request == 1 and len(streamed[1]) == 2:
            engine.cancel(1)
    assert tuple(streamed[0]) == found[0].tokens
    assert tuple(streamed[1]) == found[3].tokens[:2]
    assert engine.idle


@pytest.mark.parametrize(
    "wrong", [{"max_tokens": 0}, {"top_p": 0.0}, {"top_k": 0}, {"temperature": -1.0}, {"min_p": 2.0}]
)
def test_settings_that_mean_nothing_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(RecipeError, match=next(iter(wrong))):
        Sampling(**{"max_tokens": 3, **wrong})  # type: ignore[arg-type]
