"""Augmentation of images beside kornia, on a CPU.

    python -m benchmarks.augment [--runs N] [--threads N]

Batches of three kinds (32 x 3 x 224 x 224, 128 x 3 x 32 x 32, 64 x 1 x 28 x 28) go through each augmentation and
through a chain of them, both sides with the same ranges of parameters. Ours takes and gives bytes, and draws each row's
numbers by hashing its name; kornia takes and gives floats from 0 to 1, which it is given ready-made, and draws from one
generator. Runs are interleaved after a warm-up; times are medians. `ratio` is ours / kornia in images per second; the
bar is 1 for the chain.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn

from reinforge.data.augmentation.augment import Augment
from reinforge.data.augmentation.options import (
    ColourOptions,
    CropOptions,
    CutmixOptions,
    EraseOptions,
    FlipOptions,
    MixupOptions,
    NoiseOptions,
    RotateOptions,
    ScaleOptions,
    ShiftOptions,
)
from reinforge.registry import Options
from reinforge.schema.signature import Input, Output, Signature

SHAPES = ((32, 3, 224, 224), (128, 3, 32, 32), (64, 1, 28, 28))
CLASSES = 10
Trial = Callable[[], object]


def ours(images: Tensor, labels: Tensor, *options: Options) -> Trial:
    """As the loader calls it."""
    block = Input(form="image", shape=tuple(images.shape[1:]))
    signature = Signature(inputs={"image": block}, outputs={"label": Output(form="category", size=CLASSES)})
    augment, rows = Augment(options, signature), torch.arange(len(images))
    batch = {"inputs": {"image": images}, "targets": {"label": labels}}
    return lambda: augment.apply(batch, rows, 0, 0)


def trials(shape: tuple[int, int, int, int]) -> dict[str, tuple[Trial, Trial]]:
    """Ours and kornia's, by name."""
    import kornia.augmentation as k

    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, CLASSES, (shape[0],), generator=generator)
    floats, size = images.float() / 255, (shape[2], shape[3])

    def theirs(*modules: nn.Module) -> Trial:
        chain = nn.Sequential(*modules)
        return lambda: chain(floats)

    def mixed(module: nn.Module) -> Trial:
        return lambda: module(floats, labels)

    erase, rotate, crop = EraseOptions(low=0.02, high=0.2), RotateOptions(degrees=15), CropOptions(area=0.6)
    pairs: dict[str, tuple[Trial, Trial]] = {
        "flip": (ours(images, labels, FlipOptions()), theirs(k.RandomHorizontalFlip(p=0.5))),
        "rotate": (ours(images, labels, rotate), theirs(k.RandomRotation(15.0, p=1.0))),
        "crop": (
            ours(images, labels, crop),
            theirs(k.RandomResizedCrop(size, scale=(0.6, 1.0), ratio=(3 / 4, 4 / 3), cropping_mode="resample")),
        ),
        "noise": (ours(images, labels, NoiseOptions()), theirs(k.RandomGaussianNoise(0.0, 0.05, p=1.0))),
        "erase": (ours(images, labels, erase), theirs(k.RandomErasing(scale=(0.02, 0.2), p=1.0))),
        "mixup": (ours(images, labels, MixupOptions()), mixed(k.RandomMixUpV2(p=1.0, data_keys=["input", "class"]))),
        "cutmix": (
            ours(images, labels, CutmixOptions()),
            mixed(k.RandomCutMixV2(p=1.0, data_keys=["input", "class"])),
        ),
    }
    colour, jitter = ColourOptions(), k.ColorJitter(0.2, 0.2, 0.2, 0.0, p=1.0)
    if shape[1] == 1:
        colour = ColourOptions(saturation=0)
        jitter = nn.Sequential(k.RandomBrightness((0.8, 1.2), p=1.0), k.RandomContrast((0.8, 1.2), p=1.0))
    else:
        hue = ColourOptions(hue=0.1)
        pairs["colour with hue"] = ours(images, labels, hue), theirs(k.ColorJitter(0.2, 0.2, 0.2, 0.1, p=1.0))
    pairs["colour"] = ours(images, labels, colour), theirs(jitter)
    pairs["chain"] = (
        ours(images, labels, FlipOptions(), rotate, ScaleOptions(), ShiftOptions(), colour, NoiseOptions(), erase),
        theirs(
            k.RandomHorizontalFlip(p=0.5),
            k.RandomAffine(15.0, translate=(0.1, 0.1), scale=(0.9, 1.1), p=1.0),
            jitter,
            k.RandomGaussianNoise(0.0, 0.05, p=1.0),
            k.RandomErasing(scale=(0.02, 0.2), p=1.0),
        ),
    )
    return pairs


def measure(pair: tuple[Trial, Trial], runs: int) -> tuple[list[float], list[float]]:
    """Seconds of each run, ours and theirs, interleaved; a run lasts at least 20 ms."""
    counts = []
    for trial in pair:
        trial()
        start = time.perf_counter()
        trial()
        counts.append(max(1, int(0.02 / (time.perf_counter() - start))))
    times: tuple[list[float], list[float]] = ([], [])
    for run in range(runs):
        for side in (0, 1) if run % 2 else (1, 0):
            start = time.perf_counter()
            for _ in range(counts[side]):
                pair[side]()
            times[side].append((time.perf_counter() - start) / counts[side])
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    try:
        import kornia
    except ImportError:
        sys.exit("kornia is not installed: pip install 'reinforge[bench]'")
    warnings.filterwarnings("ignore")
    torch.set_num_threads(arguments.threads)
    rows = []
    for shape in SHAPES:
        print(f"{' x '.join(map(str, shape)):20} {'ours ms':>9} {'kornia ms':>10} {'ratio':>7}  spread of the ratio")
        for name, pair in trials(shape).items():
            own, other = measure(pair, arguments.runs)
            ratio = statistics.median(other) / statistics.median(own)
            each = sorted(b / a for a, b in zip(own, other))
            print(
                f"  {name:18} {1e3 * statistics.median(own):9.2f} {1e3 * statistics.median(other):10.2f} {ratio:6.2f}x"
                f"  {each[len(each) // 4]:.2f} to {each[-1 - len(each) // 4]:.2f}"
            )
            rates = (round(shape[0] / statistics.median(times)) for times in (own, other))
            rows.append(
                {"name": f"{name}, {'x'.join(map(str, shape))}", "ratio": round(ratio, 3)}
                | dict(zip(("ours", "peer"), rates))
                | {"unit": "images/s", "bar": 1.0 if name == "chain" else None}
            )
    versions = f"torch {torch.__version__}, kornia {kornia.__version__}, python {platform.python_version()}"
    print(f"{versions} | {arguments.threads} thread(s) | {platform.processor()}")
    print("python -m benchmarks.augment " + " ".join(sys.argv[1:]))
    print(json.dumps({"name": "augment", "rows": rows}))


if __name__ == "__main__":
    main()
