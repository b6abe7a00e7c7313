"""`make zero-to-chat` and its page: a shortened road is walked to its end, and leaves nothing running."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.test_quickstart import environment

ROOT = Path(__file__).parents[2]
BLOCKS = re.findall(
    r"```bash\n(.*?)```", (ROOT / "docs" / "llm" / "zero-to-chat.md").read_text("utf-8"), re.DOTALL
)  # fmt: skip
# A few updates of each stage, on a few questions.
SHORT = (
    "stages.0.learn.stop.updates=4", "stages.1.learn.stop.updates=4", "stages.2.learn.stop.updates=2",
    "stages.2.source.prompts=2", "stages.2.learn.batch=16", "stages.2.data.asked=8", "model.layers=1",
)  # fmt: skip
STAGES = (
    "train", "tokenizer and pre-training", "imitation (SFT)", "rewards (GRPO)", "evaluate, imitation (SFT)",
    "evaluate, rewards (GRPO)", "compress --method int8", "evaluate, int8", "export --to gguf", "read by others",
    "serve, one streamed answer", "all",
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_road_is_walked_to_a_streamed_answer(tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    pytest.importorskip("transformers")
    words = [sys.executable, str(ROOT / "scripts" / "zero_to_chat.py"), str(tmp_path / "road"), *SHORT]
    done = subprocess.run(
        words, cwd=tmp_path, env={**os.environ, "REINFORGE_LANG": "en"}, capture_output=True, text=True, timeout=800
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    table = done.stdout[done.stdout.index("recipe  ") :]
    found = re.findall(r"^(?:zero-to-chat)? +(\S.*?) +[\d.]+(?:  (\S.*))?$", table, re.MULTILINE)
    assert tuple(name for name, _result in found) == STAGES
    results = dict(found)
    assert re.search(r"[2-4]\.\dx smaller", results["compress --method int8"])
    # What transformers writes from the file is what the road's own server writes, but for what 8 bits change.
    assert re.search(r"gguf: \d+ tensors, transformers:", results["read by others"])
    assert re.search(r"What is 47\+68\? .*, (right|wrong), \d+ pieces in \d+ ms", results["serve, one streamed answer"])
    assert (tmp_path / "road" / "gguf" / "model.gguf").is_file()
    (address,) = set(re.findall(r"http://127\.0\.0\.1:(\d+)/v1/chat", done.stdout))
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", int(address))) != 0


@pytest.mark.slow
def test_a_stage_that_fails_ends_the_road_and_says_so(tmp_path: Path) -> None:
    words = [sys.executable, str(ROOT / "scripts" / "zero_to_chat.py"), str(tmp_path / "road"), "model.layers=many"]
    done = subprocess.run(words, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=100)
    assert done.returncode == 1
    assert "ended with status 2" in done.stderr
    assert "model.layers" in done.stderr


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_pages_commands_run(tmp_path: Path) -> None:
    """With a few updates in place of hundreds, and any answer taken."""
    (walk,) = BLOCKS
    short = walk.replace("train zero-to-chat", f"train zero-to-chat {' '.join(SHORT)}")
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", short], cwd=tmp_path, env=environment(), capture_output=True, text=True,
        timeout=800,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert "data: [DONE]" in done.stdout
    assert len(re.findall(r'"object": ?"chat.completion.chunk"', done.stdout)) > 2
