"""Rows of observations of a policy, and the actions it takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, cast

import numpy as np
import torch
from torch import Tensor, nn

from reinforge.bundle.forms import ROWS, Forward, Row
from reinforge.bundle.readout import Prediction
from reinforge.bundle.task import Task
from reinforge.core.batch import Batch, to
from reinforge.core.batch import rows as rows_of
from reinforge.data.values import Origin
from reinforge.environments.parts import Part
from reinforge.errors import DataError, IntegrityError
from reinforge.models.policy import Policy
from reinforge.schema.fields import Box, Continuous, Discrete, MultiDiscrete
from reinforge.schema.schema import Schema
from reinforge.schema.signature import Signature
from reinforge.storage.strict_json import Json

Array = np.ndarray[Any, Any]
# What a row calls the memory of its episode.
MEMORY = "memory"


class ObservationForm:
    """Rows {part: value} of observations, "observation" alone where they have no parts, and the actions of a policy.

    A policy with a memory gives it with each action, and a row brings it back as "memory"; a row without one begins an
    episode. So nothing is kept between requests, and any replica can answer the next one.
    """

    kind: ClassVar[str] = "observation"
    chunk: ClassVar[int] = 4096

    def __init__(self, schema: Schema, signature: Signature) -> None:
        boxes = [field for field in schema.inputs if isinstance(field, Box)]
        names = [box.name for box in boxes]
        if not boxes or len(boxes) != len(schema.inputs) or set(names) != set(signature.inputs):
            raise IntegrityError("a policy takes boxes, each an input of its model", where="schema.json")
        if list(signature.outputs) != ["action"] or len(schema.targets) != 1:
            raise IntegrityError("a policy gives one action", where="schema.json")
        self.schema = schema
        self.parts = [Part(box, signature.inputs[box.name]) for box in boxes]
        action, self.output = schema.targets[0], signature.outputs["action"]
        match action:
            case Discrete():
                fits = self.output.form == "discrete" and self.output.size == action.n
                self.first: Array = np.array(action.start)
            case MultiDiscrete():
                fits = self.output.form == "multi-discrete" and self.output.sizes == action.sizes
                self.first = np.array(action.starts or (0,) * len(action.sizes))
            case Continuous():
                fits = self.output.form == "continuous" and self.output.size == len(action.low)
            case _:
                fits = False
        if not fits:
            raise IntegrityError("the schema and the model do not fit each other", where="schema.json")

    def save(self) -> tuple[Json, dict[str, Tensor]]:
        """Nothing: normalising is inside the model."""
        return {}, {}

    @classmethod
    def load(
        cls, schema: Schema, signature: Signature, description: Json, tensors: Mapping[str, Tensor]
    ) -> ObservationForm:
        """Raises IntegrityError unless there are boxes and one action, and nothing else."""
        if description != {} or tensors:
            raise IntegrityError("a policy's pipeline holds nothing", where="pipeline.json")
        return cls(schema, signature)

    def inputs(self, rows: Sequence[Row], origin: Origin = ROWS) -> Batch:
        """{part: float32 or uint8 (n, *shape), or int64 (n, columns) for choices}."""
        found: dict[str, Tensor] = {}
        for part in self.parts:
            name, arrays = part.name, []
            for index, row in enumerate(rows):
                if not isinstance(row, Mapping) or name not in row:
                    raise DataError(f"the field {name!r} is missing", where=origin.at(index, name))
                arrays.append(part.checked(row[name], part.box.shape, origin.at(index, name)))
            found[name] = torch.from_numpy(part.array(np.stack(arrays) if arrays else np.empty((0, *part.box.shape))))
        if MEMORY not in found and any(row.get(MEMORY) is not None for row in rows):
            return {**found, MEMORY: remembered([row.get(MEMORY) for row in rows], origin)}
        return found

    def table_inputs(self, data: object) -> Batch:
        """From {part: (n, *shape)}; where there is one part only, from that array itself too."""
        found = {}
        for part in self.parts:
            if isinstance(data, Mapping) and part.name in data:
                array = data[part.name]
            elif len(self.parts) == 1:
                array = data
            else:
                raise DataError(f"the field {part.name!r} is missing", where=part.name)
            sized = isinstance(array, np.ndarray | Tensor | Sequence)
            shape = (len(array), *part.box.shape) if sized else part.box.shape
            found[part.name] = torch.from_numpy(part.array(part.checked(array, shape, part.name)))
        return found

    def values(
        self, inputs: Batch, forward: Forward, model: nn.Module, task: Task, origin: Origin = ROWS
    ) -> list[Prediction]:
        """{"action": {"action"}}: the number of the action or of each choice, or coordinates in the environment's
        units. Of a policy with a memory "memory" too, by name: what the episode's next row brings back."""
        outputs, memories = _outputs(inputs, forward, model, origin)
        action = outputs["action"].float().cpu()
        known = action.isfinite().all(-1).tolist()
        match self.output.form:
            case "discrete":
                chosen = (action.argmax(-1).numpy() + self.first).tolist()
            case "multi-discrete":
                each = [scores.argmax(-1) for scores in torch.split(action, list(self.output.sizes), -1)]
                chosen = (torch.stack(each, -1).numpy() + self.first).tolist()
            case _:
                chosen = action.clamp(torch.tensor(self.output.low), torch.tensor(self.output.high)).tolist()
        actions: list[dict[str, object]] = [{"action": a if ok else None} for a, ok in zip(chosen, known)]
        for told, memory in zip(actions, memories):
            told[MEMORY] = memory
        return [{"action": told} for told in actions]


def remembered(given: Sequence[object], origin: Origin) -> dict[str, Tensor]:
    """Memories that rows bring, as tensors (n, ...) by name, with "given" (n,) False where a row brings none. Raises
    DataError for what is no memory."""
    first = next(memory for memory in given if memory is not None)
    names = list(first) if isinstance(first, Mapping) else []
    found: dict[str, list[Array]] = {name: [] for name in names}
    shapes: dict[str, tuple[int, ...]] = {}
    for index, memory in enumerate(given):
        if memory is None:
            continue
        where = origin.at(index, MEMORY)
        if not names or not isinstance(memory, Mapping) or list(memory) != names:
            raise DataError("it is no memory: give what came with the action before, as it is", where=where)
        for name in names:
            try:
                with np.errstate(over="ignore"):
                    array = np.asarray(memory[name], dtype=np.float32)
            except (ValueError, TypeError):
                array = np.asarray(np.nan)
            if not np.isfinite(array).all() or array.shape != shapes.setdefault(name, array.shape):
                raise DataError(f"its {name!r} is no array of numbers of the same shape in each row", where=where)
            found[name].append(array)
    there = torch.tensor([memory is not None for memory in given])
    tensors = {name: torch.zeros(len(given), *shapes[name]) for name in names}
    for name, arrays in found.items():
        tensors[name][there] = torch.from_numpy(np.stack(arrays))
    return {**tensors, "given": there}


def _outputs(
    inputs: Batch, forward: Forward, model: nn.Module, origin: Origin
) -> tuple[dict[str, Tensor], list[dict[str, object]]]:
    """The model's outputs and, where it has a memory, that of each row after it."""
    if not isinstance(model, Policy):
        return forward(inputs), []
    count, brought = rows_of(inputs), inputs.get(MEMORY)
    state = model.initial_state(count)
    if state is None:
        if isinstance(brought, Mapping):
            raise DataError("this policy has no memory", where=origin.at(0, MEMORY), remedy='Leave out "memory".')
        return forward(inputs), []
    # A row without a memory begins an episode: what it sees stands for what came before it, too.
    start = torch.ones(count, dtype=torch.bool)
    if isinstance(brought, Mapping):
        names = [name for name in brought if name != "given"]
        sizes = {name: cast(Tensor, value).shape for name, value in state.items()}
        if set(names) != set(sizes) or any(cast(Tensor, brought[name]).shape != sizes[name] for name in names):
            expected = ", ".join(f"{name} {tuple(size[1:])}" for name, size in sizes.items())
            raise DataError(f"the memory is not this policy's, which is {expected}", where=origin.at(0, MEMORY))
        there = cast(Tensor, brought["given"])
        for name, value in state.items():
            assert isinstance(value, Tensor)
            value[there.to(value.device)] = cast(Tensor, brought[name])[there].to(value)
        start = ~there
    device = model.low.device
    observed = {**{name: value for name, value in inputs.items() if name != MEMORY}, "start": start}
    outputs, after = model(to(observed, device), state)
    held = {name: cast(Tensor, value).cpu().tolist() for name, value in after.items()}
    return outputs, [{name: values[index] for name, values in held.items()} for index in range(count)]
