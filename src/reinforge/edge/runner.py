"""An export that predicts: numpy and onnxruntime are all it needs."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from reinforge.data.values import MEMORY, Origin
from reinforge.edge.description import Description, load
from reinforge.edge.reading import Array, Arrays, Row, Texts, reader
from reinforge.edge.readout import Actions, Prediction, Targets
from reinforge.errors import DataError, MissingExtra, RecipeError
from reinforge.messages import _

CHUNK = 1024
# Prompts that are gone on with at once: each pass reads all of what is there so far.
PROMPTS = 16


class Runner:
    """Predicts as the bundle did that was exported: `Runner(folder).predict(rows)`.

    `threads`: of onnxruntime; one is the quickest for few rows of a small model. Raises PathError, IntegrityError.
    """

    def __init__(self, folder: str | Path, threads: int = 1) -> None:
        self.description: Description = load(folder)
        if self.description.target != "onnx":
            raise RecipeError(
                _("it was exported to {target}, and this runs onnx").format(target=self.description.target),
                where=str(folder),
            )  # fmt: skip
        try:
            onnxruntime: Any = importlib.import_module("onnxruntime")
        except ImportError:
            raise MissingExtra("onnxruntime", "edge") from None
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self.session: Any = onnxruntime.InferenceSession(
            str(self.description.model), options, providers=["CPUExecutionProvider"]
        )
        self.takes = [port.name for port in self.description.inputs]
        self.gives = [port.name for port in self.description.outputs]
        self.read = reader(self.description)
        self._readout: Any = None if self.description.form == "text" else (
            Actions(self.description) if self.description.form == "observation" else Targets(self.description)
        )  # fmt: skip

    def run(self, inputs: Mapping[str, Array]) -> Arrays:
        """The graph alone: its inputs by name to its outputs."""
        return dict(zip(self.gives, self.session.run(None, {name: inputs[name] for name in self.takes})))

    def inputs(self, rows: Sequence[Row], origin: Origin = MEMORY) -> tuple[Arrays, Any]:
        """The graph's inputs for rows, and what predictions need beside. Raises DataError that names row and field."""
        return self.read(rows, origin)

    def predict(self, rows: Sequence[Row], origin: Origin = MEMORY) -> list[Prediction]:
        """One prediction per row, as `Bundle.predict` gives it. Raises DataError that names row and field."""
        given: object = rows
        if not isinstance(given, list | tuple):
            raise DataError(_("rows must be a list of objects"))
        found: list[Prediction] = []
        step = PROMPTS if self._readout is None else CHUNK
        for start in range(0, len(rows), step):
            part = rows[start : start + step]
            here = origin.take(np.arange(start, start + len(part)))
            inputs, beside = self.inputs(part, here)
            found += self._continued(beside, here) if self._readout is None else self._readout(self.run(inputs), beside)
        return found

    def _continued(self, prompts: list[list[int]], origin: Origin) -> list[Prediction]:
        """Texts gone on with the likeliest token each time. The graph has no cache: every step reads all again."""
        told, read = self.description.readout, self.read
        assert isinstance(read, Texts)
        rows, begin = [list(prompt) for prompt in prompts], [len(prompt) for prompt in prompts]
        for index, length in enumerate(begin):
            if length > told["context"]:
                raise DataError(
                    _("a prompt of {n} tokens does not fit a context of {context}").format(
                        n=length, context=told["context"]
                    ),
                    where=origin.at(index),
                )
        limits = [min(told["max_tokens"], told["context"] - length + 1) for length in begin]
        stopped, going = [False] * len(rows), list(range(len(rows)))
        while going:
            width = max(len(rows[index]) for index in going)
            tokens = np.zeros((len(going), width), np.int64)
            for place, index in enumerate(going):
                tokens[place, : len(rows[index])] = rows[index]
            logits = self.run({read.block: tokens})[self.gives[0]]
            for place, index in enumerate(list(going)):
                token = int(logits[place, len(rows[index]) - 1].argmax())
                rows[index].append(token)
                stopped[index] = token in told["stop"]
                if stopped[index] or len(rows[index]) - begin[index] >= limits[index]:
                    going.remove(index)
        return [
            {"text": {"text": read.tokenizer.decode(row[length:]), "stopped": ended}}
            for row, length, ended in zip(rows, begin, stopped)
        ]
