"""Generation against full forward passes and against the distribution it must draw from."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch import Tensor

from reinforge.core.ragged import Ragged
from reinforge.errors import DataError
from reinforge.inference.generation import Sampling, draw, generate, truncate
from reinforge.models.decoder import Decoder
from reinforge.models.options import DecoderOptions
from reinforge.schema.signature import Input, Output, Signature

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
    """Of each completion token, from one pass over everything."""
    with torch.no_grad():
        logits = model({"tokens": torch.cat((prompt, completion))[None]})[0]["tokens"][0]
    logits = truncate(logits / (sampling.temperature or 1.0), sampling)
    return logits.log_softmax(-1)[torch.arange(len(completion)) + len(prompt) - 1, completion]


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
    ],
)
def test_log_probs_equal_the_full_pass(sampling: Sampling) -> None:
    model = decoder()
    result = generate(model, prompts(), sampling, torch.Generator().manual_seed(1))
    for i in range(4):
        oracle = full_log_probs(model, prompts().row(i), result.tokens.row(i), sampling)
        torch.testing.assert_close(result.log_probs.row(i), oracle, atol=1e-4, rtol=1e-4)
        assert torch.isfinite(oracle).all(), "a token outside the support was drawn"


def test_rows_end_at_stop_tokens_limits_and_the_context() -> None:
    model = decoder()
    sampling = Sampling(30, 3.0, stop=(4, 7))
    seen = Counter()
    for seed in range(10):
        result = generate(model, prompts(), sampling, torch.Generator().manual_seed(seed))
        for i in range(4):
            row, room = result.tokens.row(i).tolist(), 20 - len(prompts().row(i)) + 1
            assert not {4, 7} & set(row[:-1])
            assert (row[-1] in (4, 7)) == bool(result.stopped[i])
            assert len(row) == room or result.stopped[i]
            seen[bool(result.stopped[i])] += 1
    assert len(seen) == 2, "both endings must occur"


def test_a_row_draws_the_same_whatever_is_beside_it() -> None:
    model, sampling = decoder(), Sampling(8, 1.0, stop=(4,))

    def generators(rows: list[int]) -> list[torch.Generator]:
        return [torch.Generator().manual_seed(10 + i) for i in rows]

    together = generate(model, prompts(), sampling, generators([0, 1, 2, 3]))
    for i in range(4):
        alone = generate(model, prompts().slice(i, i + 1), sampling, generators([i]))
        assert alone.tokens.row(0).tolist() == together.tokens.row(i).tolist()


def test_draws_follow_the_distribution() -> None:
    logits = torch.tensor([[2.0, 1.0, 0.0, -1.0, -2.0]])
    n = 200_000
    uniform = torch.rand(n, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for sampling in (Sampling(1), Sampling(1, 0.5), Sampling(1, 1.0, top_k=2), Sampling(1, 2.0, top_p=0.7)):
        token, log_prob = draw(logits.expand(n, -1), sampling, uniform)
        scaled = (logits[0] / sampling.temperature).softmax(0)
        kept = scaled.clone()
        if sampling.top_k:
            kept[sampling.top_k :] = 0
        if sampling.top_p:
            kept[scaled.cumsum(0) - scaled >= sampling.top_p] = 0
        kept /= kept.sum()
        found = torch.bincount(token, minlength=5) / n
        torch.testing.assert_close(found, kept, atol=0.005, rtol=0)
        torch.testing.assert_close(log_prob.exp(), kept[token])
        assert not found[kept == 0].any()
    edges = draw(logits.expand(2, -1), Sampling(1), torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64))[0]
    assert edges.tolist() == [0, 4]


def test_no_stale_cache_after_a_weight_update() -> None:
    model, sampling = decoder(), Sampling(6, 0.0)
    before = generate(model, prompts(), sampling)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)))
    after = generate(model, prompts(), sampling)
    assert after.tokens.values.tolist() != before.tokens.values.tolist()
    for i in range(4):
        oracle = full_log_probs(model, prompts().row(i), after.tokens.row(i), sampling)
        torch.testing.assert_close(after.log_probs.row(i), oracle, atol=1e-4, rtol=1e-4)


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
