"""Supervised fine-tuning: ours through the engine beside TRL's SFTTrainer, both packed, on the same documents.

A Llama shape of 13.8 million weights (6 layers, 384 wide, vocabulary 8,192, tied), documents of lognormal lengths
from 16 to 512, packed into 4 rows of 512 tokens an update, AdamW, bf16, the same thread count, CPU. TRL packs by best
fit too, but without FlashAttention its documents see each other; ours never do. Both take turns, and the first update
of each turn is not counted. Seconds of the wall clock, and of the processor, which neighbours disturb less.

    python -m benchmarks.sft [--rounds 3] [--updates 4] [--threads 2]
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
import warnings
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from reinforge.core.contracts import Clock, Experience
from reinforge.core.ragged import Ragged
from reinforge.engine.loop import Engine
from reinforge.engine.options import AdamWOptions
from reinforge.models.decoder import Decoder
from reinforge.models.decoder_options import DecoderOptions
from reinforge.objectives.language import Language
from reinforge.objectives.options import LanguageOptions
from reinforge.recipe.sections import Learn, Stop
from reinforge.schema.signature import Input, Output, Signature
from reinforge.sources.options import TokenOptions
from reinforge.sources.tokens import TokenSource

LAYERS, WIDTH, HEADS, HIDDEN, VOCABULARY = 6, 384, 6, 1024, 8192
BLOCK, BATCH, DOCUMENTS, RATE = 512, 4, 2000, 3e-4
SIGNATURE = Signature(
    inputs={"tokens": Input(form="tokens", sizes=(VOCABULARY,))},
    outputs={"tokens": Output(form="tokens", size=VOCABULARY)},
)
# Real tokens, seconds, seconds of the processor: of each update.
Times = list[tuple[int, float, float]]


def documents() -> list[Tensor]:
    """Random tokens; what they are makes no difference to the time."""
    g = torch.Generator().manual_seed(0)
    lengths = torch.empty(DOCUMENTS).log_normal_(4.6, 0.7, generator=g).clamp(16, BLOCK).int().tolist()
    return [torch.randint(VOCABULARY, (length,), generator=g) for length in lengths]


class TimedSource(TokenSource):
    """Notes when each experience is asked for: from one to the next lies an update."""

    asked: list[tuple[int, float, float]]

    def next(self, clock: Clock) -> Experience:
        experience = super().next(clock)
        self.asked.append((experience.tokens, time.perf_counter(), time.process_time()))
        return experience


class Ours:
    def __init__(self, given: list[Tensor]) -> None:
        options = DecoderOptions(layers=LAYERS, width=WIDTH, heads=HEADS, hidden=HIDDEN, context=BLOCK)
        torch.manual_seed(0)
        self.model = Decoder(options, SIGNATURE)
        self.documents = Ragged.from_rows(given)

    def run(self, updates: int) -> Times:
        source = TimedSource(TokenOptions(block=BLOCK), self.documents, batch=BATCH, seed=0)
        source.asked = []
        learn = Learn(
            batch=BATCH, lr=RATE, precision="bf16", clip=1.0, compile="off", device="cpu",
            optimizer=AdamWOptions(weight_decay=0.01), stop=Stop(updates=updates + 2),
        )  # fmt: skip
        Engine(Language(LanguageOptions(), SIGNATURE), self.model, source, learn=learn).run()
        steps = zip(source.asked[1:], source.asked[2:])
        return [(before[0], after[1] - before[1], after[2] - before[2]) for before, after in steps]


class TRL:
    def __init__(self, given: list[Tensor]) -> None:
        import datasets
        import transformers
        import trl

        config = transformers.LlamaConfig(
            vocab_size=VOCABULARY, hidden_size=WIDTH, intermediate_size=HIDDEN, num_hidden_layers=LAYERS,
            num_attention_heads=HEADS, num_key_value_heads=HEADS, max_position_embeddings=BLOCK,
            tie_word_embeddings=True, use_cache=False,
        )  # fmt: skip
        torch.manual_seed(0)
        self.model = transformers.LlamaForCausalLM(config)
        self.rows = datasets.Dataset.from_list([{"input_ids": row.tolist()} for row in given])
        self.trl, self.transformers = trl, transformers
        self.folder = tempfile.mkdtemp(prefix="benchmark-")

    def run(self, updates: int) -> Times:
        marks: list[tuple[float, float]] = []

        class Watch(self.transformers.TrainerCallback):  # type: ignore[misc, name-defined]
            def on_step_begin(self, *_a: Any, **_k: Any) -> None:
                marks.append((time.perf_counter(), time.process_time()))

            def on_train_end(self, *_a: Any, **_k: Any) -> None:
                marks.append((time.perf_counter(), time.process_time()))

        chosen = self.trl.SFTConfig(
            output_dir=self.folder, max_steps=updates + 1, per_device_train_batch_size=BATCH, packing=True,
            max_length=BLOCK, learning_rate=RATE, weight_decay=0.01, bf16=True, use_cpu=True, report_to="none",
            logging_strategy="no", save_strategy="no", disable_tqdm=True, gradient_checkpointing=False,
            dataset_kwargs={"skip_prepare_dataset": False}, lr_scheduler_type="constant", seed=0,
        )  # fmt: skip
        trainer = self.trl.SFTTrainer(
            model=self.model, args=chosen, train_dataset=self.rows, processing_class=tokenizer(self.transformers),
            callbacks=[Watch()],
        )  # fmt: skip
        packed = trainer.train_dataset
        tokens = BATCH * sum(len(row) for row in packed["input_ids"]) // len(packed)
        trainer.train()
        steps = list(pairwise(marks))[1:]
        return [(tokens, after[0] - before[0], after[1] - before[1]) for before, after in steps]


def tokenizer(transformers: Any) -> Any:
    """One of so many words, for the trainer to hold; the rows are tokens already."""
    from tokenizers import Tokenizer, models

    words = {f"w{number}": number for number in range(VOCABULARY)}
    made = transformers.PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="w0")))
    made.pad_token = made.eos_token = "w0"
    return made


def peak(threads: int) -> float:
    """GFLOP/s of a large product of bf16 matrices, the best of several."""
    a, best = torch.randn(2048, 2048).bfloat16(), 0.0
    for _ in range(8):
        began = time.perf_counter()
        a @ a
        best = max(best, 2 * 2048**3 / (time.perf_counter() - began) / 1e9)
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--updates", type=int, default=4)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    warnings.filterwarnings("ignore")
    given = documents()
    runs: dict[str, Any] = {"ours": Ours(given), "trl": TRL(given)}
    weights = sum(p.numel() for p in runs["ours"].model.parameters())
    assert weights == sum(p.numel() for p in runs["trl"].model.parameters())
    found: dict[str, Times] = {"ours": [], "trl": []}
    product = 0.0
    for number in range(arguments.rounds):
        for name in ("ours", "trl")[:: 1 if number % 2 == 0 else -1]:
            product = max(product, peak(arguments.threads))
            times = runs[name].run(arguments.updates)
            found[name] += times
            rate = sum(t[0] for t in times) / sum(t[1] for t in times)
            print(f"round {number} {name}: {rate:.0f} tokens/s", file=sys.stderr)
    rates = {name: [tokens / seconds for tokens, seconds, _ in times] for name, times in found.items()}
    own = {name: [tokens / seconds for tokens, _, seconds in times] for name, times in found.items()}
    print(f"{'':6} {'tokens/s':>10} {'lowest':>8} {'highest':>8} {'per CPU second':>15}")
    for name in found:
        print(
            f"{name:6} {statistics.median(rates[name]):10.0f} {min(rates[name]):8.0f} {max(rates[name]):8.0f} "
            f"{statistics.median(own[name]):15.0f}"
        )
    ours, peer = statistics.median(rates["ours"]), statistics.median(rates["trl"])
    by_processor = statistics.median(own["ours"]) / statistics.median(own["trl"])
    work = 6 * weights * max(rates["ours"]) / 1e9
    print(f"ratio {ours / peer:.2f}x by the wall clock, {by_processor:.2f}x per second of the processor (bar 3x)")
    print(f"{work:.0f} GFLOP/s at best (6 a weight and token), {work / product:.0%} of a bf16 product's {product:.0f}")
    trl, transformers = runs["trl"].trl, runs["trl"].transformers
    print(
        f"torch {torch.__version__}, trl {trl.__version__}, transformers {transformers.__version__}, python "
        f"{platform.python_version()} | {arguments.threads} threads | {weights:,} weights"
    )
    print("python -m benchmarks.sft " + " ".join(sys.argv[1:]))
    rows = [
        {"name": "sft", "ratio": round(ours / peer, 2), "ours": round(ours), "peer": round(peer), "unit": "tokens/s"},
        {"name": "sft per CPU second", "ratio": round(by_processor, 2), "ours": round(statistics.median(own["ours"])),
         "peer": round(statistics.median(own["trl"])), "unit": "tokens/s"},
    ]  # fmt: skip
    print(json.dumps({"name": "sft", "rows": rows}))


if __name__ == "__main__":
    main()
