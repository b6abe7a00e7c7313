"""Beside transformers' own generate, on the same weights."""

from __future__ import annotations

import pytest
import torch

from benchmarks.generate import ours, peer_generate, theirs
from reinforge.inference.engine import GenerationEngine
from reinforge.inference.requests import Request
from reinforge.inference.sampling import Sampling


def test_greedy_output_and_logits_are_those_of_transformers() -> None:
    """A Llama shape in fp32, rows of one length at once and of others one by one."""
    pytest.importorskip("transformers")
    model = ours(torch.float32)
    with torch.no_grad():
        # New weights hardly tell tokens apart; larger ones do.
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(3)
    peer = theirs(model, torch.float32)
    prompts = [[5, 9, 77, 1200], [8000, 3, 3, 17], [4, 5, 6, 7]]
    expected = peer_generate(peer, prompts, 12, sample=False)[:, 4:]
    requests = [Request(tuple(row), Sampling(12, 0.0)) for row in prompts]
    found = GenerationEngine(model, slots=2).run(requests)
    assert [list(each.tokens) for each in found] == expected.tolist()
    with torch.no_grad():
        theirs_logits = peer(torch.tensor(prompts)).logits
        torch.testing.assert_close(
            model({"tokens": torch.tensor(prompts)})[0]["tokens"], theirs_logits, atol=1e-4, rtol=1e-4
        )
    longer = [11, 12, 13, 14, 15, 16, 17]
    expected = peer_generate(peer, [longer], 12, sample=False)[:, 7:]
    assert (
        list(GenerationEngine(model).run([Request(tuple(longer), Sampling(12, 0.0))])[0].tokens) == expected[0].tolist()
    )
