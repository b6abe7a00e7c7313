"""A table larger than one wants in memory: prepared in pieces, and whole where it fits; time and peak memory of each.

Each runs in a process of its own, whose peak is what it holds itself (anonymous memory, sampled; mapped files are the
system's to keep or to drop). The table: numbers with some missing, a category, and a class that follows from them.

    python -m benchmarks.streaming [--rows 10000000] [--columns 10] [--whole]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

PIECE = 250_000


def write(path: Path, rows: int, columns: int) -> None:
    """The table as CSV, written in pieces."""
    import polars as pl

    generator = np.random.default_rng(0)
    with path.open("wb") as file:
        for start in range(0, rows, PIECE):
            count = min(PIECE, rows - start)
            block = generator.normal(size=(count, columns - 1)).round(5)
            score = block[:, 0] - block[:, 1] + generator.normal(size=count)
            frame = {f"x{i}": block[:, i] for i in range(columns - 1)}
            found = pl.DataFrame(frame).with_columns(
                pl.when(pl.Series(generator.random(count) < 0.05)).then(None).otherwise(pl.col("x0")).alias("x0"),
                pl.Series("city", generator.choice(["Rome", "Oslo", "Lima", "Cairo"], count)),
                pl.Series("y", np.where(score > 0, "yes", "no")),
            )
            found.write_csv(file, include_header=start == 0)


def measured(path: Path, output: Path, piece: int | None) -> None:
    """Prepare the table in this process; prints a JSON line."""
    peak, over = 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not over.wait(0.02):
            status = Path("/proc/self/status").read_text()
            peak = max(peak, int(status.split("RssAnon:")[1].split()[0]) << 10)

    from reinforge.workflow.prepare import prepare

    thread = threading.Thread(target=watch)
    thread.start()
    began = time.perf_counter()
    recipe = {
        "name": "streaming", "model": "composed", "objective": "supervised",
        "data": {"kind": "table", "path": str(path), "targets": ["y"], "stream": piece},
    }  # fmt: skip
    found = prepare(recipe, output=output)
    seconds = time.perf_counter() - began
    over.set()
    thread.join()
    print(json.dumps({"seconds": seconds, "peak": peak, "train": found.sides["train"]}))


def run(path: Path, output: Path, piece: int | None) -> dict[str, float]:
    """The same in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.streaming", "--measure", str(path), str(output), str(piece or 0)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Write, prepare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--columns", type=int, default=10)
    parser.add_argument("--whole", action="store_true", help="prepare it whole as well, in memory")
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        path, output, piece = arguments.measure
        measured(Path(path), Path(output), int(piece) or None)
        return
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "table.csv"
        write(path, arguments.rows, arguments.columns)
        size = path.stat().st_size
        print(f"{arguments.rows:,} rows, {arguments.columns + 1} columns, {size / 2**20:,.0f} MiB of CSV")
        rows = []
        for name, piece in (("in pieces", PIECE), ("whole", None)):
            if piece is None and not arguments.whole:
                continue
            found = run(path, Path(folder) / name.replace(" ", "-"), piece)
            rows.append({"name": name, **found, "rows": arguments.rows})
            print(
                f"{name:10} {found['seconds']:7.1f} s  {arguments.rows / found['seconds']:10,.0f} rows/s  "
                f"peak {found['peak'] / 2**20:7,.0f} MiB ({found['peak'] / arguments.rows:.0f} bytes a row)"
            )
        print(json.dumps({"name": "streaming", "rows": rows}))


if __name__ == "__main__":
    main()
