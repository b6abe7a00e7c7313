"""A small model behind HTTP: `reinforge serve` beside a bare FastAPI handler and LitServe, the same bundle in each.

All three read JSON rows, run the bundle's own pipeline and validation, and answer its predictions. A lone client gives
the latency, 32 clients the throughput and the slowest hundredth; `wrk` (a Debian package) makes the load. LitServe runs
with batches of up to 32 rows, and without: its better figure counts. It takes two processes, one for HTTP and one for
the model; ours may have two as well, and the figure with one stands beside it.

    python -m benchmarks.serving [--rounds 5] [--seconds 4] [--language]

Then `benchmarks.serving_language`: streaming clients of a language model; `--language` runs that alone.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import urllib.request
from functools import partial
from importlib.metadata import version
from pathlib import Path

import reinforge
from benchmarks._servers import free_port, started
from benchmarks.serving_language import measured

CLIENTS = 32
ROW = {"island": "Biscoe", "bill_length_mm": 46.1, "bill_depth_mm": 13.2, "flipper_length_mm": 211,
       "body_mass_g": 4500, "sex": "female"}  # fmt: skip

BARE = """
import sys, torch, uvicorn
from fastapi import FastAPI, Request
import reinforge
torch.set_num_threads(1)
bundle = reinforge.load(sys.argv[1])
app = FastAPI()

@app.post("/predict")
async def predict(request: Request):
    body = await request.json()
    return {"predictions": bundle.predict(body["rows"])}

uvicorn.run(app, port=int(sys.argv[2]), log_level="warning", access_log=False)
"""

LIT = """
import sys, torch, litserve
import reinforge

class API(litserve.LitAPI):
    def setup(self, device):
        torch.set_num_threads(1)
        self.bundle = reinforge.load(sys.argv[1])
    def decode_request(self, request):
        return request["rows"]
    def batch(self, inputs):
        self.sizes = [len(rows) for rows in inputs]
        return [row for rows in inputs for row in rows]
    def predict(self, rows):
        return self.bundle.predict(rows)
    def unbatch(self, output):
        ends = [sum(self.sizes[: index + 1]) for index in range(len(self.sizes))]
        return [output[end - size : end] for end, size in zip(ends, self.sizes)]
    def encode_response(self, output):
        return {"predictions": output}

if __name__ == "__main__":
    size = int(sys.argv[3])
    litserve.LitServer(API(max_batch_size=size, batch_timeout=0.0), accelerator="cpu").run(
        port=int(sys.argv[2]), log_level="warning", generate_client_file=False, access_log=False
    )
"""


def answered(url: str) -> str:
    """The label that the model gives."""
    request = urllib.request.Request(url, json.dumps({"rows": [ROW]}).encode(), {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return str(json.load(answer)["predictions"][0]["species"]["label"])


def load(url: str, clients: int, seconds: float, script: Path) -> tuple[float, float, float]:
    """Requests per second, and the 50th and 99th percentile of latency in milliseconds."""
    command = ["wrk", "-t1", f"-c{clients}", f"-d{seconds:g}s", "--latency", "-s", str(script), url]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    if "Non-2xx" in text or "Socket errors" in text:
        raise RuntimeError(text)
    rate = float(re.search(r"Requests/sec:\s+([\d.]+)", text)[1])  # type: ignore[index]
    found = {int(p): _milliseconds(value) for p, value in re.findall(r"^\s+(\d+)%\s+(\S+)\s*$", text, re.MULTILINE)}
    return rate, found[50], found[99]


def _milliseconds(text: str) -> float:
    number, unit = re.fullmatch(r"([\d.]+)(us|ms|s)", text).groups()  # type: ignore[union-attr]
    return float(number) * {"us": 1e-3, "ms": 1.0, "s": 1e3}[unit]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--language", action="store_true")
    arguments = parser.parse_args()
    if arguments.language:
        print(json.dumps({"name": "serving", "rows": measured(arguments.rounds)}))
        return
    if shutil.which("wrk") is None:
        sys.exit("wrk is needed: apt-get install wrk")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bundle = str(reinforge.train("penguins", output=folder / "run").bundle_path)
        (folder / "bare.py").write_text(BARE)
        (folder / "lit.py").write_text(LIT)
        (folder / "post.lua").write_text(
            f"wrk.method = 'POST'\nwrk.headers['Content-Type'] = 'application/json'\n"
            f"wrk.body = '{json.dumps({'rows': [ROW]})}'\n"
        )
        ports = {key: free_port() for key in ("ours", "ours, 2 processes", "bare", "litserve", "litserve, batches")}
        python, ours = sys.executable, "/v1/models/penguins/predict"
        serve = [python, "-m", "reinforge", "serve", bundle, "--port"]
        commands = {
            "ours": [*serve, str(ports["ours"])],
            "ours, 2 processes": [*serve, str(ports["ours, 2 processes"]), "--workers", "2"],
            "bare": [python, str(folder / "bare.py"), bundle, str(ports["bare"])],
            "litserve": [python, str(folder / "lit.py"), bundle, str(ports["litserve"]), "1"],
            "litserve, batches": [python, str(folder / "lit.py"), bundle, str(ports["litserve, batches"]), "32"],
        }
        lone: dict[str, list[tuple[float, float, float]]] = {key: [] for key in commands}
        crowd: dict[str, list[tuple[float, float, float]]] = {key: [] for key in commands}
        # Interleaved, so that all meet the same machine; one server at a time, so that none disturbs another.
        for _round in range(arguments.rounds):
            for key, command in commands.items():
                url = f"http://127.0.0.1:{ports[key]}{ours if key.startswith('ours') else '/predict'}"
                with started(command, partial(answered, url)):
                    assert answered(url) == "Gentoo"
                    load(url, CLIENTS, 1, folder / "post.lua")
                    lone[key].append(load(url, 1, arguments.seconds, folder / "post.lua"))
                    crowd[key].append(load(url, CLIENTS, arguments.seconds, folder / "post.lua"))
    for key in commands:
        one = [statistics.median(column) for column in zip(*lone[key])]
        many = [statistics.median(column) for column in zip(*crowd[key])]
        print(
            f"{key:18} alone p50 {one[1]:.2f} ms, p99 {one[2]:.2f} ms; {CLIENTS} clients {many[0]:,.0f} req/s, "
            f"p50 {many[1]:.1f} ms, p99 {many[2]:.1f} ms"
        )
    alone = statistics.median(a[1] / b[1] for a, b in zip(lone["ours"], lone["bare"]))
    best = "litserve" if median(crowd["litserve"], 0) > median(crowd["litserve, batches"], 0) else "litserve, batches"
    rate = statistics.median(a[0] / b[0] for a, b in zip(crowd["ours, 2 processes"], crowd[best]))
    single = statistics.median(a[0] / b[0] for a, b in zip(crowd["ours"], crowd[best]))
    tail = median(crowd["ours, 2 processes"], 2), median(crowd[best], 2)
    print(f"alone: {alone:.2f}x the bare handler's p50 (bar 1.3)")
    print(f"{CLIENTS} clients: {rate:.2f}x {best} (bar 3), one process {single:.2f}x", end="; ")
    print(f"p99 {tail[0]:.1f} against {tail[1]:.1f} ms")
    print(", ".join(f"{package} {version(package)}" for package in ("torch", "fastapi", "uvicorn", "litserve")))
    print("python -m benchmarks.serving " + " ".join(sys.argv[1:]))
    rows = [
        {"name": "lone p50 against bare FastAPI", "ratio": round(alone, 3), "ours": median(lone["ours"], 1),
         "peer": median(lone["bare"], 1), "unit": "ms"},
        {"name": "32 clients against LitServe", "ratio": round(rate, 2), "ours": median(crowd["ours, 2 processes"], 0),
         "peer": median(crowd[best], 0), "unit": "requests/s"},
        {"name": "p99 of 32 clients against LitServe", "ratio": round(tail[0] / tail[1], 3), "ours": tail[0],
         "peer": tail[1], "unit": "ms"},
        *measured(min(arguments.rounds, 3)),
    ]  # fmt: skip
    print(json.dumps({"name": "serving", "rows": rows}))


def median(trials: list[tuple[float, float, float]], column: int) -> float:
    """Of one of the figures."""
    return statistics.median(trial[column] for trial in trials)


if __name__ == "__main__":
    main()
