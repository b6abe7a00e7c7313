"""Every preset of reinforcement learning from five seeds, each policy measured in fresh greedy episodes (100, or what
its recipe says); writes docs/rl/results.md.

It goes on where it stopped: each training is a small file in benchmarks/results/rl, named by preset, seed, version and
a digest of what the recipe says, so a changed recipe is trained anew and nothing else. A training that was interrupted
goes on from its checkpoint. MuJoCo runs take 100,000 steps here, and with --peer Stable-Baselines3 runs beside them, by
the settings of rl-baselines3-zoo, kept by its version.

    python -m benchmarks.rl_table [--only cartpole-dqn ...] [--seeds 5] [--peer] [--minutes 60] [--page]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import platform
import re
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

import reinforge
from reinforge.evaluation.seeds import interquartile_mean, stratified
from reinforge.recipe.loading import SHIPPED

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "rl"
PAGE = ROOT / "docs" / "rl" / "results.md"
RUNS = ROOT / "runs" / "rl-table"
COMMAND = "python -m benchmarks.rl_table"
EPISODES = 100
# Fewer decide nothing.
SEEDS = 5
# What a recipe may change of and still learn the same.
PASSING = ("name", "seed", "seeds", "log", "checkpoint")


class Peer(NamedTuple):
    """An algorithm of Stable-Baselines3, what it is given, environment steps, and the deviation of its actions."""

    algorithm: str
    environment: str
    settings: Mapping[str, Any]
    steps: int
    noise: float | None = None


class Preset(NamedTuple):
    """What its returns must reach (rl-baselines3-zoo's figure; None: there is none), what is changed of the recipe, and
    the peer that is measured instead of a figure."""

    target: float | None = None
    overrides: tuple[str, ...] = ()
    peer: Peer | None = None


MUJOCO = 100_000
# The last policy counts; looks at it on the way cost as much as a tenth of the training.
SHORT = (f"learn.stop.steps={MUJOCO}", "evaluate.every=null")
ZOO_SAC: Mapping[str, Any] = {"learning_starts": 10_000}
ZOO_TD3: Mapping[str, Any] = {
    "learning_starts": 10_000, "learning_rate": 1e-3, "batch_size": 256, "train_freq": 1, "gradient_steps": 1,
    "policy_kwargs": {"net_arch": [400, 300]},
}  # fmt: skip

PRESETS: dict[str, Preset] = {
    "cartpole-dqn": Preset(500),
    "cartpole-ppo": Preset(500),
    "cartpole-rainbow": Preset(),
    "frozenlake-q": Preset(),
    "mountaincar-dqn": Preset(-101),
    "acrobot-dqn": Preset(-77),
    "acrobot-ppo": Preset(-74),
    "pendulum-sac": Preset(-157),
    "pendulum-td3": Preset(-152),
    "doorkey-ppo": Preset(),
    "fetchreach-sac": Preset(),
    "lunarlander-dqn": Preset(154),
    "lunarlander-ppo": Preset(242),
    "lunarlander-sac": Preset(260),
    "halfcheetah-sac": Preset(None, SHORT, Peer("SAC", "HalfCheetah-v5", ZOO_SAC, MUJOCO)),
    "halfcheetah-td3": Preset(None, SHORT, Peer("TD3", "HalfCheetah-v5", ZOO_TD3, MUJOCO, 0.1)),
    "hopper-sac": Preset(None, SHORT, Peer("SAC", "Hopper-v5", ZOO_SAC, MUJOCO)),
    "walker2d-sac": Preset(None, SHORT, Peer("SAC", "Walker2d-v5", ZOO_SAC, MUJOCO)),
}
# Recipes that no CPU trains in an hour or two; `--only` still takes them.
LONG: dict[str, Preset] = {"pong-dqn": Preset()}


@dataclass(frozen=True)
class Result:
    """One training: the mean return of its policy in fresh episodes and their deviation, the rate of success
    where the environment states it, environment steps, seconds of training with its evaluations, and the seconds of
    one processor that all of it took (None where it was killed in between)."""

    preset: str
    who: str
    seed: int
    digest: str
    version: str
    value: float
    deviation: float
    success: float | None
    steps: int
    seconds: float
    processor: float | None
    versions: dict[str, str] = field(default_factory=dict)


def digest(*parts: object) -> str:
    """Of what is said, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]


def recipe_digest(name: str, preset: Preset, folder: Path = SHIPPED) -> str:
    """Of what the recipe's file says, without comments and what does not bear on learning."""
    said = yaml.safe_load((folder / f"{name}.yaml").read_text("utf-8"))
    return digest({key: value for key, value in said.items() if key not in PASSING}, list(preset.overrides))


class Cache:
    """Results as files: NAME/WHO-seedN-DIGEST-VERSION.json."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, name: str, who: str, seed: int, digest: str, version: str) -> Path:
        return self.folder / name / f"{who}-seed{seed}-{digest}-{version}.json"

    def get(self, name: str, who: str, seed: int, digest: str, version: str) -> Result | None:
        path = self.path(name, who, seed, digest, version)
        return Result(**json.loads(path.read_text("utf-8"))) if path.is_file() else None

    def put(self, result: Result) -> None:
        """Keep it, and let go of what the same seed gave by another recipe or version."""
        path = self.path(result.preset, result.who, result.seed, result.digest, result.version)
        path.parent.mkdir(parents=True, exist_ok=True)
        for old in path.parent.glob(f"{result.who}-seed{result.seed}-*.json"):
            old.unlink()
        path.write_text(json.dumps(asdict(result), indent=1) + "\n", "utf-8")

    def newest(self, name: str, who: str, digest: str) -> list[Result]:
        """By seed, those of the newest version that has any of this digest."""
        found = [
            Result(**json.loads(path.read_text("utf-8")))
            for path in sorted((self.folder / name).glob(f"{who}-seed*-{digest}-*.json"))
        ]
        if not found:
            return []
        newest = max(found, key=lambda each: [int(part) for part in re.findall(r"\d+", each.version)]).version
        return sorted((each for each in found if each.version == newest), key=lambda each: each.seed)


class Work(NamedTuple):
    """A training that is to be had, and how."""

    name: str
    who: str
    seed: int
    digest: str
    version: str
    run: Callable[[], Result | None]


def work(presets: Mapping[str, Preset], seeds: int, peer: bool, runs: Path) -> Iterable[Work]:
    """Every training that the table needs, in order: all seeds of a preset, then its peer's."""
    for name, preset in presets.items():
        said = recipe_digest(name, preset)
        for seed in range(seeds):
            yield Work(
                name, "reinforge", seed, said, reinforge.__version__,
                lambda n=name, p=preset, s=seed: ours(n, p, s, runs),
            )  # fmt: skip
        if peer and (rival := preset.peer) is not None:
            for seed in range(seeds):
                yield Work(
                    name, "sb3", seed, digest(rival), version("stable-baselines3"),
                    lambda n=name, r=rival, s=seed: theirs(n, r, s),
                )  # fmt: skip


def fill(cache: Cache, works: Iterable[Work], done: Callable[[Result], None], until: float = math.inf) -> bool:
    """Do what the cache lacks, one by one; whether all was done. None begins after `until` (time.monotonic)."""
    for each in works:
        if cache.get(each.name, each.who, each.seed, each.digest, each.version) is not None:
            continue
        if time.monotonic() >= until:
            return False
        result = each.run()
        if result is None:
            return False
        cache.put(result)
        done(result)
    return True


def ours(name: str, preset: Preset, seed: int, runs: Path) -> Result | None:
    """Train a seed, or go on with it; None where it was interrupted."""
    said = recipe_digest(name, preset)
    folder = runs / f"{name}-{seed}-{said}"
    spent = folder / "processor.json"
    resumed = (folder / "recipe.yaml").is_file()
    before = None if resumed and not spent.is_file() else json.loads(spent.read_text()) if resumed else 0.0
    began = time.process_time()
    if resumed:
        run = reinforge.train(resume=folder)
    else:
        run = reinforge.train(name, [*preset.overrides, f"seed={seed}", "evaluate.clip=false"], output=folder)
    processor = None if before is None else before + time.process_time() - began
    if not run.finished:
        spent.write_text(json.dumps(processor))
        return None
    metrics, clock = run.metrics, run.status["clock"]
    result = Result(
        name, "reinforge", seed, said, reinforge.__version__, metrics["final/return"], metrics["final/return_std"],
        metrics.get("final/success"), clock["steps"], round(clock["seconds"], 1),
        None if processor is None else round(processor, 1), versions("torch", "gymnasium"),
    )  # fmt: skip
    shutil.rmtree(folder)
    return result


def theirs(name: str, peer: Peer, seed: int) -> Result:
    """Train a seed with Stable-Baselines3, and measure it as ours is."""
    import gymnasium as gym
    import stable_baselines3 as sb3
    import torch
    from stable_baselines3.common.evaluation import evaluate_policy
    from stable_baselines3.common.noise import NormalActionNoise

    torch.set_num_threads(1)
    began, used = time.perf_counter(), time.process_time()
    environment = gym.make(peer.environment)
    more: dict[str, Any] = dict(peer.settings)
    # The same arithmetic in one operation, which is sooner done.
    more["policy_kwargs"] = {**more.get("policy_kwargs", {}), "optimizer_kwargs": {"fused": True}}
    if peer.noise is not None:
        size = environment.action_space.shape
        more["action_noise"] = NormalActionNoise(np.zeros(size), np.full(size, peer.noise))
    model = getattr(sb3, peer.algorithm)("MlpPolicy", environment, seed=seed, device="cpu", **more)
    model.learn(peer.steps)
    seconds, used = time.perf_counter() - began, time.process_time() - used
    fresh = sb3.common.env_util.make_vec_env(peer.environment, seed=77_000_000 + seed)
    returns, _ = evaluate_policy(model, fresh, EPISODES, deterministic=True, return_episode_rewards=True)
    return Result(
        name, "sb3", seed, digest(peer), version("stable-baselines3"), float(np.mean(returns)),
        float(np.std(returns)), None, peer.steps, round(seconds, 1), round(used, 1), versions("torch", "gymnasium"),
    )  # fmt: skip


def versions(*names: str) -> dict[str, str]:
    return {name: version(name) for name in names}


class Summary(NamedTuple):
    """Of several seeds: the interquartile mean, its 95% interval (itself where there is one seed), and the values."""

    iqm: float
    low: float
    high: float
    values: tuple[float, ...]


def summary(results: Sequence[Result]) -> Summary:
    values = np.array([each.value for each in results])
    iqm = float(interquartile_mean(values))
    low, high = stratified(values[:, None]).tolist() if len(values) > 1 else (iqm, iqm)
    return Summary(iqm, low, high, tuple(values.tolist()))


def verdict(ours: Summary, target: float | Summary | None) -> str:
    """Whether the interquartile mean reaches the target, and the interval's lower end too (a peer's lower end); "so
    far" where there are fewer than five seeds."""
    if target is None:
        return ""
    mean, low = (target.iqm, target.low) if isinstance(target, Summary) else (target, target)
    said = "reached" if round(ours.low, 1) >= round(low, 1) else "mean only"
    if round(ours.iqm, 1) < round(mean, 1):
        said = "missed"
    return said if len(ours.values) >= SEEDS else f"{said} so far"


HEAD = f"""# Presets, measured

Written by `{COMMAND}`, which goes on where it stopped; don't edit it.

Each preset is trained from seeds 0 to 4, and its policy plays 100 fresh episodes greedily (of Pendulum, MountainCar
and Acrobot 1,000); it is the last policy, or where the recipe monitors the return, the best of its evaluations
([how and why](evaluation.md)). **IQM** is the interquartile mean of the seeds' mean returns, beside it its 95% interval
by stratified bootstrap.
**Target** is the return that rl-baselines3-zoo states for its own preset of that algorithm, of one run: *reached* means
by the IQM and by the interval's lower end, *mean only* by the IQM alone. Its steps are not always ours: of LunarLander
the zoo's DQN takes 100,000, PPO a million and SAC 500,000; of Pendulum 20,000.

Steps, minutes and processor are medians over seeds: environment steps, wall time of training with its evaluations, and
the minutes of one processor that the whole command took. The wall time is of a machine that had much other work: on a
quiet one it is about the processor's.
"""
MUJOCO_HEAD = f"""
## MuJoCo after {MUJOCO:,} steps

The same, of recipes that are made for a million steps, stopped at {MUJOCO:,}; beside them Stable-Baselines3 with the
settings of rl-baselines3-zoo, at the same count, measured alike (`{COMMAND} --peer`). *reached* means at or above it,
IQM by IQM and lower end by lower end.
"""


def page(cache: Cache) -> str:
    """docs/rl/results.md of what the cache has."""
    lines = [HEAD, "| preset | IQM | 95% interval | target | | steps | minutes | processor | each seed | command |"]
    lines.append("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    missing: list[str] = []
    for name, preset in PRESETS.items():
        if preset.peer is None:
            results = cache.newest(name, "reinforge", recipe_digest(name, preset))
            if not results:
                missing.append(name)
                continue
            lines.append(_row(name, results, preset.target, f"`reinforge train {name} --seeds {len(results)}`"))
    lines += [MUJOCO_HEAD, "| preset | who | IQM | 95% interval | | steps | minutes | processor | each seed |"]
    lines.append("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for name, preset in PRESETS.items():
        if preset.peer is None:
            continue
        results = cache.newest(name, "reinforge", recipe_digest(name, preset))
        rivals = cache.newest(name, "sb3", digest(preset.peer))
        if not results:
            missing.append(name)
        for who, found, target in (("ours", results, summary(rivals) if rivals else None), ("SB3", rivals, None)):
            if found:
                lines.append(_rival_row(name, who, found, target))
    if missing:
        lines += ["", f"Not measured yet: {', '.join(f'`{name}`' for name in missing)}."]
    return "\n".join(lines) + "\n" + _footer(cache)


def _row(name: str, results: Sequence[Result], target: float | None, command: str) -> str:
    found = summary(results)
    told = "" if target is None else f"{target:g}"
    cells = [f"`{name}`", _number(found.iqm), _interval(found), told, verdict(found, target), *_costs(results)]
    successes = [each.success for each in results if each.success is not None]
    each = _values(found) + (f"; success {statistics.mean(successes):.2f}" if successes else "")
    return "| " + " | ".join([*cells, each, command]) + " |"


def _rival_row(name: str, who: str, results: Sequence[Result], target: Summary | None) -> str:
    found = summary(results)
    named = f"{who} {results[0].version}" if who == "SB3" else who
    cells = [f"`{name}`", named, _number(found.iqm), _interval(found), verdict(found, target), *_costs(results)]
    return "| " + " | ".join([*cells, _values(found)]) + " |"


def _costs(results: Sequence[Result]) -> list[str]:
    processor = [each.processor for each in results if each.processor is not None]
    return [
        f"{statistics.median(each.steps for each in results):,.0f}",
        f"{statistics.median(each.seconds for each in results) / 60:.1f}",
        f"{statistics.median(processor) / 60:.1f}" if processor else "",
    ]


def _number(value: float) -> str:
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}" if abs(value) < 1000 else f"{value:.0f}"


def _interval(found: Summary) -> str:
    return f"{_number(found.low)} to {_number(found.high)}" if len(found.values) > 1 else "one seed"


def _values(found: Summary) -> str:
    return ", ".join(_number(value) for value in found.values)


def _footer(cache: Cache) -> str:
    """The versions that the results were had with."""
    told: dict[str, set[str]] = {}
    for name, preset in PRESETS.items():
        for each in cache.newest(name, "reinforge", recipe_digest(name, preset)):
            for library, number in {"reinforge": each.version, **each.versions}.items():
                told.setdefault(library, set()).add(number)
    return "\n" + ", ".join(f"{name} {' and '.join(sorted(found))}" for name, found in sorted(told.items())) + ".\n"


def rows(cache: Cache) -> list[dict[str, Any]]:
    """The table for machines; the ratio is above 1 where ours is better, and null where it can't be told."""
    found = []
    for name, preset in PRESETS.items():
        results = cache.newest(name, "reinforge", recipe_digest(name, preset))
        if not results:
            continue
        mine = summary(results)
        rivals = cache.newest(name, "sb3", digest(preset.peer)) if preset.peer is not None else []
        rival = summary(rivals) if rivals else None
        peer = rival.iqm if rival is not None else preset.target
        ratio = None if not peer or mine.iqm * peer <= 0 else mine.iqm / peer if peer > 0 else peer / mine.iqm
        row = {"name": f"rl/{name}", "ratio": ratio and round(ratio, 3), "ours": round(mine.iqm, 3), "peer": peer}
        row |= {"unit": "return", "low": round(mine.low, 3), "high": round(mine.high, 3), "seeds": len(results)}
        found.append({**row, "verdict": verdict(mine, rival if rival is not None else preset.target)})
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = PRESETS | LONG
    parser.add_argument("--only", nargs="+", choices=known, default=list(PRESETS), metavar="PRESET")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--peer", action="store_true", help="run Stable-Baselines3 beside ours, where there is a peer")
    parser.add_argument("--minutes", type=float, default=math.inf, help="begin no training after so many")
    parser.add_argument("--page", action="store_true", help="only write the page of what is there")
    asked = parser.parse_args(arguments)
    cache = Cache(RESULTS)

    def done(result: Result) -> None:
        PAGE.write_text(page(cache), "utf-8")
        print(
            f"{result.preset}, {result.who}, seed {result.seed}: {result.value:.2f} after {result.steps:,} steps,"
            f" {result.seconds:.0f} s ({result.processor or math.nan:.0f} s of a processor)",
            flush=True,
        )

    complete = True
    if not asked.page:
        chosen = {name: known[name] for name in asked.only}
        until = time.monotonic() + 60 * asked.minutes
        try:
            complete = fill(cache, work(chosen, asked.seeds, asked.peer, RUNS), done, until)
        except KeyboardInterrupt:  # where no training listens: while a peer runs, or between two
            complete = False
    PAGE.write_text(page(cache), "utf-8")
    if not complete:
        print(f"not all was trained; the same command goes on: {COMMAND} {' '.join(sys.argv[1:])}", file=sys.stderr)
    told = rows(cache)
    for row in told:
        target = "" if row["peer"] is None else f" against {row['peer']:.1f}: {row['verdict']}"
        print(f"{row['name']:20} {row['ours']:9.2f} ({row['low']:.2f} to {row['high']:.2f}){target}")
    print(f"reinforge {reinforge.__version__}, python {platform.python_version()} | {platform.processor()}")
    print(json.dumps({"name": "rl-table", "rows": told}))
    return 0 if complete else 1


if __name__ == "__main__":
    sys.exit(main())
