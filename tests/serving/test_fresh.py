"""An environment with nothing but the extra `serve`: how soon it answers, what it weighs, and what it loads."""

import json
import os
import re
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

import reinforge
from tests.bundle import made

ROOT = Path(__file__).resolve().parents[2]
ROW = {"island": "Biscoe", "bill_length_mm": 46.1, "bill_depth_mm": 13.2, "flipper_length_mm": 211,
       "body_mass_g": 4500, "sex": "female"}  # fmt: skip
# Rooms that train; their options, plain data, are read with every recipe.
TRAINS = """
import sys
import reinforge.serving.worker
from reinforge.bundle.loading import load
from reinforge.serving.listening import listen
from reinforge.serving.server import Server

bundles = {str(n): load(path) for n, path in enumerate(sys.argv[1:])}
Server(bundles, listen("127.0.0.1", 0)).close()
rooms = ("engine", "objectives", "sources", "evaluation", "compress", "explain", "export")
training = [m for m in sys.modules if m.startswith(tuple(f"reinforge.{room}." for room in rooms))]
training = [m for m in training if not m.endswith("options")]
training += [m for m in sys.modules if m == "reinforge.workflow.train"]
heavy = [m for m in ("torchmetrics", "sklearn", "transformers", "scipy", "pandas", "onnx") if m in sys.modules]
print(training + heavy)
"""


def test_serving_loads_no_training_code(tmp_path):
    made.table_bundle(tmp_path / "table")
    made.policy_bundle(tmp_path / "policy")
    made.chat_bundle(tmp_path / "chat")
    paths = [str(tmp_path / name) for name in ("table", "policy", "chat")]
    found = subprocess.run([sys.executable, "-c", TRAINS, *paths], capture_output=True, text=True, timeout=120)
    assert found.stdout.strip() == "[]", found.stdout + found.stderr


def proportional_memory(pid):
    """MiB of a process, what it shares divided among those that share it."""
    told = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return int(re.search(r"^Pss:\s+(\d+) kB", told, re.MULTILINE)[1]) / 1024


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="memory is read from /proc")
def test_a_fresh_environment_answers_soon_and_is_small(tmp_path):
    """Under 5 s from the command to the first answer where the machine is quiet, under 400 MB for a replica."""
    bundle = reinforge.train("penguins", output=tmp_path / "run").bundle_path
    alone = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "fresh"], check=True)
    python = tmp_path / "fresh" / "bin" / "python"
    install = [python, "-m", "pip", "install", "--quiet", "--constraint", ROOT / "constraints.txt", f"{ROOT}[serve]"]
    subprocess.run(install, check=True, env=alone, cwd=tmp_path)
    crowded = max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))
    seconds = []
    # The first start compiles Python's files and reads torch from the disk.
    for _start in range(2):
        began = time.monotonic()
        process = subprocess.Popen(
            [python.with_name("reinforge"), "serve", bundle, "--port", "0"],
            stderr=subprocess.PIPE, text=True, env=alone, cwd=tmp_path,
        )  # fmt: skip
        try:
            line = process.stderr.readline()
            url = re.search(r"http://[0-9.]+:\d+", line)[0]
            body = json.dumps({"rows": [ROW]}).encode()
            with urllib.request.urlopen(f"{url}/v1/models/penguins/predict", body, timeout=30) as answer:
                assert json.load(answer)["predictions"][0]["species"]["label"] == "Gentoo"
            seconds.append(time.monotonic() - began)
            told = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True).stdout
            (worker,) = map(int, told.split())
            memory, above = proportional_memory(worker), proportional_memory(process.pid)
        finally:
            process.terminate()
            process.communicate(timeout=30)
    told = ", ".join(f"{each:.1f}" for each in seconds)
    print(f"answers after {told} s; {memory:.0f} MiB and {above:.0f} for its supervisor; {crowded:.1f} want each core")
    assert seconds[-1] < 5 * crowded
    assert memory < 400 * 1e6 / 2**20
