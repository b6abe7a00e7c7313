"""One step of learning from rewards for completions: ours beside TRL's, on the same Llama shape.

    python -m benchmarks.grpo [--rounds N] [--steps N] [--dtype bf16|fp32] [--threads N] [--processor]

A step is generation, rewards, old log-probabilities and one update: 8 prompts of 32 tokens, 8 completions of each, 64
forced tokens (nothing ends them), beta 0, drawn at temperature 1 without truncation, the same reward (the part of even
tokens), AdamW. Both hold their weights in fp32 and, with bf16, compute under autocast; TRL's GRPOTrainer generates by
transformers. Both take turns, and the first step of each turn is not counted. Medians of the wall clock; with
`--processor`, of the processor, which neighbours disturb less. The last line is JSON.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import statistics
import sys
import tempfile
import time
import warnings
from typing import Any

import torch
import transformers
import trl

from benchmarks.generate import VOCABULARY, ours, theirs
from reinforge.core.contracts import Clock
from reinforge.data.prompts import Prompt
from reinforge.data.text import TextPipeline
from reinforge.engine.loop import Engine
from reinforge.objectives.grpo import GRPO
from reinforge.objectives.reward_options import GRPOOptions
from reinforge.recipe.sections import Learn
from reinforge.schema.signature import Input, Output, Signature
from reinforge.sources.completions import CompletionSource
from reinforge.sources.options import CompletionOptions

PROMPTS, GROUP, TOKENS, LENGTH = 8, 8, 64, 32


class Numbers:
    """Texts are numbers with spaces between them: one token each, for both sides."""

    size = VOCABULARY

    def encode(self, text: str, limit: int | None = None) -> torch.Tensor:
        return torch.tensor([int(word) for word in text.split()][:limit], dtype=torch.int32)

    def decode(self, ids: Any) -> str:
        return " ".join(str(int(each)) for each in ids)

    def offsets(self, text: str, limit: int | None = None) -> torch.Tensor:
        return torch.empty(0, 2)

    def to_json(self) -> dict[str, Any]:
        return {}


class Even:
    """Random numbers; the reward is the part of even ones."""

    alphabet = ""

    def draw(self, generator: torch.Generator) -> Prompt:
        ids = torch.randint(3, VOCABULARY, (LENGTH,), generator=generator).tolist()
        return Prompt(" ".join(map(str, ids)), "")

    def reward(self, prompt: Prompt, completion: str) -> float:
        return even(completion)


def even(text: str) -> float:
    words = text.split()
    return sum(word[-1:] in "02468" for word in words) / max(len(words), 1)


def mine(dtype: torch.dtype, steps: int, clock: Any, threads: int) -> list[float]:
    """Seconds of each of our steps."""
    signature = Signature(
        inputs={"tokens": Input(form="tokens", sizes=(VOCABULARY,))},
        outputs={"tokens": Output(form="tokens", size=VOCABULARY)},
    )
    model = ours(torch.float32).train()
    source = CompletionSource(
        CompletionOptions(prompts=PROMPTS, group=GROUP, max_tokens=TOKENS), task=Even(),
        pipeline=TextPipeline(Numbers()),
    )  # fmt: skip
    source.sampling = type(source.sampling)(TOKENS, 1.0)
    objective = GRPO(GRPOOptions(beta=0.0, mask_truncated=False), signature)
    took: list[float] = []
    taken = source.next

    def marked(at: Clock) -> Any:
        took.append(clock())
        return taken(at)

    source.next = marked  # type: ignore[method-assign]
    learn = Learn.model_validate({
        "batch": PROMPTS * GROUP, "lr": 1e-5, "clip": 1.0, "compile": "off", "threads": threads,
        "precision": "bf16" if dtype == torch.bfloat16 else "fp32", "stop": {"updates": steps + 1},
    })  # fmt: skip
    Engine(objective, model, source, learn=learn).run()
    took.append(clock())
    return [after - before for before, after in itertools.pairwise(took[1:])]


def peers(dtype: torch.dtype, steps: int, clock: Any) -> list[float]:
    """Seconds of each of TRL's steps."""
    import datasets
    from tokenizers import Tokenizer, models, pre_tokenizers

    library = Tokenizer(models.WordLevel({str(number): number for number in range(VOCABULARY)}, unk_token="0"))
    library.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=library, pad_token="0", eos_token="2", padding_side="left"
    )
    draw = random.Random(0)
    rows = [
        {"prompt": " ".join(str(draw.randrange(3, VOCABULARY)) for _ in range(LENGTH))}
        for _ in range(PROMPTS * (steps + 2))
    ]
    took: list[float] = []

    class Watch(transformers.TrainerCallback):
        def on_step_begin(self, *arguments: Any, **keywords: Any) -> None:
            took.append(clock())

        def on_train_end(self, *arguments: Any, **keywords: Any) -> None:
            took.append(clock())

    with tempfile.TemporaryDirectory() as folder:
        config = trl.GRPOConfig(
            output_dir=folder, per_device_train_batch_size=PROMPTS * GROUP, num_generations=GROUP, max_steps=steps + 1,
            max_completion_length=TOKENS, beta=0.0, learning_rate=1e-5, temperature=1.0, top_k=0, top_p=1.0,
            bf16=dtype == torch.bfloat16, use_cpu=True, report_to=[], logging_steps=1000, save_strategy="no",
            gradient_checkpointing=False, disable_tqdm=True, generation_kwargs={"min_new_tokens": TOKENS},
            loss_type="grpo",
        )  # fmt: skip
        trainer = trl.GRPOTrainer(
            theirs(ours(torch.float32), torch.float32).train(), args=config, processing_class=tokenizer,
            train_dataset=datasets.Dataset.from_list(rows), callbacks=[Watch()],
            reward_funcs=lambda completions, **_: [even(each) for each in completions],
        )  # fmt: skip
        trainer.remove_callback(transformers.PrinterCallback)
        trainer.train()
    return [after - before for before, after in itertools.pairwise(took[1:])]


def main() -> None:
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--dtype", choices=("bf16", "fp32"), default="bf16")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--processor", action="store_true", help="processor time, which neighbours disturb less")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    dtype = {"bf16": torch.bfloat16, "fp32": torch.float32}[arguments.dtype]
    clock = time.process_time if arguments.processor else time.perf_counter
    own: list[float] = []
    other: list[float] = []
    for number in range(arguments.rounds):
        for turn in ("ours", "TRL")[:: 1 if number % 2 == 0 else -1]:
            found = (
                mine(dtype, arguments.steps, clock, arguments.threads)
                if turn == "ours"
                else peers(dtype, arguments.steps, clock)
            )
            print(f"round {number} {turn}: {' '.join(f'{each:.2f}' for each in found)} s", file=sys.stderr, flush=True)
            (own if turn == "ours" else other).extend(found)
    a, b = statistics.median(own), statistics.median(other)
    print(f"ours {a:.2f} s a step ({min(own):.2f} to {max(own):.2f})")
    print(f"TRL  {b:.2f} s a step ({min(other):.2f} to {max(other):.2f})  ours {b / a:.2f}x faster (bar 4x)")
    print(f"{arguments.dtype}, {arguments.threads} threads | torch {torch.__version__}, trl {trl.__version__}, "
          f"transformers {transformers.__version__}")  # fmt: skip
    print("python -m benchmarks.grpo " + " ".join(sys.argv[1:]))
    print(json.dumps({"name": "grpo", "ratio": round(b / a, 2), "ours": round(a, 3), "peer": round(b, 3), "unit": "s"}))


if __name__ == "__main__":
    main()
