"""Decoding a folder of JPEGs: ours with several threads beside a plain loop over Pillow.

    python -m benchmarks.decode [--images N] [--threads N] [--runs N]

Photographs are drawn (640 x 480, smooth shapes with grain, quality 90) into a temporary folder and read to
3 x 224 x 224. The loop opens, converts, resizes and copies, and checks nothing. Runs are interleaved; the figures are
medians. The last line is JSON; `ratio` is ours / loop in images per second, for one thread and for several.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import PIL
from PIL import Image

from reinforge.data.images import decode_all, usable_cores

SIZE = (224, 224)


def photographs(folder: Path, count: int) -> list[Path]:
    """So many files."""
    generator = np.random.default_rng(0)
    paths = []
    for number in range(count):
        coarse = Image.fromarray(generator.integers(0, 256, (6, 8, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((640, 480), Image.Resampling.BICUBIC)).astype(np.int16)
        grain = generator.normal(0, 6, smooth.shape).astype(np.int16)
        paths.append(folder / f"{number:05}.jpg")
        Image.fromarray(np.clip(smooth + grain, 0, 255).astype(np.uint8)).save(paths[-1], quality=90)
    return paths


def loop(paths: list[Path]) -> None:
    """By hand."""
    out = np.empty((len(paths), 3, *SIZE), np.uint8)
    for row, path in enumerate(paths):
        with Image.open(path) as image:
            small = image.convert("RGB").resize(SIZE[::-1], Image.Resampling.BILINEAR)
        out[row] = np.asarray(small).transpose(2, 0, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--threads", type=int, default=usable_cores())
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        paths = photographs(Path(folder), arguments.images)
        trials: dict[str, Callable[[], object]] = {
            "loop": lambda: loop(paths),
            "1 thread": lambda: decode_all(paths, SIZE, threads=1),
            f"{arguments.threads} threads": lambda: decode_all(paths, SIZE, threads=arguments.threads),
        }
        rates: dict[str, list[float]] = {name: [] for name in trials}
        for run in range(arguments.runs + 1):
            for name, trial in trials.items():
                start = time.perf_counter()
                trial()
                if run:
                    rates[name].append(len(paths) / (time.perf_counter() - start))
    peer = statistics.median(rates["loop"])
    rows = []
    for name, values in rates.items():
        own = statistics.median(values)
        print(f"{name:12} {own:8,.0f} images/s ({min(values):,.0f} to {max(values):,.0f})  {own / peer:.2f}x the loop")
        if name != "loop":
            rows.append({"name": f"decode, {name}", "ratio": round(own / peer, 3), "ours": round(own)})
            rows[-1] |= {"peer": round(peer), "unit": "images/s"}
    print(f"pillow {PIL.__version__}, python {platform.python_version()} | {platform.processor()}")
    print("python -m benchmarks.decode " + " ".join(sys.argv[1:]))
    print(json.dumps({"name": "decode", "rows": rows}))


if __name__ == "__main__":
    main()
