"""What a server tells Prometheus. Several replicas write their numbers into files of one folder, and whichever is asked
adds them up."""

from __future__ import annotations

import os

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

FOLDER = "PROMETHEUS_MULTIPROC_DIR"
_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 1024, 10_000)


class Metrics:
    """Counters of requests and rows, and histograms of seconds and of rows computed at once."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        kept = self.registry
        self.requests = Counter("reinforge_requests", "Requests answered.", ("model", "status"), registry=kept)
        self.seconds = Histogram(
            "reinforge_request_seconds", "Seconds from a request's head to its answer's end.", ("model",),
            buckets=_SECONDS, registry=kept,
        )  # fmt: skip
        self.rows = Counter("reinforge_rows", "Rows predicted.", ("model",), registry=kept)
        self.batch = Histogram(
            "reinforge_batch_rows", "Rows computed at once.", ("model",), buckets=_ROWS, registry=kept
        )
        self.computing = Counter("reinforge_computing_seconds", "Seconds spent computing.", ("model",), registry=kept)
        self.waiting = Gauge(
            "reinforge_waiting_rows", "Rows that wait.", ("model",), multiprocess_mode="livesum", registry=kept
        )  # fmt: skip
        self.tokens = Counter("reinforge_tokens", "Tokens written.", ("model",), registry=kept)
        self.first = Histogram(
            "reinforge_first_token_seconds", "Seconds that a text waits for its first token.", ("model",),
            buckets=_SECONDS, registry=kept,
        )  # fmt: skip
        self.writing = Gauge(
            "reinforge_texts", "Texts that wait, or are written.", ("model", "state"), multiprocess_mode="livesum",
            registry=kept,
        )  # fmt: skip

        self.lost = Counter(
            "reinforge_access_log_lost", "Lines of the access log that could not be written.", registry=kept
        )
        self.shadowed = Counter(
            "reinforge_shadow_rows", "Rows that a candidate was shown, by whether it said the same.",
            ("model", "outcome"), registry=kept,
        )  # fmt: skip
        self.queued = Counter(
            "reinforge_queue_messages", "Messages taken from the queue to their end.", ("model", "outcome"),
            registry=kept,
        )  # fmt: skip

    def computed(self, model: str, rows: int, seconds: float) -> None:
        """One computation."""
        self.rows.labels(model).inc(rows)
        self.batch.labels(model).observe(rows)
        self.computing.labels(model).inc(seconds)

    def began(self, model: str, seconds: float) -> None:
        """The first token of a text."""
        self.first.labels(model).observe(seconds)

    def answered(self, model: str, status: int, seconds: float) -> None:
        """One request."""
        self.requests.labels(model, str(status)).inc()
        self.seconds.labels(model).observe(seconds)

    def text(self) -> bytes:
        """All of it in Prometheus' text format, of all replicas."""
        if FOLDER not in os.environ:
            return generate_latest(self.registry)
        together = CollectorRegistry()
        MultiProcessCollector(together)  # type: ignore[no-untyped-call]
        return generate_latest(together)
