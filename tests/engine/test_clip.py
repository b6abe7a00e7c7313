"""Clipping against torch's own, on gradients accumulated over microbatches that point in different directions."""

from __future__ import annotations

import torch

from reinforge.engine.options import SGDOptions
from tests.engine.problems import Rows, engine, network, rows


def test_clips_the_accumulated_gradient_alone() -> None:
    data, reference = rows(), network()
    for start in range(0, 64, 8):
        reference.zero_grad()
        error = reference(data["x"][start : start + 8])[:, 0] - data["y"][start : start + 8]
        error.square().mean().backward()
        norm = torch.nn.utils.clip_grad_norm_(reference.parameters(), 1.0)
        assert norm > 1.0, "it must clip"
        with torch.no_grad():
            for parameter in reference.parameters():
                assert parameter.grad is not None
                parameter -= 0.1 * parameter.grad
    for microbatch in (None, 3, 1):
        model = network()
        learn = {"optimizer": SGDOptions(), "lr": 0.1, "clip": 1.0, "microbatch": microbatch}
        engine(model, updates=8, source=Rows(data, 8), learn=learn).run()
        for own, wanted in zip(model.parameters(), reference.parameters()):
            torch.testing.assert_close(own, wanted, rtol=1e-5, atol=1e-5)
