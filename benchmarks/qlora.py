"""Memory of adapters over frozen weights in bf16 and in 4 bits, and what it costs in time.

Each way is a process of its own: a decoder of `--depth` layers (12: 86 million weights), new, on the chats of
`made:chats`, microbatches of one row of `--block` tokens. `held`: what the process holds between updates, above what it
held before there was a model; `peak`: the most during two updates, above the same. The kernel counts both (VmRSS,
VmHWM). Seconds are processor time of an update. Linux alone. The last line is JSON.

    python -m benchmarks.qlora [--depth N] [--block N] [--rank N] [--everything]
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from reinforge.engine.loop import Engine
from reinforge.models.adapters import parameter_count
from reinforge.recipe import load
from reinforge.workflow.starting import begun
from reinforge.workflow.tasks.assemble import assemble

UPDATES = 2
WAYS = ("everything", "lora", "qlora")


def status(field: str) -> int:
    """Bytes, by the kernel's own count of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(f"{field}:"))) << 10


def measured(way: str, depth: int, block: int, rank: int) -> dict[str, float]:
    """In this process."""
    torch.set_num_threads(1)
    adapter = None if way == "everything" else {"kind": "lora", "rank": rank, "bits": 4 if way == "qlora" else None}
    recipe = load({
        "name": way, "data": {"kind": "chats", "path": "made:chats", "tokenizer": {"kind": "byte-pair", "size": 1024}},
        "model": {"kind": "decoder", "depth": depth, "context": block}, "objective": "language",
        "source": {"kind": "tokens", "block": block}, "start": {"adapter": adapter},
        "learn": {"batch": 2, "microbatch": 1, "precision": "bf16", "compile": "off", "threads": 1,
                  "stop": {"updates": UPDATES}},
    })  # fmt: skip
    before = status("VmRSS")
    task = assemble(recipe)
    with tempfile.TemporaryDirectory() as folder:
        recipe = begun(recipe, task.model, None, Path(folder))
    engine = Engine(task.objective, task.model, task.source, learn=recipe.learn, start=recipe.start, seed=0)
    gc.collect()
    # What was freed goes back to the kernel, and its high-water mark begins anew.
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    start = time.process_time()
    engine.run()
    seconds = (time.process_time() - start) / UPDATES
    peak = status("VmHWM") - before
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    held = status("VmRSS") - before
    found: dict[str, float] = {
        "held": held,
        "peak": peak,
        "seconds": seconds,
        "parameters": parameter_count(task.model),
    }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--depth", type=int, default=12)
    parser.add_argument("--block", type=int, default=256)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--everything", action="store_true", help="and learning all weights")
    parser.add_argument("--way", choices=WAYS, help="one alone, in this process; a line of JSON")
    asked = parser.parse_args()
    if asked.way:
        print(json.dumps(measured(asked.way, asked.depth, asked.block, asked.rank)))
        return
    found = {}
    for way in WAYS if asked.everything else WAYS[1:]:
        command = [sys.executable, "-m", "benchmarks.qlora", "--way", way, "--depth", str(asked.depth)]
        command += ["--block", str(asked.block), "--rank", str(asked.rank)]
        told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        each = found[way] = json.loads(told.splitlines()[-1])
        held, peak = (each[name] / 2**20 for name in ("held", "peak"))
        told = f"{way:11} held {held:6,.0f} MiB, peak {peak:6,.0f} MiB"
        print(f"{told}, {each['seconds']:.2f} s an update", flush=True)
    print(f"{found['lora']['parameters'] / 1e6:.0f}M weights, bf16, one thread | torch {torch.__version__}, "
          f"python {platform.python_version()}")  # fmt: skip
    print("python -m benchmarks.qlora " + " ".join(sys.argv[1:]))
    rows = [
        {"name": f"qlora against lora in bf16, {name}", "ratio": round(found["lora"][name] / found["qlora"][name], 2),
         "ours": round(found["qlora"][name] / 2**20), "peer": round(found["lora"][name] / 2**20), "unit": "MiB"}
        for name in ("held", "peak")
    ]  # fmt: skip
    print(json.dumps({"name": "qlora", "rows": rows}))


if __name__ == "__main__":
    main()
