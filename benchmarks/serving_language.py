"""A language model behind HTTP: 32 clients that stream, against the same server that writes one text at a time.

    python -m benchmarks.serving_language [--rounds 3] [--tokens 64] [--dtype bf16|fp32]

A Llama shape of 13.8M parameters (6 layers, 384 wide, 6 heads, vocabulary 8,192) with new weights. Each client sends a
prompt of 32 tokens of its own to /v1/completions, streams `--tokens` tokens, and does so twice. One at a time means one
slot in the engine, everything else the same: what a server gives that answers a request before it takes the next. Time
to first token runs from sending the request to the first event with text, while all 32 are at work; beside it, that of
a lone client. Runs are interleaved, a server is started for each; figures are medians of the rounds. The last line is
JSON. `python -m benchmarks.serving` runs this after its own part.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch

from benchmarks._servers import free_port, started
from benchmarks.generate import CONTEXT, HEADS, HIDDEN, LAYERS, VOCABULARY, WIDTH, ours
from reinforge.bundle.text_form import TextForm
from reinforge.bundle.writing import write_bundle
from reinforge.data.text import CharacterTokenizer, TextPipeline
from reinforge.models.decoder_options import DecoderOptions

CLIENTS, TURNS, PROMPT = 32, 2, 32
_FIRST = 0x4E00
SERVER = """
import sys
import reinforge
from reinforge.serving.limits import Limits

limits = Limits(slots=int(sys.argv[3]), wait=600)
reinforge.serve({"model": sys.argv[1]}, port=int(sys.argv[2]), limits=limits)
"""


@dataclass(frozen=True)
class Trial:
    """Tokens per second of all clients together, and each request's seconds to its first token."""

    rate: float
    first: list[float]


def bundle(folder: Path, dtype: torch.dtype) -> None:
    """The model, with a character for each token."""
    pipeline = TextPipeline(CharacterTokenizer("".join(chr(_FIRST + n) for n in range(VOCABULARY - 1))))
    options = DecoderOptions(layers=LAYERS, width=WIDTH, heads=HEADS, hidden=HIDDEN, context=CONTEXT)
    examples = [{"text": chr(_FIRST) * 4}]
    parts = {"options": options, "signature": pipeline.signature, "form": TextForm(pipeline), "examples": examples}
    write_bundle(folder, model=ours(dtype), **parts)


@contextmanager
def running(script: Path, folder: Path, slots: int) -> Iterator[int]:
    """The port of a server with so many slots."""
    port = free_port()
    command = [sys.executable, str(script), str(folder), str(port), str(slots)]

    def ready() -> None:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5):
            pass

    with started(command, ready):
        yield port


async def client(port: int, number: int, turns: int, tokens: int, first: list[float]) -> int:
    """Stream texts one after another: how many tokens came."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    came = 0
    for turn in range(turns):
        prompt = "".join(chr(_FIRST + (number * 131 + turn * 17 + n * 7) % (VOCABULARY - 1)) for n in range(PROMPT))
        asked = {"model": "model", "prompt": prompt, "max_tokens": tokens, "seed": number, "stream": True,
                 "stream_options": {"include_usage": True}}  # fmt: skip
        body = json.dumps(asked).encode()
        began = time.perf_counter()
        head = f"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        seen = b""
        while b"[DONE]" not in seen:
            part = await reader.read(1 << 16)
            if not part:
                raise RuntimeError(seen[-500:].decode(errors="replace"))
            if b'"text"' not in seen and b'"text"' in part:
                first.append(time.perf_counter() - began)
            seen += part
        while not seen.endswith(b"0\r\n\r\n"):
            seen += await reader.read(1 << 16)
        came += int(seen.rpartition(b'"completion_tokens":')[2].partition(b",")[0])
    writer.close()
    return came


async def load(port: int, clients: int, turns: int, tokens: int) -> Trial:
    """So many clients at once."""
    first: list[float] = []
    await client(port, 0, 1, 4, [])
    began = time.perf_counter()
    came = await asyncio.gather(*(client(port, number, turns, tokens, first) for number in range(clients)))
    return Trial(sum(came) / (time.perf_counter() - began), first)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--dtype", choices=("bf16", "fp32"), default="bf16")
    arguments = parser.parse_args()
    rows = measured(arguments.rounds, arguments.tokens, arguments.dtype)
    print(", ".join(f"{package} {version(package)}" for package in ("torch", "fastapi", "uvicorn")))
    print("python -m benchmarks.serving_language " + " ".join(sys.argv[1:]))
    print(json.dumps({"name": "serving_language", "rows": rows}))


def measured(rounds: int, tokens: int = 64, dtype: str = "bf16") -> list[dict[str, object]]:
    """The figures, printed and as rows."""
    many: list[Trial] = []
    one: list[Trial] = []
    lone: list[Trial] = []
    with tempfile.TemporaryDirectory() as name:
        folder, script = Path(name) / "bundle", Path(name) / "server.py"
        bundle(folder, {"bf16": torch.bfloat16, "fp32": torch.float32}[dtype])
        script.write_text(SERVER)
        for _round in range(rounds):
            with running(script, folder, CLIENTS) as port:
                lone.append(asyncio.run(load(port, 1, TURNS, tokens)))
                many.append(asyncio.run(load(port, CLIENTS, TURNS, tokens)))
            with running(script, folder, 1) as port:
                one.append(asyncio.run(load(port, CLIENTS, 1, tokens)))
    ratio = statistics.median(a.rate / b.rate for a, b in zip(many, one))
    rates = [statistics.median(trial.rate for trial in trials) for trials in (many, one, lone)]
    waits = {key: sorted(t for trial in trials for t in trial.first) for key, trials in
             (("under load", many), ("one at a time", one), ("alone", lone))}  # fmt: skip
    print(f"{CLIENTS} clients {rates[0]:,.0f} tokens/s, one at a time {rates[1]:,.0f}: {ratio:.1f}x (bar 5)", end="; ")
    print(f"a lone client {rates[2]:,.0f}")
    told = {key: (statistics.median(times), times[int(0.99 * len(times))]) for key, times in waits.items()}
    for key, (middle, late) in told.items():
        print(f"time to first token {key}: median {1000 * middle:,.0f} ms, 99th percentile {1000 * late:,.0f} ms")
    first, queued = (round(1000 * told[key][0], 1) for key in ("under load", "one at a time"))
    return [
        {"name": "32 streaming clients against one at a time", "ratio": round(ratio, 2), "ours": round(rates[0], 1),
         "peer": round(rates[1], 1), "unit": "tokens/s"},
        {"name": "median time to first token of 32 clients against one at a time", "ratio": round(first / queued, 4),
         "ours": first, "peer": queued, "unit": "ms"},
    ]  # fmt: skip


if __name__ == "__main__":
    main()
