"""The bundles a replica serves, by name; one can be replaced while requests are answered."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from reinforge.bundle.bundle import Bundle
from reinforge.bundle.text_form import TextForm
from reinforge.models.decoder import Decoder
from reinforge.serving.batching import Batcher
from reinforge.serving.limits import Limits
from reinforge.serving.metrics import Metrics
from reinforge.serving.refusals import Refused
from reinforge.serving.writing import Writer


@dataclass(frozen=True)
class Model:
    """A bundle under its name, and what waits for it; `writer` where it writes text."""

    name: str
    bundle: Bundle
    batcher: Batcher
    writer: Writer | None


class Models(Mapping[str, Model]):
    """Models by name."""

    def __init__(self, bundles: Mapping[str, Bundle], limits: Limits, metrics: Metrics) -> None:
        self.limits, self.metrics = limits, metrics
        # One thread computes at a time: more would only take turns.
        self.pool = ThreadPoolExecutor(1, "predict")
        self._models: dict[str, Model] = {}
        for name, bundle in bundles.items():
            self.put(name, bundle)

    def __getitem__(self, name: str) -> Model:
        return self._models[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._models)

    def __len__(self) -> int:
        return len(self._models)

    def put(self, name: str, bundle: Bundle) -> None:
        """Serve this bundle under the name from the next request on; those before it are answered by the one before."""
        observe = partial(self.metrics.computed, name)
        writer = None
        if isinstance(bundle.form, TextForm) and isinstance(bundle.model, Decoder) and bundle.model.options.causal:
            writer = Writer(name, bundle.model, bundle.form.pipeline, self.limits, self.pool, self.metrics)
        self._models[name] = Model(name, bundle, Batcher(bundle, self.limits, self.pool, observe), writer)

    def named(self, name: str) -> Model:
        """The model of this name. Raises Refused (404) that names those there are."""
        if name not in self._models:
            raise Refused(404, f"there is no model {name[:80]!r}", remedy=f"There are: {', '.join(self._models)}.")
        return self._models[name]

    @property
    def stuck(self) -> bool:
        """Whether a computation takes so long that it will hardly end."""
        models = self._models.values()
        return any(model.batcher.stuck or (model.writer is not None and model.writer.stuck) for model in models)

    def measure(self) -> None:
        """Bring the gauges up to date."""
        for name, model in self._models.items():
            self.metrics.waiting.labels(name).set(model.batcher.rows_waiting)
            if model.writer is not None:
                self.metrics.writing.labels(name, "waiting").set(model.writer.waiting)
                self.metrics.writing.labels(name, "running").set(model.writer.running)
