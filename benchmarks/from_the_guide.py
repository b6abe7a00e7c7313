"""The guide's Q-learning program on CartPole-v1, and five repairs, each a switch: what does each of them do?

The whole program is `learn` below, plain PyTorch that can be read in one go. With every switch off it is the printed
program, its undefined names filled in and its interface renewed, and nothing else. docs/rl/from-the-guide.md is the
lesson.

    python -m benchmarks.from_the_guide [--seeds 5] [--steps 40000] [--jobs 2] [--figure docs/rl/from-the-guide.svg]

Every run that is done is kept in runs/from-the-guide.json, so a command that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import statistics
import time
from collections import deque
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import nn

from reinforge.evaluation.svg import Plot, colour

GAMMA, RATE, BATCH, KEPT, PERIOD, WARM = 0.99, 1e-3, 64, 20_000, 500, 1_000
EVERY, EPISODES = 1_000, 20
KEEP = Path("runs/from-the-guide.json")


@dataclass(frozen=True)
class Switches:
    """What is repaired."""

    mask: bool = False  # nothing follows a fallen pole; after a time limit something would
    stop: bool = False  # the target is a number to reach: no gradient flows through it
    replay: bool = False  # learn from 64 remembered transitions, instead of from the newest alone
    target: bool = False  # the target comes from a copy of the network, renewed every 500 updates
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


def learn(switches: Switches, seed: int, steps: int) -> dict[str, list[float]]:
    """Greedy mean returns of 20 fresh episodes after every 1,000 environment steps, as `greedy`; and the returns of all
    training episodes, as `training`."""
    torch.manual_seed(seed)
    random.seed(seed)
    network = nn.Sequential(nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2))
    copy = nn.Sequential(nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2))
    copy.load_state_dict(network.state_dict())
    optimizer = torch.optim.Adam(network.parameters(), lr=RATE, fused=True)
    memory: deque[tuple[Any, int, float, Any, bool]] = deque(maxlen=KEPT if switches.replay else 1)
    environment = gym.make("CartPole-v1")
    state, _ = environment.reset(seed=seed)
    total, epsilon = 0.0, 1.0
    curves: dict[str, list[float]] = {"greedy": [], "training": []}
    for step in range(1, steps + 1):
        if switches.schedule:
            epsilon = max(0.05, 1.0 - 0.95 * step / 10_000)
        if random.random() < epsilon:
            action = random.randrange(2)
        else:
            with torch.no_grad():
                action = int(network(torch.as_tensor(state)).argmax())
        following, reward, terminated, truncated, _ = environment.step(action)
        memory.append((state, action, float(reward), following, terminated))
        state, total = following, total + float(reward)
        if terminated or truncated:
            curves["training"].append(total)
            state, _ = environment.reset()
            total = 0.0
            if not switches.schedule:
                epsilon = max(0.05, epsilon * 0.98)

        if not switches.replay or step >= WARM:
            rows = random.choices(memory, k=BATCH) if switches.replay else list(memory)
            states, actions, rewards, followings, ends = (np.array(column) for column in zip(*rows))
            after = (copy if switches.target else network)(torch.as_tensor(followings)).amax(1)
            if switches.mask:
                after = after * torch.as_tensor(~ends)
            goal = torch.as_tensor(rewards, dtype=torch.float32) + GAMMA * after
            if switches.stop:
                goal = goal.detach()
            value = network(torch.as_tensor(states)).gather(1, torch.as_tensor(actions)[:, None])[:, 0]
            loss = (value - goal).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if step % PERIOD == 0:
                copy.load_state_dict(network.state_dict())

        if step % EVERY == 0:
            curves["greedy"].append(greedy(network, seed=1_000_000 + 1_000 * seed + step // EVERY))
    return curves


@torch.no_grad()
def greedy(network: nn.Module, seed: int, episodes: int = EPISODES) -> float:
    """The mean return of fresh episodes, one in each copy of the environment, always taking the best action."""
    environments = gym.make_vec("CartPole-v1", episodes, vectorization_mode="vector_entry_point")
    state, _ = environments.reset(seed=seed)
    total, going = np.zeros(episodes), np.ones(episodes, dtype=np.bool_)
    while going.any():
        state, reward, terminated, truncated, _ = environments.step(network(torch.as_tensor(state)).argmax(1).numpy())
        total += reward * going
        going &= ~(terminated | truncated)
    environments.close()
    return float(total.mean())


def _one(name: str, seed: int, steps: int) -> tuple[str, dict[str, list[float]], float]:
    torch.set_num_threads(1)
    began = time.perf_counter()
    return _key(name, seed, steps), learn(STAGES[name], seed, steps), time.perf_counter() - began


def _key(name: str, seed: int, steps: int) -> str:
    # Whatever decides a run is in its name, so that one of another program is not taken for it.
    return f"{name}, seed {seed}, {steps} steps, {asdict(STAGES[name])}, {[GAMMA, RATE, BATCH, KEPT, PERIOD, WARM]}"


def gather(seeds: int, steps: int, jobs: int) -> dict[str, list[dict[str, list[float]]]]:
    """The curves of every stage and seed; those that are kept are not made again."""
    kept = json.loads(KEEP.read_text()) if KEEP.exists() else {}
    wanted = [(name, seed) for name in STAGES for seed in range(seeds)]
    missing = [one for one in wanted if _key(*one, steps) not in kept]
    with ProcessPoolExecutor(jobs) as pool:
        for done in as_completed([pool.submit(_one, name, seed, steps) for name, seed in missing]):
            key, curves, seconds = done.result()
            kept[key] = curves
            KEEP.parent.mkdir(exist_ok=True)
            KEEP.write_text(json.dumps(kept))
            print(f"  {key.partition(', {')[0]}: {curves['greedy'][-1]:.0f} at the end, {seconds:.0f} s", flush=True)
    return {name: [kept[_key(name, seed, steps)] for seed in range(seeds)] for name in STAGES}


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
    parser.add_argument("--steps", type=int, default=40_000)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--figure", type=Path, help="write the curves there, as SVG")
    given = parser.parse_args()
    found = gather(given.seeds, given.steps, given.jobs)
    print(table(found))
    if given.figure:
        given.figure.write_text(figure(found))
    means = {name: statistics.fmean(map(last, runs)) for name, runs in found.items()}
    rows = [{"name": f"from-the-guide/{name}", "ours": value, "unit": "return"} for name, value in means.items()]
    print(json.dumps({"rows": rows}))


if __name__ == "__main__":
    main()
