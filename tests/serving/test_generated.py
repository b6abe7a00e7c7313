"""Requests that nobody would write: whatever Schemathesis makes of the server's own description."""

import os
import re
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from reinforge.models.policy_options import ActorCriticOptions, MemoryOptions
from reinforge.serving.listening import listen
from reinforge.serving.server import Server
from tests.bundle import made
from tests.export import everything

CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
KINDS = {
    "table": made.table_bundle,
    # Pictures, texts, dates and labels beside numbers and categories.
    "image": everything.table,
    "policy": made.policy_bundle,
    "recurrent": lambda path: everything.policy(path, ActorCriticOptions(sizes=(8,), memory=MemoryOptions(size=8))),
    "text": made.text_bundle,
    "chat": lambda path: made.chat_bundle(path, context=64),
}


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("kind", KINDS)
def test_whatever_is_made_up_is_answered(tmp_path, kind):
    """Right and wrong ones: no 5xx, and answers that are described.

    REINFORGE_REQUESTS says how many at least, REINFORGE_SEED with which draws they begin.
    """
    command = Path(sys.executable).with_name("schemathesis")
    if not command.exists():
        pytest.skip("there is no schemathesis")
    bundle, seed, made_up = KINDS[kind](tmp_path / kind), int(os.environ.get("REINFORGE_SEED", "1")), 0
    wanted = int(os.environ.get("REINFORGE_REQUESTS", "100"))
    with Server({kind: bundle}, listen("127.0.0.1", 0)).background() as url:
        while made_up < wanted:
            done = subprocess.run(
                [command, "run", f"{url}/openapi.json", "-c", CHECKS, "--phases", "examples,coverage,fuzzing",
                 "--max-examples", str(max(40, min(wanted, 1000))), "--seed", str(seed), "--suppress-health-check",
                 "all", "--continue-on-failure"],
                capture_output=True, text=True, cwd=tmp_path, check=False,
            )  # fmt: skip
            assert done.returncode == 0, done.stdout[-6000:]
            count = re.search(r"([\d,]+) generated", done.stdout)
            assert count, done.stdout[-2000:]
            made_up += int(count[1].replace(",", ""))
            seed += 1
            print(f"{kind}: {made_up:,} requests", flush=True)
        assert httpx.get(f"{url}/healthz").status_code == 200
