"""The guide's Q-learning program on CartPole-v1, and five repairs, each a switch: what does each of them do?

The whole program is `learn` below, plain PyTorch that can be read in one go. With every switch off it is the printed
program, its undefined names filled in and its interface renewed, and nothing else. docs/rl/from-the-guide.md is the
lesson. Five seeds learn side by side, which costs little more than one.

    python -m benchmarks.from_the_guide [--seeds 5] [--steps 30000] [--period 50]
        [--jobs 2] [--figure docs/rl/from-the-guide.svg]
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn

from reinforge.evaluation.svg import Plot, colour

GAMMA, RATE, BATCH, KEPT, PERIOD, WARM = 0.99, 1e-3, 64, 20_000, 50, 1_000
EVERY, EPISODES = 1_000, 20


@dataclass(frozen=True)
class Switches:
    """What is repaired."""

    mask: bool = False  # nothing follows a fallen pole; after a time limit something would
    stop: bool = False  # the target is a number to reach: no gradient flows through it
    replay: bool = False  # learn from 64 remembered transitions, instead of from the newest alone
    target: bool = False  # the target comes from a copy of the network, renewed every 50 updates
    schedule: bool = False  # chance falls over 10,000 steps, instead of by 2% with each episode


# Each is the one before it and one repair more.
STAGES = {
    "as printed": Switches(),
    "terminal mask": Switches(mask=True),
    "stopped target": Switches(mask=True, stop=True),
    "replay": Switches(mask=True, stop=True, replay=True),
    "target network": Switches(mask=True, stop=True, replay=True, target=True),
    "schedule": Switches(mask=True, stop=True, replay=True, target=True, schedule=True),
}


class Networks(nn.Module):
    """The guide's network of 4-64-64-2 once for each seed, side by side: (seeds, rows, 4) to (seeds, rows, 2)."""

    def __init__(self, seeds: int) -> None:
        super().__init__()
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for inputs, outputs in ((4, 64), (64, 64), (64, 2)):
            layers = []
            for seed in range(seeds):
                torch.manual_seed(1_000 * seed + outputs + inputs)
                layers.append(nn.Linear(inputs, outputs))
            self.weights.append(torch.stack([layer.weight.detach().T for layer in layers]))
            self.biases.append(torch.stack([layer.bias.detach()[None] for layer in layers]))

    def forward(self, x: Tensor) -> Tensor:
        for index, (weight, bias) in enumerate(zip(self.weights, self.biases)):
            x = torch.baddbmm(bias, x.relu() if index else x, weight)
        return x


def learn(switches: Switches, seeds: int, steps: int, period: int = PERIOD) -> list[dict[str, list[float]]]:
    """For each seed greedy mean returns of 20 fresh episodes after every 1,000 steps, as `greedy`, and the returns of
    all training episodes, as `training`. Seeds learn side by side, each from its own environment, and share nothing."""
    every, network, copy = np.arange(seeds), Networks(seeds), Networks(seeds)
    optimizer = torch.optim.Adam(network.parameters(), lr=RATE, fused=True)
    generators = [np.random.default_rng(seed) for seed in every]
    environments = [gym.make("CartPole-v1") for _ in every]
    state = np.stack([environment.reset(seed=int(seed))[0] for environment, seed in zip(environments, every)])
    # The memory: a ring of transitions for each seed.
    kept = KEPT if switches.replay else 1
    states, followings = np.zeros((2, seeds, kept, 4), np.float32)
    actions, ends = np.zeros((seeds, kept), np.int64), np.zeros((seeds, kept), np.bool_)
    total, epsilon = np.zeros(seeds), np.ones(seeds)
    curves: list[dict[str, list[float]]] = [{"greedy": [], "training": []} for _ in every]
    for step in range(1, steps + 1):
        if switches.schedule:
            epsilon[:] = max(0.05, 1.0 - 0.95 * step / 10_000)
        with torch.no_grad():
            best = network(torch.as_tensor(state)[:, None]).argmax(-1)[:, 0].numpy()
        place = step % kept
        states[:, place] = state
        for seed in every:
            random = generators[seed]
            action = int(random.integers(2)) if random.random() < epsilon[seed] else int(best[seed])
            following, _, terminated, truncated, _ = environments[seed].step(action)
            actions[seed, place], followings[seed, place], ends[seed, place] = action, following, terminated
            state[seed] = following
            total[seed] += 1
            if terminated or truncated:
                curves[seed]["training"].append(total[seed])
                state[seed], total[seed] = environments[seed].reset()[0], 0
                if not switches.schedule:
                    epsilon[seed] = max(0.05, epsilon[seed] * 0.98)

        if not switches.replay or step >= WARM:
            rows = np.zeros((seeds, 1), np.int64)
            if switches.replay:
                rows = np.stack([random.integers(1, min(step, kept), BATCH) for random in generators])
            picked = every[:, None], rows
            after = (copy if switches.target else network)(torch.as_tensor(followings[picked])).amax(-1)
            if switches.mask:
                after = after * torch.as_tensor(~ends[picked])
            goal = 1.0 + GAMMA * after  # every step pays 1
            if switches.stop:
                goal = goal.detach()
            value = network(torch.as_tensor(states[picked])).gather(-1, torch.as_tensor(actions[picked])[..., None])
            # Of each seed the mean; their sum, since they share no weight.
            loss = (value[..., 0] - goal).square().mean(-1).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if step % period == 0:
                copy.load_state_dict(network.state_dict())

        if step % EVERY == 0:
            for curve, mean in zip(curves, greedy(network, seeds, 1_000_000 + step)):
                curve["greedy"].append(float(mean))
    return curves


@torch.no_grad()
def greedy(network: Networks, seeds: int, seed: int) -> np.ndarray[Any, Any]:
    """The mean returns (seeds,) of 20 fresh episodes each, one in each copy of the environment, always taking the best
    action."""
    environments = gym.make_vec("CartPole-v1", seeds * EPISODES, vectorization_mode="vector_entry_point")
    state, _ = environments.reset(seed=seed)
    total, going = np.zeros(seeds * EPISODES), np.ones(seeds * EPISODES, dtype=np.bool_)
    while going.any():
        action = network(torch.as_tensor(state).unflatten(0, (seeds, EPISODES))).argmax(-1).flatten().numpy()
        state, reward, terminated, truncated, _ = environments.step(action)
        total += reward * going
        going &= ~(terminated | truncated)
    environments.close()
    return total.reshape(seeds, EPISODES).mean(1)


def _one(name: str, seeds: int, steps: int, period: int) -> tuple[str, list[dict[str, list[float]]], float]:
    torch.set_num_threads(1)
    began = time.perf_counter()
    return name, learn(STAGES[name], seeds, steps, period), time.perf_counter() - began


def gather(seeds: int, steps: int, period: int, jobs: int) -> dict[str, list[dict[str, list[float]]]]:
    """The curves of every stage and seed."""
    found = {}
    with ProcessPoolExecutor(jobs) as pool:
        for done in as_completed([pool.submit(_one, name, seeds, steps, period) for name in STAGES]):
            name, curves, seconds = done.result()
            found[name] = curves
            each = ", ".join(f"{last(one):.0f}" for one in curves)
            print(f"  {name}: {each} at the end, {seconds:.0f} s", flush=True)
    return {name: found[name] for name in STAGES}


def last(curves: dict[str, list[float]]) -> float:
    """The last ten evaluations together: one alone may hit a lucky moment of a network that swings."""
    return statistics.fmean(curves["greedy"][-10:])


def table(found: dict[str, list[dict[str, list[float]]]]) -> str:
    """A row for each stage: as it is in the page."""
    rows = ["| | training, last 50 episodes | greedy, last ten looks | of each seed |", "| --- | --- | --- | --- |"]
    for number, (name, runs) in enumerate(found.items()):
        training = [statistics.fmean(run["training"][-50:]) for run in runs]
        each = [last(run) for run in runs]
        rows.append(
            f"| {'+ ' if number else ''}{name} "
            f"| {statistics.fmean(training):.0f} ({min(training):.0f} to {max(training):.0f}) "
            f"| {statistics.fmean(each):.0f} | {', '.join(f'{value:.0f}' for value in each)} |"
        )
    return "\n".join(rows)


def figure(found: dict[str, list[dict[str, list[float]]]]) -> str:
    """A panel for each stage: its seeds thin, their mean thick, the stage before it grey."""
    panels, before = [], None
    width, height, columns = 430, 270, 2
    for number, (name, runs) in enumerate(found.items()):
        plot = Plot((0, len(runs[0]["greedy"])), (0, 500), x_name="thousand steps", y_name="greedy mean return")
        mean = [statistics.fmean(values) for values in zip(*(run["greedy"] for run in runs))]
        if before is not None:
            plot.line(list(enumerate(before, 1)), 5, width=1.6, opacity=0.6)
        for run in runs:
            plot.line(list(enumerate(run["greedy"], 1)), 0, width=0.9, opacity=0.45)
        plot.line(list(enumerate(mean, 1)), 1, width=2.6)
        x, y = number % columns * width, number // columns * height
        inner = plot.render().replace("<svg ", f'<svg x="{x + 5}" y="{y + 24}" width="420" height="240" ', 1)
        title = f"{number}. {'+ ' if number else ''}{name}"
        panels.append(
            f'<text x="{x + 12}" y="{y + 17}" font-size="14" font-weight="600" fill="#1f2937">{title}</text>{inner}'
        )
        before = mean
    # A picture of its own has no page whose colours it could take.
    colours = {
        colour(0): "#2b5fc4", colour(1): "#d1661f", colour(5): "#7a818d", "var(--line)": "#e4e2dd",
        "var(--line-strong)": "#b9b6ae", "var(--ink-soft)": "#5b6069",
    }  # fmt: skip
    drawn = "".join(panels)
    for variable, value in colours.items():
        drawn = drawn.replace(variable, value)
    assert not re.search(r"var\(", drawn)
    rows = -(-len(found) // columns)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {columns * width} {rows * height}" '
        f'font-family="system-ui, sans-serif"><rect width="100%" height="100%" fill="#ffffff"/>{drawn}</svg>\n'
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=30_000)
    parser.add_argument("--period", type=int, default=PERIOD, help="updates between two copies of the network")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--figure", type=Path, help="write the curves there, as SVG")
    given = parser.parse_args()
    found = gather(given.seeds, given.steps, given.period, given.jobs)
    print(table(found))
    if given.figure:
        given.figure.write_text(figure(found))
    means = {name: statistics.fmean(map(last, runs)) for name, runs in found.items()}
    rows = [{"name": f"from-the-guide/{name}", "ours": value, "unit": "return"} for name, value in means.items()]
    print(json.dumps({"rows": rows}))


if __name__ == "__main__":
    main()
