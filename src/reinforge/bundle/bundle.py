"""A loaded bundle: predict, and look at what it was made from."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from reinforge.bundle.forms import ROWS, Form, Row
from reinforge.bundle.network import Blueprint
from reinforge.bundle.readout import Prediction
from reinforge.bundle.task import Task
from reinforge.core import tensor_files
from reinforge.core.batch import Batch, rows, split, to
from reinforge.data.values import Origin
from reinforge.errors import BundleError, DataError
from reinforge.schema.schema import Schema
from reinforge.schema.signature import Signature
from reinforge.storage.folder import Folder
from reinforge.storage.strict_json import Json


@dataclass
class Bundle:
    """A model with everything it needs to predict. `parents` are the digests of the bundles it was tuned from; `folder`
    is where it lies (None before it is written)."""

    schema: Schema
    form: Form
    blueprint: Blueprint
    model: nn.Module
    task: Task
    provenance: Json
    reference: Json
    parents: tuple[str, ...] = ()
    folder: Folder | None = None
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def signature(self) -> Signature:
        """What the model takes and gives."""
        return self.blueprint.signature

    @property
    def digest(self) -> str:
        """SHA-256 of the manifest: it stands for every byte of the bundle."""
        return self._stored().manifest.digest

    @property
    def path(self) -> Path:
        """Its folder."""
        return self._stored().path

    def predict(self, data: object) -> list[Prediction]:
        """Predictions for rows (a list of mappings), columns (a mapping), a polars or pandas frame, or a Table.

        One dictionary per row, by output: {"label", "probabilities"}, {"labels", "probabilities"}, {"value"}, {"span",
        "text"}, {"action"} or {"text", "stopped"}.
        Raises DataError that names the row and the field.
        """
        return [prediction for part in self.predictions(data) for prediction in part]

    def predictions(self, data: object) -> Iterator[list[Prediction]]:
        """Like `predict`, some rows at a time."""
        if isinstance(data, Sequence) and not isinstance(data, str | bytes):
            for start in range(0, len(data), self.form.chunk):
                part = data[start : start + self.form.chunk]
                origin = Origin(places=range(start, start + len(part)))
                yield self.read_out(self.form.inputs(part, origin), origin)
            return
        inputs, start = self.form.table_inputs(data), 0
        for batch in split(inputs, self.form.chunk):
            yield self.read_out(batch, Origin(places=range(start, start + rows(batch))))
            start += rows(batch)

    def predict_each(self, given: Sequence[Row]) -> list[Prediction | DataError]:
        """Like `predict` for rows, but a bad row gives its own error in its place, and the others are answered."""
        found: list[Prediction | DataError] = []
        chunk = self.form.chunk
        waiting = [(start, min(start + chunk, len(given))) for start in range(0, len(given), chunk)][::-1]
        while waiting:
            start, stop = waiting.pop()
            origin = Origin(places=range(start, stop))
            try:
                found += self.read_out(self.form.inputs(given[start:stop], origin), origin)
            except DataError as error:
                if stop - start == 1:
                    found.append(error)
                else:  # halve until the bad rows stand alone, from the left
                    middle = (start + stop) // 2
                    waiting += [(middle, stop), (start, middle)]
        return found

    def forward(self, inputs: Batch) -> dict[str, Tensor]:
        """The model's outputs for its inputs, without gradients: {head: (rows, ...)}."""
        with torch.inference_mode():
            outputs, _state = self.model(inputs if self.device.type == "cpu" else to(inputs, self.device))
        found: dict[str, Tensor] = outputs
        return found

    def read_out(self, inputs: Batch, origin: Origin = ROWS) -> list[Prediction]:
        """Predictions for inputs that the form has made from the rows of `origin`."""
        if rows(inputs) == 0:
            return []
        with torch.inference_mode():
            return self.form.values(inputs, self.forward, self.model, self.task, origin)

    def training(self) -> dict[str, Tensor] | None:
        """What learning can go on from (optimiser, critics, targets, ...), by name; None where the bundle has none."""
        folder = self._stored()
        name = "training.safetensors"
        return tensor_files.read_checked(folder, name) if name in folder else None

    def _stored(self) -> Folder:
        if self.folder is None:
            raise BundleError("it is not written yet")
        return self.folder


def outputs_of(prediction: Mapping[str, Mapping[str, object]]) -> dict[str, object]:
    """A prediction as flat columns: each output's main value under its name, sets of labels as a JSON list;
    probabilities as "output.label", vectors as "output.column"."""
    flat: dict[str, object] = {}
    for name, value in prediction.items():
        main = next(key for key in ("label", "labels", "value", "action", "text") if key in value)
        if isinstance(vector := value[main], Mapping):
            flat.update({f"{name}.{column}": number for column, number in vector.items()})
            continue
        flat[name] = json.dumps(value[main], ensure_ascii=False) if main == "labels" else value[main]
        probabilities = value.get("probabilities")
        if isinstance(probabilities, Mapping):
            flat.update({f"{name}.{label}": p for label, p in probabilities.items()})
    return flat
