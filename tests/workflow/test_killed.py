"""`reinforge train`, killed by SIGKILL at random moments and resumed, ends with the very same weights: pre-training in
the middle of an epoch and of an accumulation, chats with adapters, rewards."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from reinforge.workflow.run import Run
from reinforge.workflow.train import train

ONE = "import sys; from reinforge.cli import main; sys.exit(main())"
LEARN = """
learn: {batch: 8, microbatch: 2, lr: 5e-3, compile: "off", threads: 1, stop: {updates: 18}}
evaluate: {every: 7, unit: updates}
checkpoint: {seconds: null, updates: 1}
log: {updates: 1}
"""
MODEL = "model: {kind: decoder, layers: 1, width: 32, heads: 2, context: 64}\n"
RECIPES = {
    "pretraining": MODEL + """
name: pretraining
data: {kind: documents, path: "FOLDER/documents.jsonl", tokenizer: character, template: plain}
objective: {kind: language}
source: {kind: tokens, block: 64}
""",
    "chats": MODEL + """
name: chats
data: {kind: chats, path: "FOLDER/chats.jsonl", tokenizer: character, template: chatml}
objective: {kind: language}
source: {kind: tokens, block: 64}
start: {adapter: {kind: lora, rank: 2, dropout: 0.1}, renew: []}
""",
    "rewards": MODEL + """
name: rewards
data: {kind: questions, path: "FOLDER/questions.jsonl", reward: numeric, asked: 4, tokens: 4}
objective: {kind: grpo, preset: grpo, epochs: 2, minibatch: 8, mask_truncated: false}
source: {kind: completions, prompts: 4, group: 4, max_tokens: 4, redraw: 1}
""",
}  # fmt: skip


def rows(kind: str) -> list[dict[str, object]]:
    draw = random.Random(3)
    pairs = [(draw.randrange(50), draw.randrange(50)) for _ in range(70)]
    if kind == "documents":
        return [{"text": f"{a} and {b} are {a + b}." * draw.randint(1, 3)} for a, b in pairs]
    if kind == "questions":
        return [{"prompt": f"{a}+{b}=", "answer": str(a + b)} for a, b in pairs]
    return [
        {"messages": [{"role": "user", "content": f"{a}+{b}"}, {"role": "assistant", "content": str(a + b)}]}
        for a, b in pairs
    ]


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-c", ONE, "train", *arguments]


def lines(run: Path) -> int:
    log = run / "log.jsonl"
    return log.read_bytes().count(b"\n") if log.is_file() else 0


def killed(process: subprocess.Popen[bytes], run: Path, after: int, draw: random.Random) -> bool:
    """Strike within an update after so many more lines of the log; whether it was still alive."""
    begun, patience = lines(run), time.monotonic() + 300
    while process.poll() is None and lines(run) < begun + after and time.monotonic() < patience:
        time.sleep(0.005)
    time.sleep(draw.uniform(0, 0.15))
    alive = process.poll() is None
    if alive:
        os.kill(process.pid, signal.SIGKILL)
    process.wait()
    return alive


@pytest.mark.slow
@pytest.mark.parametrize("kind", RECIPES)
def test_a_killed_training_ends_as_an_undisturbed_one(kind: str, tmp_path: Path) -> None:
    for name in ("documents", "chats", "questions"):
        text = "".join(json.dumps(row) + "\n" for row in rows(name))
        (tmp_path / f"{name}.jsonl").write_text(text, encoding="utf-8")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text((RECIPES[kind] + LEARN).replace("FOLDER", str(tmp_path)), encoding="utf-8")
    start = []
    if kind == "rewards":
        # A model that writes already.
        writer = (RECIPES["pretraining"] + LEARN).replace("FOLDER", str(tmp_path))
        (tmp_path / "writer.yaml").write_text(writer, encoding="utf-8")
        start = [f"--from={train(tmp_path / 'writer.yaml', output=tmp_path / 'writer').bundle_path}"]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    subprocess.run(command(str(recipe), *start, "-o", str(whole)), check=True, capture_output=True, timeout=600)
    draw, kills = random.Random(kind), 0
    process = subprocess.Popen(
        command(str(recipe), *start, "-o", str(broken)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while killed(process, broken, draw.randint(2, 5), draw):
        kills += 1
        process = subprocess.Popen(
            command("--resume", str(broken)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
    assert process.returncode == 0
    assert kills >= 3
    one, other = Run(whole), Run(broken)
    assert one.finished
    assert other.finished
    assert one.metrics == other.metrics
    files = [run.bundle_path / "weights.safetensors" for run in (one, other)]
    assert files[0].read_bytes() == files[1].read_bytes()
    told = [{row["updates"]: row["loss"] for row in run.log() if "loss" in row} for run in (one, other)]
    assert told[0] == told[1]
    assert len(told[0]) == 18
