"""Generation: our engine beside transformers' generate, on the same weights.

    python -m benchmarks.generate [--runs N] [--dtype bf16|fp32] [--tokens N] [--batch N] [--threads N] [--processor]
        [--only equal|ragged|alone] [--profile]

A Llama shape of 13.8M parameters (6 layers, 384 wide, 6 heads, vocabulary 8,192), new weights, the same in both.
Equal: a batch of 32 prompts of 32 tokens, 128 new tokens each, drawn at temperature 1. Ragged: 96 prompts of 8 to 64
tokens that get 16 to 256 new tokens (lognormal); the peer takes them in batches of 32, longest first, filled up at the
left, and each batch ends with its longest; only tokens that were asked for count. Alone: one prompt. Runs are
interleaved, figures are medians. `bandwidth`: bytes of weights and cache that decoding one prompt must read, per
second, as part of what this machine reads at most (a copy-free sum over 256 MB). The last line is JSON.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import math
import platform
import pstats
import random
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
import transformers

from reinforge.inference.engine import GenerationEngine
from reinforge.inference.requests import Request
from reinforge.inference.sampling import Sampling
from reinforge.models.decoder import Decoder
from reinforge.models.decoder_options import DecoderOptions
from reinforge.schema.signature import Input, Output, Signature

LAYERS, WIDTH, HEADS, HIDDEN, VOCABULARY, CONTEXT = 6, 384, 6, 1024, 8192, 512


def ours(dtype: torch.dtype) -> Decoder:
    """The decoder."""
    torch.manual_seed(0)
    signature = Signature(
        inputs={"tokens": Input(form="tokens", sizes=(VOCABULARY,))},
        outputs={"tokens": Output(form="tokens", size=VOCABULARY)},
    )
    options = DecoderOptions(layers=LAYERS, width=WIDTH, heads=HEADS, hidden=HIDDEN, context=CONTEXT)
    return Decoder(options, signature).to(dtype).eval()


def theirs(model: Decoder, dtype: torch.dtype) -> Any:
    """transformers' Llama with the same weights."""
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=WIDTH, intermediate_size=HIDDEN, num_hidden_layers=LAYERS,
        num_attention_heads=HEADS, num_key_value_heads=HEADS, max_position_embeddings=CONTEXT, rms_norm_eps=1e-6,
        tie_word_embeddings=True, bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    peer = transformers.LlamaForCausalLM(config)
    weights = {"model.embed_tokens.weight": model.embedding.weight, "model.norm.weight": model.norm.weight}
    for layer, block in enumerate(model.blocks):
        state = block.state_dict()
        q, k, v = state["attention.qkv.weight"].chunk(3)
        gate, up = state["feed_forward.gate_up.weight"].chunk(2)
        named = {
            "input_layernorm": state["attention_norm.weight"], "self_attn.q_proj": q, "self_attn.k_proj": k,
            "self_attn.v_proj": v, "self_attn.o_proj": state["attention.out.weight"],
            "post_attention_layernorm": state["feed_forward_norm.weight"], "mlp.gate_proj": gate, "mlp.up_proj": up,
            "mlp.down_proj": state["feed_forward.down.weight"],
        }  # fmt: skip
        weights |= {f"model.layers.{layer}.{name}.weight": value for name, value in named.items()}
    missing = peer.load_state_dict(weights, strict=False)
    assert missing.missing_keys in ([], ["lm_head.weight"]), missing
    return peer.to(dtype).eval()


def peer_generate(peer: Any, prompts: list[list[int]], tokens: int, *, sample: bool = True) -> Any:
    """One batch, filled up at the left."""
    longest = max(map(len, prompts))
    ids = torch.tensor([[0] * (longest - len(row)) + row for row in prompts])
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in prompts])
    return peer.generate(
        ids, attention_mask=mask, do_sample=sample, temperature=1.0 if sample else None, top_k=0 if sample else None,
        max_new_tokens=tokens, min_new_tokens=tokens, pad_token_id=0, eos_token_id=None,
    )  # fmt: skip


def bandwidth(clock: Callable[[], float]) -> float:
    """Bytes per second that this machine reads, at best."""
    block = torch.ones(64 << 20, dtype=torch.float32)
    took = []
    for _ in range(5):
        start = clock()
        block.sum()
        took.append(clock() - start)
    return block.nbytes / min(took)


def timed(trials: dict[str, Callable[[], object]], runs: int, clock: Callable[[], float]) -> dict[str, list[float]]:
    """Seconds of each trial, interleaved, without the first round."""
    took: dict[str, list[float]] = {name: [] for name in trials}
    for run in range(runs + 1):
        for name, trial in trials.items():
            start = clock()
            trial()
            if run:
                took[name].append(clock() - start)
    return took


def main() -> None:
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--dtype", choices=("bf16", "fp32"), default="bf16")
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--processor", action="store_true", help="processor time, which neighbours disturb less")
    parser.add_argument("--only", choices=("equal", "ragged", "alone"), action="append")
    parser.add_argument("--profile", action="store_true", help="only where our equal batch spends its time")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    clock = time.process_time if arguments.processor else time.perf_counter
    dtype = {"bf16": torch.bfloat16, "fp32": torch.float32}[arguments.dtype]
    model = ours(dtype)
    peer = theirs(model, dtype)
    draw, batch, tokens = random.Random(0), arguments.batch, arguments.tokens

    def prompt(length: int) -> list[int]:
        return [draw.randrange(3, VOCABULARY) for _ in range(length)]

    equal = [prompt(32) for _ in range(batch)]
    ragged = [prompt(draw.randint(8, 64)) for _ in range(3 * batch)]
    limits = [min(max(round(draw.lognormvariate(math.log(64), 0.8)), 16), 256) for _ in ragged]

    engines: dict[int, GenerationEngine] = {}

    def write(prompts: list[list[int]], each: list[int], slots: int) -> object:
        if slots not in engines:
            engines[slots] = GenerationEngine(model, slots=slots)
        engine = engines[slots]
        engine.flush()
        return engine.run(Request(tuple(p), Sampling(n), i) for i, (p, n) in enumerate(zip(prompts, each)))

    def batches() -> None:
        order = sorted(range(len(ragged)), key=lambda i: -limits[i])
        for start in range(0, len(order), batch):
            part = order[start : start + batch]
            with torch.inference_mode():
                peer_generate(peer, [ragged[i] for i in part], max(limits[i] for i in part))

    def arrived() -> None:
        for start in range(0, len(ragged), batch):
            with torch.inference_mode():
                peer_generate(peer, ragged[start : start + batch], max(limits[start : start + batch]))

    def peer_once(prompts: list[list[int]]) -> object:
        with torch.inference_mode():
            return peer_generate(peer, prompts, tokens)

    settings: dict[str, tuple[int, dict[str, Callable[[], object]]]] = {
        "equal": (batch * tokens, {
            "ours": lambda: write(equal, [tokens] * batch, batch), "peer": lambda: peer_once(equal),
        }),
        "ragged": (sum(limits), {
            "ours": lambda: write(ragged, limits, batch), "peer": arrived, "peer, sorted by length": batches,
        }),
        "alone": (tokens, {
            "ours": lambda: write(equal[:1], [tokens], 1), "peer": lambda: peer_once(equal[:1]),
        }),
    }  # fmt: skip
    if arguments.profile:
        ours_equal = settings["equal"][1]["ours"]
        for profile in (None, cProfile.Profile(clock)):
            ours_equal()
            start = clock()
            if profile is None:
                ours_equal()
                print(f"{1e3 * (clock() - start) / tokens:.2f} ms a step")
            else:
                profile.runcall(ours_equal)
                pstats.Stats(profile).sort_stats("tottime").print_stats(8)
        return
    rows = []
    for name, (total, trials) in settings.items():
        if arguments.only and name not in arguments.only:
            continue
        rates = {who: [total / took for took in each] for who, each in timed(trials, arguments.runs, clock).items()}
        own = statistics.median(rates["ours"])
        for who, values in rates.items():
            each = statistics.median(values)
            ratio = "" if who == "ours" else f"  ours {own / each:.2f}x"
            print(f"{name:7} {who:22} {each:8,.0f} tokens/s ({min(values):,.0f} to {max(values):,.0f}){ratio}")
        rows.append({
            "name": f"generate, {name}", "ratio": round(own / statistics.median(rates["peer"]), 2), "ours": round(own),
            "peer": round(statistics.median(rates["peer"])), "unit": "tokens/s",
        })  # fmt: skip
        if name == "alone":
            read = sum(p.nbytes for p in model.parameters()) + LAYERS * 2 * WIDTH * (32 + tokens / 2) * dtype.itemsize
            most = bandwidth(clock)
            print(f"        bandwidth {read * own / 1e9:.1f} of {most / 1e9:.1f} GB/s: {read * own / most:.0%}")
            rows[-1]["bandwidth"] = round(read * own / most, 3)
    parameters = sum(p.numel() for p in model.parameters()) / 1e6
    print(f"{parameters:.1f}M parameters, {arguments.dtype}, {arguments.threads} threads | torch {torch.__version__}, "
          f"transformers {transformers.__version__}, python {platform.python_version()}")  # fmt: skip
    print("python -m benchmarks.generate " + " ".join(sys.argv[1:]))
    print(json.dumps({"name": "generate", "rows": rows}))


if __name__ == "__main__":
    main()
