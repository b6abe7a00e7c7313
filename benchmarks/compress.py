"""Bundles made smaller by every method, before and after: quality, bytes, milliseconds.

Recipes are trained unless their runs are there. Each method is measured as `reinforge compress --force` does, on the
test split, in fresh episodes, or on held-out questions; what the default tolerance, a point or a hundredth, would
refuse is marked. What was trained and measured is kept under `--runs`, so that the command goes on where it stopped,
until the recipe or a version is another; recipes that are named are measured anew. The table goes into
docs/deploy/compress.md.

    python -m benchmarks.compress [--recipes NAME ...] [--runs FOLDER] [--write]
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

import reinforge
from benchmarks import rl_table
from reinforge.compress.compress import compress
from reinforge.compress.judged import Judged
from reinforge.errors import ReinforgeError
from reinforge.recipe.overrides import nested
from reinforge.workflow.run import Run

PAGE = Path(__file__).parents[1] / "docs" / "deploy" / "compress.md"
BEGIN, END = "<!-- python -m benchmarks.compress --write -->", "<!-- end -->"
TOLERANCE = 0.01
KEEP = 0.4
STORED = ("int8", "int8-static", "int8-weight")


class Case(NamedTuple):
    """A method and its options: how much is kept, updates, and the network that is distilled into."""

    method: str
    keep: float = KEEP
    updates: int | None = None
    model: tuple[str, ...] = ()

    def told(self) -> str:
        """As on the command line."""
        parts = [self.method, *(f"--model {each}" for each in self.model)]
        parts += [f"--keep {self.keep:g}"] if self.keep != KEEP else []
        parts += [f"--updates {self.updates}"] if self.updates is not None else []
        return " ".join(parts)


def cases(*distilled: tuple[str, ...], updates: int, keep: float = KEEP) -> tuple[Case, ...]:
    """All methods, 8 bits with learning too, and each network that is distilled into."""
    learned = (
        Case("int8", updates=updates),
        Case("int8-static", updates=updates),
        Case("prune", keep, updates),
        Case("low-rank", updates=updates),
    )
    return (*map(Case, STORED), *learned, *(Case("distill", updates=updates, model=model) for model in distilled))


CASES: Mapping[str, tuple[Case, ...]] = {
    "penguins": (Case("int8-static"),),
    "mnist-small": (Case("int8-static"),),
    "digits": cases(("encoders.image.width=12",), updates=300, keep=0.45),
    "reviews": cases(("encoders.characters.buckets=100000", "encoders.text.buckets=10000"), updates=300),
    "cartpole-ppo": cases(("sizes=[32]",), ("sizes=[24]",), updates=600),
    "arithmetic-grpo": cases(("width=64",), updates=600),
}
EPISODES = {"cartpole-ppo": 50}
OVERRIDES = ("learn.threads=1",)


@dataclass(frozen=True)
class Row:
    """What came of a case: measured before and after, in one sitting, or why it was refused at once; the digest of
    what was trained, and with which versions."""

    method: str
    digest: str
    versions: Mapping[str, str]
    loss: float = 0.0
    before: Mapping[str, Any] | None = None
    after: Mapping[str, Any] | None = None
    refused: str | None = None


def versions() -> dict[str, str]:
    return {"reinforge": reinforge.__version__, "torch": torch.__version__, "Python": platform.python_version()}


def digest(name: str) -> str:
    """Of what a recipe says, and Reinforge's version."""
    return rl_table.digest(rl_table.recipe_digest(name, rl_table.Preset(overrides=OVERRIDES)), reinforge.__version__)


def kept(runs: Path, name: str) -> list[Row]:
    """What was measured before, of the recipe as it is now and with these versions."""
    file = runs / f"{name}.json"
    stored = json.loads(file.read_text("utf-8")) if file.is_file() else []
    now = {"digest": digest(name), "versions": versions()}
    return [Row(**told) for told in stored if {key: told.get(key) for key in now} == now]


def measure(name: str, case: Case, runs: Path) -> Row:
    """Compress the run's bundle; what is written goes again."""
    told = case.told(), digest(name), versions()
    run = Run(runs / f"{name}-{digest(name)}")
    if not run.finished:
        run = reinforge.train(name, list(OVERRIDES), output=run.folder)
    folder = run.stages[-1].folder if run.stages else run.folder
    output = runs / f"{name}-{case.method}"
    shutil.rmtree(output, ignore_errors=True)
    try:
        found = compress(
            folder, case.method, output, keep=case.keep, updates=case.updates, options=nested(case.model) or None,
            episodes=EPISODES.get(name), tolerance=TOLERANCE, force=True,
        )  # fmt: skip
    except ReinforgeError as error:
        return Row(*told, refused=error.problem)
    finally:
        shutil.rmtree(output, ignore_errors=True)
    return Row(*told, found.loss, asdict(found.before), asdict(found.after))


def table(rows: Mapping[str, Sequence[Row]]) -> str:
    """In Markdown: before and after, as both were measured one after the other."""
    lines = [
        "| recipe | method | quality | weights, bytes | one row, ms | 32 rows, ms | |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, found in rows.items():
        for row in found:
            if row.before is None or row.after is None:
                lines.append(f"| {name} | `{row.method}` | | | | | refused: {row.refused} |")
                continue
            before, after = Judged(**row.before), Judged(**row.after)
            cells = [
                f"{before.metric} {before.quality:.4g} → {after.quality:.4g}",
                f"{before.weights:,} → {after.weights:,} ({before.weights / after.weights:.1f}x smaller)",
                f"{before.milliseconds:.3f} → {after.milliseconds:.3f}",
                f"{before.milliseconds_of_32:.2f} → {after.milliseconds_of_32:.2f}",
                "" if row.loss <= TOLERANCE + 1e-9 else f"refused: {row.loss:.3f} lost",
            ]
            lines.append(f"| {name} | `{row.method}` | {' | '.join(cells)} |")
    missing = [f"{name} `{case.told()}`" for name, chosen in CASES.items() for case in chosen
               if case.told() not in {row.method for row in rows.get(name, ())}]  # fmt: skip
    lines += ["", f"Not measured yet: {', '.join(missing)}."] if missing else []
    return "\n".join(lines)


def stated() -> str:
    """By what it was measured."""
    return ", ".join(f"{name} {number}" for name, number in versions().items()) + f", {platform.machine()}"


def write(rows: Mapping[str, Sequence[Row]], page: Path = PAGE) -> None:
    """Put the table into the page."""
    before, _begin, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _old, _end, after = rest.partition(END)
    page.write_text(f"{before}{BEGIN}\n\n{table(rows)}\n\n{stated()}.\n\n{END}{after}", encoding="utf-8")


def main() -> None:
    """Print the table, and the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipes", nargs="+", default=[], choices=sorted(CASES), metavar="NAME")
    parser.add_argument("--runs", type=Path, default=Path("runs/compress"), metavar="FOLDER")
    parser.add_argument("--write", action="store_true", help="put the table into docs/deploy/compress.md")
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows: dict[str, list[Row]] = {}
    for name, chosen in CASES.items():
        file = given.runs / f"{name}.json"
        known = {} if name in given.recipes else {row.method: row for row in kept(given.runs, name)}
        for case in chosen:
            if case.told() not in known and (not given.recipes or name in given.recipes):
                known[case.told()] = measure(name, case, given.runs)
                file.write_text(json.dumps([asdict(row) for row in known.values()], indent=1) + "\n", "utf-8")
                print(f"{name}: {known[case.told()]}", flush=True)
        rows[name] = [known[case.told()] for case in chosen if case.told() in known]
    if given.write:
        write(rows)
    print(f"\n{table(rows)}\n\n{stated()}: {' '.join(sys.argv)}")
    lines = [
        {
            "name": f"{name}: {row.method}", "ratio": row.before["weights"] / row.after["weights"],
            "ours": row.after["weights"], "peer": row.before["weights"], "unit": "bytes", "loss": row.loss,
        }
        for name, found in rows.items() for row in found if row.before is not None and row.after is not None
    ]  # fmt: skip
    print(json.dumps({"name": "compress", "rows": lines}))


if __name__ == "__main__":
    main()
