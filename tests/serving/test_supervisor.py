"""Replicas: killed, hung, replaced, changed to other bundles, and stopped."""

import asyncio
import contextlib
import ipaddress
import json
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from reinforge.bundle.signing import make_keys, sign
from reinforge.serving.board import SILENT_SECONDS, Board
from reinforge.serving.listening import listen
from reinforge.serving.supervisor import Supervisor
from reinforge.serving.task import Task
from reinforge.serving.tokens import add_token
from reinforge.serving.trials import Change
from tests.bundle import made

GOOD = {"rows": [{"size": 1.0, "mass": 2, "island": "Dream"}]}


class Served:
    """`reinforge serve` in a process of its own, on a free port."""

    def __init__(self, folder, *options):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "reinforge", "serve", f"table={folder}", "--port", "0", *options],
            stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        line = self.process.stderr.readline()
        found = re.search(r"https?://[0-9.]+:\d+", line)
        assert found, line + self.process.stderr.read()
        self.url = found[0]

    def get(self, path, **more):
        return httpx.get(self.url + path, timeout=30, **more)

    def predict(self, **more):
        return httpx.post(f"{self.url}/v1/models/table/predict", json=GOOD, timeout=30, **more)

    @property
    def workers(self):
        found = subprocess.run(["pgrep", "-P", str(self.process.pid)], capture_output=True, text=True, check=False)
        return [int(line) for line in found.stdout.split()]

    def wait(self, condition, seconds=30):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if condition():
                return True
            time.sleep(0.05)
        return False

    def ready(self):
        with contextlib.suppress(httpx.HTTPError):
            return self.get("/readyz").status_code == 200
        return False

    def stop(self, number=signal.SIGTERM):
        self.process.send_signal(number)
        try:
            out, error = self.process.communicate(timeout=30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        return self.process.returncode, out, error


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("supervised")
    made.table_bundle(place / "table")
    return place


@pytest.fixture(scope="module")
def tokens(folder):
    return add_token(folder / "tokens.json", "root", ["admin", "predict", "metrics"])


@pytest.fixture(scope="module")
def served(folder, tokens):
    server = Served(folder / "table", "--workers", "2", "--tokens", str(folder / "tokens.json"))
    yield server
    workers = server.workers
    status, out, _error = server.stop(signal.SIGINT)
    assert status == 0
    assert server.url in out
    for pid in workers:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


@pytest.fixture
def bearer(tokens):
    return {"authorization": f"Bearer {tokens}"}


def test_a_killed_replica_is_replaced_and_readiness_tells(served, bearer):
    assert served.ready()
    before = served.workers
    assert len(before) == 2
    os.kill(before[0], signal.SIGKILL)
    assert served.wait(lambda: served.get("/readyz").status_code == 503, 3)
    # The other one answers all the while.
    assert served.predict(headers=bearer).status_code == 200
    assert served.wait(served.ready)
    assert len(served.workers) == 2
    assert before[0] not in served.workers


def test_a_replica_that_hangs_is_not_ready_and_is_replaced(served, bearer):
    assert served.wait(served.ready)
    hung = served.workers[0]
    os.kill(hung, signal.SIGSTOP)
    try:
        # Connections that the kernel gave to the one that hangs wait; the others are answered.
        def told():
            with contextlib.suppress(httpx.HTTPError):
                return httpx.get(f"{served.url}/readyz", timeout=0.5).status_code == 503
            return False

        assert served.wait(told, 20)
        assert served.wait(lambda: hung not in served.workers, 30)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(hung, signal.SIGKILL)
    assert served.wait(served.ready)


def sockets(pid):
    """How many sockets a process has open."""
    found = 0
    for each in Path(f"/proc/{pid}/fd").iterdir():
        # What is closed meanwhile is none.
        with contextlib.suppress(FileNotFoundError):
            found += os.readlink(each).startswith("socket:")
    return found


def connect(server, count):
    """So many connections at once, each of which has been answered and is kept alive."""
    host, port = server.url.removeprefix("http://").split(":")
    made = [socket.create_connection((host, int(port)), timeout=20) for _ in range(count)]
    for one in made:
        one.sendall(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    for one in made:
        assert b" 200 " in one.recv(4096)
    return made


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="sockets are counted in /proc")
def test_connections_that_are_kept_alive_are_shared_evenly(served):
    """Whether they come at once or one after another, and when half of them went."""
    assert served.wait(served.ready)
    time.sleep(0.2)
    before = {pid: sockets(pid) for pid in served.workers}

    def held():
        return [sockets(pid) - count for pid, count in before.items()]

    def shared():
        return sum(held()) == 32 and all(13 <= count <= 19 for count in held())

    for _ in range(3):
        kept = connect(served, 32)
        assert shared(), held()
        for one in kept[::2]:
            one.close()
        assert served.wait(lambda: sum(held()) == 16)
        kept = kept[1::2] + [one for _ in range(16) for one in connect(served, 1)]
        assert shared(), held()
        for one in kept:
            one.close()
        assert served.wait(lambda: held() == [0, 0])


def test_nobody_is_refused_while_a_replica_hangs_or_dies(served):
    assert served.wait(served.ready)
    kept = connect(served, 8)
    hung = served.workers[0]
    os.kill(hung, signal.SIGSTOP)
    try:
        # It counts for nothing once it has been silent for a while.
        time.sleep(SILENT_SECONDS + 0.5)
        kept += connect(served, 20)
    finally:
        os.kill(hung, signal.SIGKILL)
    kept += connect(served, 20)
    assert served.wait(served.ready)
    for one in kept:
        one.close()


def test_bundles_are_swapped_in_all_replicas_or_in_none(served, bearer, folder):
    assert served.wait(served.ready)
    newer = made.table_bundle(folder / "newer", parents=["0" * 64])
    before = served.get("/v1/models/table", headers=bearer).json()["digest"]
    assert before != newer.digest
    damaged = folder / "damaged"
    shutil.copytree(folder / "newer", damaged)
    (damaged / "weights.safetensors").write_bytes(b"\0" * 100)
    statuses, stop = [], threading.Event()

    def load():
        with httpx.Client(timeout=30) as client:
            while not stop.is_set():
                found = client.post(f"{served.url}/v1/models/table/predict", json=GOOD, headers=bearer)
                statuses.append(found.status_code)

    clients = [threading.Thread(target=load) for _ in range(3)]
    for client in clients:
        client.start()
    try:

        def swap(path):
            return httpx.post(
                f"{served.url}/admin/models/table", json={"bundle": str(path)}, headers=bearer, timeout=60
            )

        refused = swap(damaged)
        assert refused.status_code == 409
        assert "weights.safetensors" in refused.text
        assert {served.get("/v1/models/table", headers=bearer).json()["digest"] for _ in range(8)} == {before}
        assert swap(newer.path).json() == {"models": {"table": newer.digest}}
        assert {served.get("/v1/models/table", headers=bearer).json()["digest"] for _ in range(8)} == {newer.digest}
    finally:
        stop.set()
        for client in clients:
            client.join()
    assert len(statuses) > 10
    assert set(statuses) == {200}, "a swap drops nothing"
    # A replica that is replaced later begins with the new one.
    os.kill(served.workers[0], signal.SIGKILL)
    assert served.wait(lambda: served.get("/readyz").status_code == 503, 3)
    assert served.wait(served.ready)
    assert {served.get("/v1/models/table", headers=bearer).json()["digest"] for _ in range(8)} == {newer.digest}


def test_metrics_of_all_replicas_are_added_up(served, bearer):
    assert served.wait(served.ready)

    def answered():
        text = served.get("/metrics", headers=bearer).text
        found = re.search(r'^reinforge_requests_total\{model="table",status="200"\} (\S+)$', text, re.MULTILINE)
        return float(found[1]) if found else 0.0

    before = answered()
    for _ in range(12):
        assert served.predict(headers=bearer).status_code == 200
    assert answered() == before + 12


@pytest.mark.parametrize(
    "options",
    [
        ["--tls-cert", "x"],
        ["--workers", "0"],
        ["--threads", "-1"],
        ["--port", "70000"],
        ["--tls-cert", "/none", "--tls-key", "/none"],
        ["--access-log", "/none/x"],
    ],
)
def test_options_that_make_no_sense(folder, options):
    found = subprocess.run(
        [sys.executable, "-m", "reinforge", "serve", str(folder / "table"), *options],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert found.returncode == 2
    assert "Traceback" not in found.stderr


def test_a_damaged_bundle_ends_the_server_at_its_beginning(folder, tmp_path):
    shutil.copytree(folder / "table", tmp_path / "table")
    (tmp_path / "table" / "weights.safetensors").write_bytes(b"\0")
    found = subprocess.run(
        [sys.executable, "-m", "reinforge", "serve", str(tmp_path / "table"), "--port", "0", "--json"],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    error = json.loads(found.stdout.splitlines()[-1])["error"]
    assert found.returncode == error["exit_status"] == 1
    assert "weights.safetensors" in f"{error['where']} {error['problem']}"
    assert "Traceback" not in found.stderr


def test_no_replica_outlives_its_supervisor(folder):
    server = Served(folder / "table")
    workers = server.workers
    server.process.kill()
    server.process.communicate()

    def gone():
        for pid in workers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, 0)
                return False
        return True

    assert server.wait(gone, 15)


def test_a_hangup_loads_the_folders_anew(folder, tmp_path):
    made.table_bundle(tmp_path / "table")
    server = Served(tmp_path / "table")
    try:
        before = server.get("/v1/models/table").json()["digest"]
        (tmp_path / "table").rename(tmp_path / "old")
        newer = made.table_bundle(tmp_path / "table", parents=["0" * 64])
        assert newer.digest != before
        server.process.send_signal(signal.SIGHUP)
        assert server.wait(lambda: server.get("/v1/models/table").json()["digest"] == newer.digest)
    finally:
        assert server.stop()[0] == 0


def test_a_hangup_also_reaches_a_replica_that_found_a_changed_folder(tmp_path):
    made.table_bundle(tmp_path / "table")
    server = Served(tmp_path / "table", "--workers", "2")
    try:
        assert server.wait(server.ready)
        (tmp_path / "table").rename(tmp_path / "old")
        newer = made.table_bundle(tmp_path / "table", parents=["0" * 64])
        os.kill(server.workers[0], signal.SIGKILL)
        told = server.process.stderr.readline()
        assert "another bundle than the others (table)" in told
        assert "SIGHUP" in told
        server.process.send_signal(signal.SIGHUP)
        assert server.wait(lambda: server.get("/v1/models/table").json()["digest"] == newer.digest)
        assert server.wait(server.ready), "both serve what the folder holds now"
    finally:
        assert server.stop()[0] == 0


def test_only_bundles_that_are_signed_are_served(folder, tmp_path):
    """At the beginning, and when they are replaced: by hand, and as an administrator."""
    mine, other = make_keys(tmp_path / "mine"), make_keys(tmp_path / "other")
    shutil.copytree(folder / "table", tmp_path / "table")
    command = ["serve", str(tmp_path / "table"), "--port", "0", "--require-signature", str(mine.public)]
    found = subprocess.run([sys.executable, "-m", "reinforge", *command], capture_output=True, text=True, timeout=60)
    assert found.returncode == 1
    assert "no signature" in found.stderr
    sign(tmp_path / "table", mine.private)
    root = add_token(tmp_path / "tokens.json", "root", ["admin", "predict"])
    options = ["--require-signature", str(mine.public), "--tokens", str(tmp_path / "tokens.json")]
    server = Served(tmp_path / "table", *options)
    try:
        bearer = {"authorization": f"Bearer {root}"}
        assert server.predict(headers=bearer).status_code == 200
        newer = made.table_bundle(tmp_path / "newer", parents=["0" * 64])

        def swap():
            return httpx.post(
                f"{server.url}/admin/models/table", json={"bundle": str(newer.path)}, headers=bearer, timeout=60
            )

        assert swap().status_code == 409
        sign(newer.path, other.private)
        refused = swap()
        assert (refused.status_code, "trusted" in refused.text) == (409, True)
        sign(newer.path, mine.private)
        assert swap().json() == {"models": {"table": newer.digest}}
    finally:
        assert server.stop()[0] == 0


def certificate(folder):
    """A certificate of this machine that vouches for itself, and its key, as PEM files."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(1)
        .not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    (folder / "cert.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return folder / "cert.pem", folder / "key.pem"


def test_replicas_share_connections_over_tls_too(folder, tmp_path):
    """And what is no TLS, or ends in the middle of its greeting, harms nobody."""
    cert, key = certificate(tmp_path)
    server = Served(folder / "table", "--workers", "2", "--tls-cert", str(cert), "--tls-key", str(key))
    trust = ssl.create_default_context(cafile=str(cert))
    try:
        assert server.url.startswith("https://")
        host, port = server.url.removeprefix("https://").split(":")
        for content in (b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01", b""):
            with socket.create_connection((host, int(port)), timeout=10) as plain:
                plain.sendall(content)
        clients = [httpx.Client(verify=trust, timeout=30) for _ in range(8)]
        before = {pid: sockets(pid) for pid in server.workers}
        for client in clients:
            assert client.post(f"{server.url}/v1/models/table/predict", json=GOOD).status_code == 200
        assert [sockets(pid) - count for pid, count in before.items()] == [4, 4]
        for client in clients:
            client.close()
        assert httpx.get(f"{server.url}/readyz", verify=trust).status_code == 200
    finally:
        assert server.stop()[0] == 0


@pytest.mark.parametrize(
    ("ready", "pauses"),
    [(0.0, [0.0, 0.2, 1.0, 5.0, 5.0]), (3.0, [0.0, 0.2, 1.0, 1.0, 1.0]), (6.0, [0.0] * 5)],
)
def test_one_that_could_answer_waits_at_most_a_second(monkeypatch, ready, pauses):
    """However often it is killed: ready again in under 5 s needs that. What can't begin waits longer."""
    listener = listen("127.0.0.1", 0)
    supervisor, waited = Supervisor(Task({"table": "."}, replicas=1), listener), []

    async def live(replica):
        return ready

    async def wait_for(event, seconds):
        event.close()
        waited.append(seconds)
        if len(waited) < 5:
            raise TimeoutError
        supervisor._stopping.set()

    async def drive():
        supervisor._board, supervisor._stopping = Board(1), asyncio.Event()
        monkeypatch.setattr("reinforge.serving.supervisor.asyncio.wait_for", wait_for)
        await supervisor._keep(0)
        supervisor._board.close()

    monkeypatch.setattr(supervisor, "_live", live)
    with contextlib.closing(listener):
        asyncio.run(drive())
    assert waited == pauses


@pytest.mark.parametrize("moment", ["again", "first"])
def test_a_replica_that_becomes_ready_during_a_swap_serves_the_new_bundle(tmp_path, moment):
    """Whether it was replaced or begins for the first time; neither may serve the old bundle, or end the server."""
    one, two = made.table_bundle(tmp_path / "one"), made.table_bundle(tmp_path / "two", parents=["0" * 64])
    listener = listen("127.0.0.1", 0)
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    supervisor = Supervisor(Task({"table": str(one.path)}, replicas=2), listener)

    async def until(condition):
        async with asyncio.timeout(60):
            while not condition():
                await asyncio.sleep(0.02)

    async def drive():
        if moment == "first":
            # Replica 1 is slow; what it is to load was said already.
            await until(lambda: 1 in supervisor._running)
            os.kill(slow := supervisor._running[1].process.pid, signal.SIGSTOP)
            await until(lambda: 0 in supervisor._running and supervisor._running[0].digests)
            await supervisor.swap(Change({"table": str(two.path)}, {}))
        else:
            await until(lambda: supervisor._board.ready)
            old = supervisor._running[0].process.pid
            os.kill(old, signal.SIGKILL)
            await until(lambda: 0 in supervisor._running and supervisor._running[0].process.pid != old)
            # The other takes its time to prepare, and this one is ready before.
            os.kill(slow := supervisor._running[1].process.pid, signal.SIGSTOP)
            swapping = asyncio.ensure_future(supervisor.swap(Change({"table": str(two.path)}, {})))
            await until(lambda: 0 in supervisor._running and supervisor._running[0].digests)
            os.kill(slow, signal.SIGCONT)
            await swapping
        with contextlib.suppress(ProcessLookupError):
            os.kill(slow, signal.SIGCONT)
        await until(
            lambda: (
                len(supervisor._running) == 2
                and all(each.digests == {"table": two.digest} for each in supervisor._running.values())
                and supervisor._board.ready
            )
        )
        async with httpx.AsyncClient() as client:
            found = [(await client.get(f"{url}/v1/models/table")).json()["digest"] for _number in range(4)]
        assert set(found) == {two.digest}
        assert not supervisor._stopping.is_set()

    async def run(folder):
        driving = asyncio.ensure_future(drive())
        driving.add_done_callback(lambda _done: supervisor._stopping.set())
        await supervisor._run(lambda: None, folder)
        await driving

    asyncio.run(run(str(tmp_path)))
    assert supervisor._fault is None
