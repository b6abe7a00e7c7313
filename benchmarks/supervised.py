"""Rows per second of supervised training: ours beside Hugging Face's Trainer, a DataLoader loop and a loop by hand.

An MLP 30-64-64-2 on 50,000 rows, batch 256, one thread, AdamW fused with the same settings everywhere. Every figure is
the median of interleaved runs, each timed over whole epochs after a first one that is not counted (preparations, and
compilation where ours compiles: those seconds are printed apart). The loop by hand does the least that trains: permute,
index, forward, backward, step; ours also checks every gradient for non-finite values, logs and keeps a clock.

    python -m benchmarks.supervised [--runs 5] [--epochs 3]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from reinforge.core.batch import Batch
from reinforge.core.contracts import Clock
from reinforge.engine.loop import Engine
from reinforge.engine.options import AdamWOptions
from reinforge.models.composed import Composed
from reinforge.models.options import ComposedOptions, MLPOptions
from reinforge.objectives.options import SupervisedOptions
from reinforge.objectives.supervised import Supervised
from reinforge.recipe.sections import Learn, Stop
from reinforge.schema.signature import Input, Output, Signature
from reinforge.sources.loader import LoaderSource
from reinforge.sources.options import LoaderOptions

ROWS, FEATURES, WIDTH, CLASSES, BATCH, RATE = 50_000, 30, 64, 2, 256, 1e-3
BARS = {("compiled", "hf_trainer"): 10.0, ("eager", "hf_trainer"): 10.0, ("eager", "by_hand"): 0.85}
# Rows, labels, epochs; the times at which each epoch ended.
Trial = Callable[[Tensor, Tensor, int], list[float]]


def table() -> tuple[Tensor, Tensor]:
    """Numbers (rows, 30) and a class (rows,) that a network can learn from them."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(ROWS, FEATURES, generator=generator)
    score = x[:, 0] * x[:, 1] + x[:, 2] + 0.3 * torch.randn(ROWS, generator=generator)
    return x, (score > 0).long()


def network() -> nn.Module:
    """The network of all but ours, which builds the same from its options."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(FEATURES, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, CLASSES)
    )


def by_hand(x: Tensor, y: Tensor, epochs: int) -> list[float]:
    """A plain loop that indexes tensors by a permutation."""
    net = network()
    optimizer = torch.optim.AdamW(net.parameters(), lr=RATE, fused=True)
    ends = []
    for _ in range(epochs):
        order = torch.randperm(ROWS)
        for i in range(0, ROWS, BATCH):
            index = order[i : i + BATCH]
            optimizer.zero_grad(set_to_none=True)
            functional.cross_entropy(net(x[index]), y[index]).backward()
            optimizer.step()
        ends.append(time.perf_counter())
    return ends


def dataloader(x: Tensor, y: Tensor, epochs: int) -> list[float]:
    """The same loop over torch's DataLoader."""
    net = network()
    optimizer = torch.optim.AdamW(net.parameters(), lr=RATE, fused=True)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=BATCH, shuffle=True)
    ends = []
    for _ in range(epochs):
        for inputs, targets in loader:
            optimizer.zero_grad(set_to_none=True)
            functional.cross_entropy(net(inputs), targets).backward()
            optimizer.step()
        ends.append(time.perf_counter())
    return ends


def hf_trainer(x: Tensor, y: Tensor, epochs: int) -> list[float]:
    """transformers.Trainer over a datasets.Dataset, its companion library, in torch format."""
    import datasets

    return _hf_trainer(datasets.Dataset.from_dict({"x": x.numpy(), "labels": y.numpy()}).with_format("torch"), epochs)


def hf_trainer_tensors(x: Tensor, y: Tensor, epochs: int) -> list[float]:
    """The same over a dataset written by hand that indexes tensors, the fastest that Trainer takes."""

    class Rows(torch.utils.data.Dataset[dict[str, Tensor]]):
        def __len__(self) -> int:
            return ROWS

        def __getitem__(self, index: int) -> dict[str, Tensor]:
            return {"x": x[index], "labels": y[index]}

    return _hf_trainer(Rows(), epochs)


def _hf_trainer(data: object, epochs: int) -> list[float]:
    """Without saving, evaluation or reporting; its default clipping stays on: like our check, it reads the norm."""
    from transformers import Trainer, TrainerCallback, TrainingArguments, default_data_collator
    from transformers.trainer_callback import PrinterCallback

    class Classifier(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = network()

        def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
            logits = self.net(x)
            return {"loss": functional.cross_entropy(logits, labels), "logits": logits}

    ends = []

    class Ends(TrainerCallback):
        def on_epoch_end(self, *arguments: object, **more: object) -> None:
            ends.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder, per_device_train_batch_size=BATCH, num_train_epochs=epochs, learning_rate=RATE, weight_decay=0.01,
            optim="adamw_torch_fused", lr_scheduler_type="constant", save_strategy="no", report_to="none",
            disable_tqdm=True, use_cpu=True, dataloader_pin_memory=False, logging_strategy="no",
        )  # fmt: skip
        trainer = Trainer(Classifier(), arguments, train_dataset=data, data_collator=default_data_collator)
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(Ends())
        trainer.train()
        return ends


class TimedSource(LoaderSource):
    """Notes when each epoch's batches were used up."""

    def __init__(self, data: Batch) -> None:
        super().__init__(LoaderOptions(), data, batch=BATCH)
        self.ends: list[float] = []

    def publish(self, learner: nn.Module, clock: Clock) -> None:
        """After each batch was learned from."""
        if self.epoch > len(self.ends):
            self.ends.append(time.perf_counter())


def eager(x: Tensor, y: Tensor, epochs: int) -> list[float]:
    """Engine.run, with its non-finite check and its log."""
    return _ours(x, y, epochs, "off")


def compiled(x: Tensor, y: Tensor, epochs: int) -> list[float]:
    """The same, compiled."""
    return _ours(x, y, epochs, "on")


def _ours(x: Tensor, y: Tensor, epochs: int, compiled: Literal["on", "off"]) -> list[float]:
    signature = Signature(
        inputs={"numbers": Input(form="numbers", shape=(FEATURES,))},
        outputs={"y": Output(form="category", size=CLASSES)},
    )
    torch.manual_seed(0)
    model = Composed(ComposedOptions(body=MLPOptions(sizes=(WIDTH, WIDTH))), signature)
    source = TimedSource({"inputs": {"numbers": x}, "targets": {"y": y}})
    optimizer, stop = AdamWOptions(decay="all"), Stop(epochs=epochs)
    learn = Learn(batch=BATCH, lr=RATE, optimizer=optimizer, stop=stop, device="cpu", compile=compiled)
    Engine(Supervised(SupervisedOptions(), signature), model, source, learn=learn).run()
    return source.ends


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    x, y = table()
    trials: dict[str, Trial] = {"compiled": compiled, "eager": eager, "by_hand": by_hand, "dataloader": dataloader}
    versions = {"torch": torch.__version__, "python": platform.python_version()}
    try:
        import datasets
        import transformers
    except ImportError:
        print("transformers or datasets is not installed: pip install 'reinforge[bench]'", file=sys.stderr)
    else:
        versions |= {"transformers": transformers.__version__, "datasets": datasets.__version__}
        trials |= {"hf_trainer": hf_trainer, "hf_trainer_tensors": hf_trainer_tensors}
    with tempfile.TemporaryDirectory() as cache:
        # An empty cache, so that the first compilation is a cold one.
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
        rates, compiling = measure(trials, x, y, arguments.runs, arguments.epochs)
    medians = {name: statistics.median(values) for name, values in rates.items()}
    print(f"{'':18} {'rows/s':>10} {'lowest':>10} {'highest':>10} {'compiled is':>12} {'eager is':>10}")
    rows = []
    for name, values in rates.items():
        line = f"{name:18} {medians[name]:10,.0f} {min(values):10,.0f} {max(values):10,.0f}"
        for own, width in (("compiled", 11), ("eager", 9)):
            if name in ("compiled", "eager"):
                continue
            ratio, bar = medians[own] / medians[name], BARS.get((own, name))
            line += f" {ratio:{width}.2f}x"
            row = {"name": f"supervised {own} against {name}", "ratio": round(ratio, 3), "ours": round(medians[own])}
            rows.append({**row, "peer": round(medians[name]), "unit": "rows/s", "bar": bar})
        print(line)
    print(f"compiling took {compiling[0]:.1f} s cold and {statistics.median(compiling[1:]):.1f} s from its cache")
    print(", ".join(f"{name} {version}" for name, version in versions.items()), "| 1 thread |", platform.processor())
    print("python -m benchmarks.supervised " + " ".join(sys.argv[1:]))
    print(json.dumps({"name": "supervised", "rows": rows}))


def measure(
    trials: dict[str, Trial], x: Tensor, y: Tensor, runs: int, epochs: int
) -> tuple[dict[str, list[float]], list[float]]:
    """Rows per second of each trial's runs, interleaved; and the seconds of each compiled run's first epoch."""
    rates: dict[str, list[float]] = {name: [] for name in trials}
    compiling = []
    names = list(trials)
    for run in range(runs + 1):
        # Each run begins with another one, so that nobody always follows the same neighbour.
        shift = run % len(names)
        for name in names[shift:] + names[:shift]:
            start = time.perf_counter()
            ends = trials[name](x, y, epochs + 1)
            if name == "compiled":
                compiling.append(ends[0] - start)
            if run:
                rates[name].append(ROWS * epochs / (ends[epochs] - ends[0]))
    return rates, compiling


if __name__ == "__main__":
    main()
