"""The whole road on two recipes, by the commands a user would type: `make demo`.

Prepare, train, evaluate, fine-tune, predict and serve on penguins (labels) and on CartPole (rewards); then a table of
what was done, how long it took and what came out. Ends with status 1 as soon as a command fails; never runs for long.
"""

from __future__ import annotations

import csv
import importlib.resources
import json
import re
import sys
import time
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path

from walking import Row, Walk, serving

# All of it, on two cores.
SECONDS = 235.0


def penguins(demo: Walk) -> None:
    """From a table to a server; on the way, fine-tuning on what another station's instruments measured."""
    run, tuned = demo.folder / "penguins", demo.folder / "penguins-tuned"
    with demo.stage("penguins", "prepare") as result:
        sides = demo.command("prepare", "penguins")["sides"]
        result += [f"{count} {side}" for side, count in sides.items()]
    with demo.stage("penguins", "train") as result:
        metrics = demo.command("train", "penguins", "-o", run)["metrics"]
        result.append(f"test accuracy {metrics['test/accuracy']:.3f}")
    with demo.stage("penguins", "evaluate") as result:
        result.append(f"test accuracy {demo.command('evaluate', run)['accuracy']:.3f}")
    new, held_out, unlabelled = _other_station(demo.folder)
    with demo.stage("penguins", "fine-tune") as result:
        before = demo.command("evaluate", run, "--data", held_out)["accuracy"]
        demo.command("train", "penguins", f"data.path={new}", "--from", run / "bundle", "-o", tuned)
        after = demo.command("evaluate", tuned, "--data", held_out)["accuracy"]
        result.append(f"another station's birds: accuracy {before:.3f} before, {after:.3f} after")
    with demo.stage("penguins", "predict") as result:
        predictions = demo.folder / "predictions.csv"
        done = demo.command("predict", tuned, "--data", unlabelled, "-o", predictions)
        result.append(f"{done['rows']} rows to {predictions.name}")
    with demo.stage("penguins", "serve") as result:
        row = next(csv.DictReader(unlabelled.open(encoding="utf-8")))
        result.append(_serve(demo, tuned, row, "species"))


def cartpole(demo: Walk) -> None:
    """From rewards to a server; fine-tuning goes on from the bundle with other episodes."""
    run, tuned = demo.folder / "cartpole", demo.folder / "cartpole-tuned"
    with demo.stage("cartpole-dqn", "prepare") as result:
        facts = demo.command("prepare", "cartpole-dqn")
        result.append(f"random actions return {facts['random_return']:.1f}")
    with demo.stage("cartpole-dqn", "train") as result:
        metrics = demo.command("train", "cartpole-dqn", "-o", run)["metrics"]
        result.append(f"return {metrics['final/return']:.1f} after {_updates(run)} updates")
    with demo.stage("cartpole-dqn", "evaluate") as result:
        measured = demo.command("evaluate", run, "--episodes", "50")
        result.append(f"return {measured['return']:.1f}, least {measured['return_min']:.0f}")
    with demo.stage("cartpole-dqn", "fine-tune") as result:
        changes = ("seed=1", "source.epsilon.start=0.05")
        metrics = demo.command("train", "cartpole-dqn", *changes, "--from", run / "bundle", "-o", tuned)["metrics"]
        result.append(f"other episodes: return {metrics['final/return']:.1f} after {_updates(tuned)} updates")
    observations = demo.folder / "observations.jsonl"
    rows = [{"observation": [0.0, 0.0, angle, 5 * angle]} for angle in (-0.1, 0.1)]
    observations.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    with demo.stage("cartpole-dqn", "predict") as result:
        actions = demo.folder / "actions.csv"
        demo.command("predict", run, "--data", observations, "-o", actions)
        found = [row["action"] for row in csv.DictReader(actions.open(encoding="utf-8"))]
        result.append(f"pole falling left: push {found[0]}, right: push {found[1]}")
    with demo.stage("cartpole-dqn", "serve") as result:
        result.append(_serve(demo, run, rows[0], "action"))


def _updates(run: Path) -> str:
    clock: Row = json.loads((run / "run.json").read_text("utf-8"))["clock"]
    return f"{clock['updates']:,}"


def _other_station(folder: Path) -> tuple[Path, Path, Path]:
    """The penguins as another station would have measured them: to train on, to test on, and without species.

    Its rulers read bills 8 mm and flippers 10 mm longer, its scales a tenth more.
    """
    source = importlib.resources.files("palmerpenguins") / "data" / "penguins.csv"
    with importlib.resources.as_file(source) as path, path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    measured = {"bill_length_mm": (1.0, 8.0), "flipper_length_mm": (1.0, 10.0), "body_mass_g": (1.1, 0.0)}
    for row in rows:
        for name, (factor, offset) in measured.items():
            if re.fullmatch(r"[\d.]+", row[name]):
                row[name] = f"{float(row[name]) * factor + offset:.1f}"
    held_out = rows[::3]
    new = [row for index, row in enumerate(rows) if index % 3]
    without = [{name: value for name, value in row.items() if name != "species"} for row in held_out]
    written = []
    for name, part in (("new.csv", new), ("held-out.csv", held_out), ("unlabelled.csv", without)):
        with (folder / name).open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(part[0]))
            writer.writeheader()
            writer.writerows(part)
        written.append(folder / name)
    return written[0], written[1], written[2]


def _serve(demo: Walk, run: Path, row: Mapping[str, object], output: str) -> str:
    """Start a server on a free port, send it one request over HTTP, and stop it."""
    with serving(demo, run) as (address, path):
        body = json.dumps({"rows": [row]}).encode()
        print(f"$ curl {address}{path} -d '{body.decode()}'", flush=True)
        asked = urllib.request.Request(address + path, body, {"Content-Type": "application/json"})
        began = time.perf_counter()
        with urllib.request.urlopen(asked, timeout=10) as answer:
            text = answer.read().decode()
        took = time.perf_counter() - began
        print(text, flush=True)
        predicted = json.loads(text)["predictions"][0][output]
        value = predicted.get("label", predicted.get("action"))
        return f"{output} {value} by HTTP in {took * 1000:.1f} ms"


def main(arguments: Sequence[str]) -> int:
    """Walk the road; the runs stay in `runs/demo-TIME`, or in the folder given."""
    folder = Path(arguments[0]) if arguments else Path("runs") / time.strftime("demo-%Y%m%d-%H%M%S")
    folder.mkdir(parents=True)
    demo = Walk(folder, SECONDS)
    penguins(demo)
    cartpole(demo)
    print(f"\n{demo.table()}\n\nThe runs, each with its report.html: {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
