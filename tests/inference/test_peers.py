"""Beside transformers' own generate, on the same weights: every supported shape, prompts of several lengths at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from reinforge.bundle.importing import read_model
from reinforge.inference.engine import GenerationEngine
from reinforge.inference.requests import Request
from reinforge.inference.sampling import Sampling
from reinforge.models.decoder import Decoder

pytest.importorskip("transformers")

from tests.export.test_hugging_face import SHAPES, folder_of, pipeline, their_model

PROMPTS = [[5, 9, 77, 120], [200, 3, 3, 17, 40, 41, 8, 90, 6, 11, 12], [4], [31, 30, 29, 28, 27, 26, 25], [9, 9]]
NEW = 16


def written_by(model: Decoder, slots: int) -> list[Any]:
    return GenerationEngine(model, slots=slots).run(Request(tuple(row), Sampling(NEW, 0.0)) for row in PROMPTS)


@pytest.mark.parametrize("shape", SHAPES)
def test_greedy_output_is_that_of_transformers(shape: str, tmp_path: Path) -> None:
    """In fp32: theirs as one batch filled up at the left, ours over fewer slots than prompts. And the log-probabilities
    of what the cache gave are those of one full pass, theirs and ours."""
    theirs = their_model(shape)
    with torch.no_grad():
        for parameter in theirs.parameters():
            if parameter.ndim == 2:
                parameter.mul_(1.5)
    model, _pipeline = read_model(folder_of(theirs, pipeline(), tmp_path))
    model = model.eval()
    longest = max(map(len, PROMPTS))
    ids = torch.tensor([[0] * (longest - len(row)) + row for row in PROMPTS])
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in PROMPTS])
    with torch.no_grad():
        expected = theirs.generate(
            ids, attention_mask=mask, do_sample=False, max_new_tokens=NEW, pad_token_id=0, eos_token_id=None
        )[:, longest:].tolist()
    found = written_by(model, 3)
    assert [list(each.tokens) for each in found] == expected
    assert len({tuple(row) for row in expected}) > 1, "prompts must matter"
    for prompt, completion in zip(PROMPTS, found):
        whole = torch.tensor([[*prompt, *completion.tokens]])
        with torch.no_grad():
            passes = theirs(whole).logits, model({"tokens": whole})[0]["tokens"]
        for logits in passes:
            logs = logits[0, len(prompt) - 1 : -1].log_softmax(-1)
            right = logs.gather(-1, torch.tensor(completion.tokens)[:, None]).squeeze(-1)
            torch.testing.assert_close(torch.tensor(completion.log_probs), right, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("shape", ["llama", "qwen3", "gemma3"])
def test_in_bfloat16_the_cache_stays_near_a_full_pass(shape: str, tmp_path: Path) -> None:
    """Log-probabilities of what is drawn, by cache and by full pass: 0.02 nats apart on average, 0.2 at most, the
    bound that half precision is held to."""
    model, _pipeline = read_model(folder_of(their_model(shape), pipeline(), tmp_path))
    half = model.bfloat16().eval()
    found = GenerationEngine(half, slots=3).run(
        Request(tuple(row), Sampling(NEW, 1.0), seed) for seed, row in enumerate(PROMPTS * 4)
    )
    away = []
    for prompt, completion in zip(PROMPTS * 4, found):
        with torch.no_grad():
            logits = half({"tokens": torch.tensor([[*prompt, *completion.tokens]])})[0]["tokens"]
        logs = logits[0, len(prompt) - 1 : -1].log_softmax(-1)
        right = logs.gather(-1, torch.tensor(completion.tokens)[:, None]).squeeze(-1)
        away.append((torch.tensor(completion.log_probs) - right).abs())
    assert torch.cat(away).mean() < 0.02
    assert torch.cat(away).max() < 0.2
