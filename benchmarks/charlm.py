"""A character language model: ours through the engine beside transformers' GPT-2 of the same shape in a plain loop.

4 layers, 128 wide, 4 heads, blocks of 64, batch 12, 2,000 updates on Python's own documentation; the same split, AdamW
(decay on matrices alone), warm-up, cosine and clipping, in float32 without dropout. The peer draws its blocks at
random, as such loops do. Bits per character are over the whole validation part, each block read alone. Seconds are of
training.

    python -m benchmarks.charlm [--seeds 3] [--updates 2000] [--threads 2]
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import statistics
import sys
import time
from typing import NamedTuple

import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional

from reinforge.data.options import TextOptions
from reinforge.data.text import TextData, prepare_text
from reinforge.engine.loop import Engine
from reinforge.engine.options import AdamWOptions, CosineOptions
from reinforge.evaluation.text import TextEvaluator
from reinforge.models.decoder import Decoder
from reinforge.models.decoder_options import DecoderOptions
from reinforge.objectives.language import Language
from reinforge.objectives.options import LanguageOptions
from reinforge.recipe.sections import Learn, Stop
from reinforge.sources.options import TokenOptions
from reinforge.sources.tokens import TokenSource

LAYERS, WIDTH, HEADS, BLOCK, BATCH = 4, 128, 4, 64, 12
RATE, FLOOR, WARMUP, DECAY, BETAS, CLIP = 2e-3, 0.1, 100, 0.1, (0.9, 0.99), 1.0
MARGIN = 0.01


class Trial(NamedTuple):
    bits: float
    seconds: float
    parameters: int


def ours(data: TextData, seed: int, updates: int) -> Trial:
    """The engine, with its log, clock and non-finite check."""
    torch.manual_seed(seed)
    signature = data.pipeline.signature
    model = Decoder(DecoderOptions(layers=LAYERS, width=WIDTH, heads=HEADS, context=BLOCK), signature)
    learn = Learn(
        batch=BATCH, lr=RATE, clip=CLIP, compile="off", device="cpu", stop=Stop(updates=updates),
        optimizer=AdamWOptions(betas=BETAS, weight_decay=DECAY),
        schedule=CosineOptions(warmup=WARMUP, floor=FLOOR),
    )  # fmt: skip
    source = TokenSource(TokenOptions(block=BLOCK), data.training, batch=BATCH, seed=seed)
    engine = Engine(Language(LanguageOptions(), signature), model, source, learn=learn, seed=seed)
    start = time.perf_counter()
    engine.run()
    seconds = time.perf_counter() - start
    evaluator = TextEvaluator(data.validation, characters=data.validation_characters, block=BLOCK)
    bits = evaluator.evaluate(engine.learner, engine.clock)["bits_per_character"]
    return Trial(bits, seconds, sum(p.numel() for p in model.parameters()))


def peer(data: TextData, seed: int, updates: int) -> Trial:
    """GPT-2 with attention by SDPA and torch's fused AdamW."""
    torch.manual_seed(seed)
    size = data.pipeline.tokenizer.size
    config = transformers.GPT2Config(
        vocab_size=size, n_positions=BLOCK, n_embd=WIDTH, n_layer=LAYERS, n_head=HEADS, resid_pdrop=0.0,
        embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=None, eos_token_id=None, use_cache=False,
    )  # fmt: skip
    model = transformers.GPT2LMHeadModel(config)
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    others = [p for p in model.parameters() if p.ndim < 2]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": DECAY}, {"params": others, "weight_decay": 0.0}],
        lr=RATE, betas=BETAS, fused=True,
    )  # fmt: skip
    windows = data.training.long().unfold(0, BLOCK + 1, 1)
    model.train()
    start = time.perf_counter()
    for update in range(updates):
        progress = min(max(0.0, (update - WARMUP) / max(updates - WARMUP, 1)), 1.0)
        cosine = FLOOR + (1 - FLOOR) * (1 + math.cos(math.pi * progress)) / 2
        for group in optimizer.param_groups:
            group["lr"] = RATE * ((update + 1) / (WARMUP + 1) if update < WARMUP else cosine)
        window = windows[torch.randint(len(windows), (BATCH,))]
        optimizer.zero_grad(set_to_none=True)
        loss_of(model, window).backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
    seconds = time.perf_counter() - start
    model.eval()
    evaluator = TextEvaluator(data.validation, block=BLOCK)
    with torch.no_grad():
        nats = sum(float(loss_of(model, w.long())) * w[:, 1:].numel() for w in evaluator.windows())
    bits = nats / (len(data.validation) - 1) / math.log(2)
    return Trial(bits, seconds, sum(p.numel() for p in model.parameters()))


def loss_of(model: nn.Module, window: Tensor) -> Tensor:
    """Mean cross-entropy of the tokens after the first."""
    logits = model(window[:, :-1]).logits
    return functional.cross_entropy(logits.flatten(0, 1), window[:, 1:].flatten())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--updates", type=int, default=2000)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    data = prepare_text(TextOptions())
    print(
        f"{data.origin}: sha256 {data.digest}, {len(data.training):,} + {len(data.validation):,} characters, "
        f"{data.pipeline.tokenizer.size} tokens"
    )
    trials: dict[str, list[Trial]] = {"ours": [], "peer": []}
    for run in (ours, peer):
        run(data, 0, 20)  # to warm up
    for seed in range(arguments.seeds):
        # In turn first, so that neither always runs on the warmer machine.
        for name, run in [("ours", ours), ("peer", peer)][:: 1 if seed % 2 == 0 else -1]:
            trial = run(data, seed, arguments.updates)
            trials[name].append(trial)
            print(f"seed {seed} {name}: {trial.bits:.4f} bits per character, {trial.seconds:.1f} s", file=sys.stderr)
    print(
        f"{'':6} {'bits per character':>20} {'lowest':>8} {'highest':>8} {'seconds':>9} {'fastest':>8} {'weights':>9}"
    )
    means = {}
    for name, found in trials.items():
        bits, seconds = [t.bits for t in found], [t.seconds for t in found]
        means[name] = statistics.mean(bits), statistics.median(seconds)
        print(
            f"{name:6} {means[name][0]:20.4f} {min(bits):8.4f} {max(bits):8.4f} {means[name][1]:9.1f} "
            f"{min(seconds):8.1f} {found[0].parameters:9,}"
        )
    ratio = means["ours"][1] / means["peer"][1]
    gap = means["ours"][0] - means["peer"][0]
    met = "met" if gap <= MARGIN and ratio <= 1 else "missed"
    print(f"gap {gap:+.4f} bits (at most {MARGIN:+}), time {ratio:.2f}x (at most 1x): {met}")
    print(
        f"torch {torch.__version__}, transformers {transformers.__version__}, python {platform.python_version()} | "
        f"{arguments.threads} threads | {platform.processor()}"
    )
    print("python -m benchmarks.charlm " + " ".join(sys.argv[1:]))
    (our_bits, our_seconds), (peer_bits, peer_seconds) = means["ours"], means["peer"]
    rows = [
        {"name": "charlm bits per character", "ratio": round(our_bits / peer_bits, 4), "ours": round(our_bits, 4),
         "peer": round(peer_bits, 4), "unit": "bits/character"},
        {"name": "charlm seconds", "ratio": round(ratio, 3), "ours": round(our_seconds, 1),
         "peer": round(peer_seconds, 1), "unit": "s"},
    ]  # fmt: skip
    print(json.dumps({"name": "charlm", "rows": rows}))


if __name__ == "__main__":
    main()
