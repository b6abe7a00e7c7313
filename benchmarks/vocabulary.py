"""Peak memory of the loss over a large vocabulary: by chunks of tokens beside all logits at once.

Forward and backward pass of the output layer alone, in a process of its own for each: the growth of its resident memory
above hidden stream, weight and the weight's gradients, which no way of computing it can do without. By chunks for all
tokens and for a quarter of them; at once for the quarter alone, since all would take gigabytes.

    python -m benchmarks.vocabulary [--vocabulary 150000] [--tokens 4096] [--width 256] [--precision bf16]
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import sys
import time
from multiprocessing.connection import Connection

import torch
import torch.nn.functional as F

from reinforge.models.token_losses import LEAST_TOKENS, SUM_ELEMENTS, summed_loss


def measure(way: str, vocabulary: int, tokens: int, width: int, precision: str, answer: Connection) -> None:
    torch.set_num_threads(1)
    kind = torch.bfloat16 if precision == "bf16" else torch.float32
    torch.manual_seed(0)
    weight = (torch.randn(vocabulary, width) * 0.02).to(kind).requires_grad_()
    hidden = torch.randn(tokens, width).to(kind).requires_grad_()
    targets = torch.randint(vocabulary, (tokens,))
    # What is needed in any case: both gradients, and the sum of the weight's in float32.
    needed = [torch.ones_like(weight), torch.ones_like(hidden), torch.ones(weight.shape), torch.ones(weight.shape)]
    del needed
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.perf_counter()
    if way == "chunks":
        loss = summed_loss(hidden, weight, targets)
    else:
        loss = F.cross_entropy(F.linear(hidden, weight).float(), targets, reduction="sum")
    loss.backward()
    seconds = time.perf_counter() - began
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    answer.send((float(loss.detach()) / tokens, grown, seconds))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocabulary", type=int, default=150_000)
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="bf16")
    a = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    found = {}
    for way, tokens in (("chunks", a.tokens), ("chunks", a.tokens // 4), ("whole", a.tokens // 4)):
        receive, send = context.Pipe(duplex=False)
        worker = context.Process(target=measure, args=(way, a.vocabulary, tokens, a.width, a.precision, send))
        worker.start()
        loss, grown, seconds = receive.recv()
        worker.join()
        found[way, tokens] = grown
        print(f"{way:7} {tokens:6} tokens: loss {loss:.4f}, peak +{grown:8.1f} MB, {seconds:6.2f} s")
    chunk = max(LEAST_TOKENS, SUM_ELEMENTS["cpu"] // a.vocabulary)
    ours, peer = found["chunks", a.tokens // 4], found["whole", a.tokens // 4]
    print(f"a chunk of {chunk} tokens has {chunk * a.vocabulary * 4 / 2**20:.1f} MB of logits in float32")
    print(f"torch {torch.__version__}")
    print("python -m benchmarks.vocabulary " + " ".join(sys.argv[1:]))
    print(json.dumps({"name": "vocabulary", "ratio": ours / peer, "ours": ours, "peer": peer, "unit": "MB"}))


if __name__ == "__main__":
    main()
