"""A folder from which an image of a served bundle is built, with what compose and Kubernetes need to run it.

Nothing of a bundle stands in these files but its name and digest, both of plain characters; its own files lie beside.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from importlib.metadata import version
from pathlib import Path

from reinforge.bundle.bundle import Bundle
from reinforge.bundle.folders import name_of
from reinforge.errors import IntegrityError
from reinforge.export.folder import Exported, exported, new_folder
from reinforge.messages import _
from reinforge.storage.files import require_space
from reinforge.storage.manifest import FileRecord

PORT, USER = 8000, 10001
# Names of hosts are the network's matter there; who may ask is told by tokens.
_ARGUMENTS = ("--access-log", "-", "--allow-host", "*", "--tokens")
_PLAIN = re.compile(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?", re.ASCII)
# Packages that a server loads beside what the wheel of torch brings.
_PINNED = (
    "aio-pika", "gymnasium", "httptools", "numpy", "pillow", "polars", "prometheus-client", "pydantic",
    "python-multipart", "PyYAML", "redis", "rich", "safetensors", "starlette", "tokenizers", "typer", "uvicorn",
    "uvloop",
)  # fmt: skip


def to_container(bundle: Bundle, folder: Path) -> Exported:
    """Write Dockerfile, requirements.txt, compose.yaml, prometheus.yml, kubernetes.yaml, .dockerignore and the
    bundle to a new folder. Raises PathError where it is not empty, StorageError."""
    name, digest = plain_name(bundle), bundle.digest
    require_space(folder.parent, sum(record.size for record in _files(bundle).values()) + (1 << 20))
    torch_version = version("torch").partition("+")[0]
    files = {
        "Dockerfile": dockerfile(name, digest), "requirements.txt": requirements(torch_version),
        "compose.yaml": compose(name), "prometheus.yml": prometheus(name), "kubernetes.yaml": kubernetes(name, digest),
        ".dockerignore": "*\n!requirements.txt\n!bundle\n!wheels\n", "wheels/README": _WHEELS,
    }  # fmt: skip
    with new_folder(folder) as staging:
        for file, text in files.items():
            (staging / file).parent.mkdir(exist_ok=True)
            (staging / file).write_text(text, encoding="utf-8")
        for file in ("manifest.json", *_files(bundle)):
            (staging / "bundle" / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(bundle.path / file, staging / "bundle" / file)
    notes = (
        _("build it: docker build -t {name} {folder}").format(name=name, folder=folder),
        _(
            "make tokens first: reinforge token tokens.json NAME; Prometheus has one with --scope metrics in "
            "scrape-token"
        ),
    )
    return exported(folder, "container", notes)


def plain_name(bundle: Bundle) -> str:
    """The bundle's name as images, services and pods may be called. Raises IntegrityError where nothing is left."""
    text = re.sub(r"[^a-z0-9]+", "-", name_of(bundle.path, bundle.provenance).lower())[:40].strip("-") or "model"
    if not _PLAIN.fullmatch(text):
        raise IntegrityError(_("it is no name for an image"), where=str(bundle.path))
    return text


def _files(bundle: Bundle) -> dict[str, FileRecord]:
    assert bundle.folder is not None
    return dict(bundle.folder.manifest.files)


def requirements(torch_version: str) -> str:
    """Every package by its version, as it is installed here."""
    lines = [f"reinforge[serve,queue]=={version('reinforge')}", f"torch=={torch_version}"]
    for package in _PINNED:
        try:
            lines.append(f"{package}=={version(package)}")
        except ModuleNotFoundError:
            continue
    return "\n".join(sorted(lines, key=str.lower)) + "\n"


def dockerfile(name: str, digest: str) -> str:
    """Two stages: packages are installed in the first, and the second has no tools to build with."""
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    return f"""# syntax=docker/dockerfile:1
FROM python:{python}-slim-bookworm AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /build
RUN python -m venv /opt/venv
COPY requirements.txt ./
COPY wheels ./wheels
RUN /opt/venv/bin/pip install --find-links wheels --extra-index-url https://download.pytorch.org/whl/cpu \\
    --requirement requirements.txt

FROM python:{python}-slim-bookworm
LABEL org.opencontainers.image.title="{name}" org.opencontainers.image.revision="{digest}"
ENV PATH=/opt/venv/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 OMP_NUM_THREADS=1 HOME=/tmp
RUN useradd --uid {USER} --no-create-home --shell /usr/sbin/nologin served
COPY --from=build /opt/venv /opt/venv
COPY --chown=root:root --chmod=0444 bundle/ /srv/bundle/
RUN chmod -R a=rX /srv/bundle && reinforge verify /srv/bundle
USER {USER}:{USER}
EXPOSE {PORT}
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s --retries=3 \\
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:{PORT}/readyz', timeout=2)"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["reinforge", "serve", "{name}=/srv/bundle", "--host", "0.0.0.0", "--port", "{PORT}"]
CMD ["--access-log", "-"]
"""


def compose(name: str) -> str:
    """The server with Redis and Prometheus, reached from this machine alone."""
    arguments = json.dumps([*_ARGUMENTS, "/run/secrets/tokens", "--queue", "redis://redis:6379", "--workers", "2"])
    return f"""services:
  {name}:
    build: .
    image: {name}:latest
    command: {arguments}
    ports: ["127.0.0.1:{PORT}:{PORT}"]
    secrets: [tokens]
    read_only: true
    tmpfs: ["/tmp"]
    cap_drop: ["ALL"]
    security_opt: ["no-new-privileges:true"]
    mem_limit: 2g
    restart: unless-stopped
    depends_on: {{redis: {{condition: service_healthy}}}}
  redis:
    image: redis:7.4.1-bookworm
    command: ["redis-server", "--appendonly", "yes"]
    volumes: ["redis:/data"]
    read_only: true
    tmpfs: ["/tmp"]
    security_opt: ["no-new-privileges:true"]
    healthcheck: {{test: ["CMD", "redis-cli", "ping"], interval: 5s, timeout: 3s, retries: 5}}
    restart: unless-stopped
  prometheus:
    image: prom/prometheus:v3.0.1
    volumes: ["./prometheus.yml:/etc/prometheus/prometheus.yml:ro", "prometheus:/prometheus"]
    secrets: [scrape]
    ports: ["127.0.0.1:9090:9090"]
    read_only: true
    security_opt: ["no-new-privileges:true"]
    restart: unless-stopped
secrets:
  tokens: {{file: ./tokens.json}}
  scrape: {{file: ./scrape-token}}
volumes: {{redis: {{}}, prometheus: {{}}}}
"""


def prometheus(name: str) -> str:
    """What Prometheus scrapes, and by which token."""
    return f"""global: {{scrape_interval: 15s}}
scrape_configs:
  - job_name: {name}
    authorization: {{type: Bearer, credentials_file: /run/secrets/scrape}}
    static_configs: [{{targets: ["{name}:{PORT}"]}}]
"""


def kubernetes(name: str, digest: str) -> str:
    """Deployment, service and autoscaling, as JSON objects, which are YAML: nothing in them can be read otherwise."""
    labels = {"app.kubernetes.io/name": name}
    probe = {"port": PORT, "scheme": "HTTP"}
    container = {
        "name": "server", "image": f"{name}:latest", "args": [*_ARGUMENTS, "/run/tokens/tokens.json"],
        "ports": [{"name": "http", "containerPort": PORT}],
        "readinessProbe": {"httpGet": {"path": "/readyz", **probe}, "periodSeconds": 5, "timeoutSeconds": 2},
        "livenessProbe": {"httpGet": {"path": "/healthz", **probe}, "periodSeconds": 10, "timeoutSeconds": 3},
        "startupProbe": {"httpGet": {"path": "/readyz", **probe}, "periodSeconds": 2, "failureThreshold": 60},
        "resources": {"requests": {"cpu": "250m", "memory": "512Mi"}, "limits": {"memory": "2Gi"}},
        "securityContext": {
            "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [
            {"name": "scratch", "mountPath": "/tmp"}, {"name": "tokens", "mountPath": "/run/tokens", "readOnly": True},
        ],
    }  # fmt: skip
    pod = {
        "securityContext": {
            "runAsNonRoot": True, "runAsUser": USER, "runAsGroup": USER, "seccompProfile": {"type": "RuntimeDefault"},
        },
        "automountServiceAccountToken": False, "terminationGracePeriodSeconds": 30, "containers": [container],
        "volumes": [
            {"name": "scratch", "emptyDir": {"sizeLimit": "256Mi"}},
            {"name": "tokens", "secret": {"secretName": f"{name}-tokens"}},
        ],
    }  # fmt: skip
    meta = {"name": name, "labels": labels}
    documents = [
        {
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {**meta, "annotations": {"reinforge.bundle/digest": digest}},
            "spec": {
                "replicas": 2, "selector": {"matchLabels": labels},
                "strategy": {"rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
                "template": {"metadata": {"labels": labels}, "spec": pod},
            },
        },
        {
            "apiVersion": "v1", "kind": "Service", "metadata": meta,
            "spec": {"selector": labels, "ports": [{"name": "http", "port": 80, "targetPort": "http"}]},
        },
        {
            "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": meta,
            "spec": {
                "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": name},
                "minReplicas": 2, "maxReplicas": 10,
                "metrics": [{
                    "type": "Resource",
                    "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 70}},
                }],
            },
        },
        {
            "apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": meta,
            "spec": {"minAvailable": 1, "selector": {"matchLabels": labels}},
        },
    ]  # fmt: skip
    return "---\n".join(json.dumps(document, indent=2) + "\n" for document in documents)


_WHEELS = """Wheels that lie here are taken before those of a package index.
Put reinforge's own here, where it is on none.
"""
