"""What the engine costs per update, for every slice: the engine beside a bare loop that does the same work by hand.

    python -m benchmarks.overhead [--rounds 7] [--updates 200]

The bare loop takes the same experiences, losses and optimiser (torch.optim, fused), and nothing else: no check for
non-finite gradients, no logs, no stop conditions, no state to resume from. Rounds alternate; times are medians over
rounds of one thread's processor time, in microseconds per update. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from typing import Any

import torch

from reinforge.core.contracts import Clock, Experience
from reinforge.recipe.sections import Log
from tests.slices.catalogue import SLICES, Slice

LR = 1e-3


def engine_seconds(piece: Slice, updates: int) -> float:
    """Seconds per update through the engine, with its log every 50 updates."""
    engine = piece.engine(updates=updates, log=Log(updates=50))
    began = time.thread_time()
    engine.run()
    return (time.thread_time() - began) / updates


def bare_seconds(piece: Slice, updates: int) -> float:
    """Seconds per update of the same work by hand."""
    objective, model, source = piece.build(0, piece.batch)
    torch.manual_seed(0)
    learner: Any = objective.build(model)
    steps = list(objective.steps(learner))
    optimizers = [torch.optim.AdamW(list(step.parameters), lr=LR, fused=True) for step in steps]
    clock, generator, done = Clock(), torch.Generator(), 0
    began = time.thread_time()
    source.publish(learner, clock)
    while done < updates:
        experience = source.next(clock)
        assert isinstance(experience, Experience)
        with torch.no_grad():
            experience = objective.prepare(learner, experience)
        clock.steps += experience.steps
        clock.experiences += 1
        stream = objective.updates(experience, generator, clock)
        batch = next(stream, None)
        while batch is not None and done < updates:
            outcome = one_update(objective, learner, steps, optimizers, batch)
            done += 1
            clock.updates += 1
            with torch.no_grad():
                objective.after_update(learner, clock)
            source.feedback(experience, outcome)
            try:
                batch = stream.send(outcome)
            except StopIteration:
                batch = None
        source.publish(learner, clock)
    return (time.thread_time() - began) / updates


def one_update(objective: Any, learner: Any, steps: Any, optimizers: Any, batch: Any) -> Any:
    """Every step of one update, as a loop by hand would do it."""
    from reinforge.core.contracts import Outcome

    counts = objective.counts(batch)
    means: dict[str, torch.Tensor] = {}
    items: dict[str, torch.Tensor] = {}
    for step, optimizer in zip(steps, optimizers):
        optimizer.zero_grad(set_to_none=True)
        loss = step.loss(learner, batch, counts)
        total = sum(
            term.weight * term.sum / counts[name].clamp(min=1) for name, term in loss.terms.items() if term.weight
        )
        total.backward(inputs=list(step.parameters))
        optimizer.step()
        means.update({f"{step.name}/{name}": term.sum.detach() / counts[name] for name, term in loss.terms.items()})
        items.update(loss.items)
    return Outcome(means, items)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--updates", type=int, default=200)
    parser.add_argument("--slices", nargs="*", default=list(SLICES))
    given = parser.parse_args()
    torch.set_num_threads(1)
    print(f"python -m benchmarks.overhead --rounds {given.rounds} --updates {given.updates}")
    print(f"torch {torch.__version__}, Python {platform.python_version()}, one thread, thread time, medians\n")
    print(f"{'slice':<12} {'engine us':>10} {'bare us':>10} {'engine - bare us':>18} {'spread':>16}")
    rows = []
    for name in given.slices:
        piece = SLICES[name]
        engine_seconds(piece, 20), bare_seconds(piece, 20)
        ours, peer = [], []
        for _ in range(given.rounds):
            ours.append(engine_seconds(piece, given.updates) * 1e6)
            peer.append(bare_seconds(piece, given.updates) * 1e6)
        costs = sorted(a - b for a, b in zip(ours, peer))
        engine, bare, cost = statistics.median(ours), statistics.median(peer), statistics.median(costs)
        print(f"{name:<12} {engine:>10.0f} {bare:>10.0f} {cost:>18.0f} {f'{costs[0]:.0f} to {costs[-1]:.0f}':>16}")
        rows.append({
            "name": f"overhead/{name}", "ratio": round(engine / bare, 4),
            "ours": round(engine, 1), "peer": round(bare, 1), "unit": "us/update",
        })  # fmt: skip
    print(json.dumps({"rows": rows}))


if __name__ == "__main__":
    main()
