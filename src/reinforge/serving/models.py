"""The bundles a replica serves, by name; one can be replaced while requests are answered."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial

from reinforge.bundle.bundle import Bundle
from reinforge.bundle.text_form import TextForm
from reinforge.models.decoder import Decoder
from reinforge.serving.batching import Batcher
from reinforge.serving.limits import Limits
from reinforge.serving.metrics import Metrics
from reinforge.serving.refusals import Refused
from reinforge.serving.trials import SERVED_BY, Trial, candidate, is_candidate
from reinforge.serving.writing import Writer


@dataclass(frozen=True)
class Model:
    """A bundle under its name, and what waits for it; `writer` where it writes text."""

    name: str
    bundle: Bundle
    batcher: Batcher
    writer: Writer | None


def writes(bundle: Bundle) -> bool:
    """Whether it writes text."""
    return isinstance(bundle.form, TextForm) and isinstance(bundle.model, Decoder) and bundle.model.options.causal


class Models(Mapping[str, Model]):
    """Models by name."""

    def __init__(self, bundles: Mapping[str, Bundle], limits: Limits, metrics: Metrics) -> None:
        self.limits, self.metrics = limits, metrics
        # One thread computes at a time: more would only take turns. Candidates have one each, so that nobody waits
        # for them who did not ask them.
        self.pool = ThreadPoolExecutor(1, "predict")
        self._models: dict[str, Model] = {}
        self._trials: dict[str, Trial] = {}
        # Folders that were served before, by name.
        self.previous: dict[str, str] = {}
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
        before = self._models.get(name)
        if before is not None and str(before.bundle.path) != str(bundle.path):
            self.previous[name] = str(before.bundle.path)
        observe = partial(self.metrics.computed, name)
        writer = None
        if isinstance(bundle.form, TextForm) and isinstance(bundle.model, Decoder) and writes(bundle):
            writer = Writer(name, bundle.model, bundle.form.pipeline, self.limits, self.pool, self.metrics)
        pool, limits = self.pool, self.limits
        if is_candidate(name):
            pool, limits = ThreadPoolExecutor(1, "candidate"), replace(limits, inline=0.0)
        self._models[name] = Model(name, bundle, Batcher(bundle, limits, pool, observe), writer)

    def named(self, name: str) -> Model:
        """The model of this name. Raises Refused (404) that names those there are."""
        if name not in self._models:
            raise Refused(404, f"there is no model {name[:80]!r}", remedy=f"There are: {', '.join(self._models)}.")
        return self._models[name]

    def change(self, bundles: Mapping[str, Bundle], trials: Mapping[str, Trial | None]) -> None:
        """Serve other bundles and trials from the next request on."""
        for name, bundle in bundles.items():
            self.put(name, bundle)
        for name, trial in trials.items():
            self.put_trial(name, trial)

    @property
    def trials(self) -> Mapping[str, Trial]:
        """How candidates are tried, by the name beside which each is."""
        return self._trials

    def trial(self, name: str) -> Trial | None:
        """How a candidate for this name is tried; None where there is none."""
        return self._trials.get(name)

    def put_trial(self, name: str, trial: Trial | None) -> None:
        """Begin a trial, whose bundle was put before, or end it: then its bundle goes."""
        if trial is not None:
            self._trials[name] = trial
        else:
            self._trials.pop(name, None)
            self._models.pop(candidate(name), None)

    def chosen(self, name: str) -> Model:
        """Which model answers the next request for this name: its candidate as often as its trial says. Raises
        Refused (404)."""
        model, trial = self.named(name), self._trials.get(name)
        if trial is None or random.random() >= trial.weight:
            return model
        return self._models[candidate(name)]

    def served_by(self, name: str, model: Model) -> dict[str, str]:
        """The header of an answer that says which of two bundles gave it, where one is tried for this name."""
        return {SERVED_BY: model.name} if name in self._trials else {}

    def close(self) -> None:
        """Give the threads back."""
        for pool in (self.pool, *(model.batcher.pool for model in self._models.values())):
            pool.shutdown(wait=False, cancel_futures=True)

    @property
    def stuck(self) -> bool:
        """Whether a computation takes so long that it will hardly end. A shadow's are nobody's loss."""
        shadows = {candidate(name) for name, trial in self._trials.items() if trial.shadow}
        models = [model for name, model in self._models.items() if name not in shadows]
        return any(model.batcher.stuck or (model.writer is not None and model.writer.stuck) for model in models)

    def measure(self) -> None:
        """Bring the gauges up to date."""
        for name, model in self._models.items():
            self.metrics.waiting.labels(name).set(model.batcher.rows_waiting)
            if model.writer is not None:
                self.metrics.writing.labels(name, "waiting").set(model.writer.waiting)
                self.metrics.writing.labels(name, "running").set(model.writer.running)
