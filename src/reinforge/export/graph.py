"""A bundle's model as one graph of tensors: flat inputs by name, with the preprocessing that operators can say."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from reinforge.bundle.bundle import Bundle
from reinforge.bundle.forms import TableForm
from reinforge.core.batch import Batch
from reinforge.data.blocks import NumbersBlock
from reinforge.data.operations.numbers import Blank, Clip, Impute, Indicate, Log, Operation, Scale
from reinforge.edge.description import LENGTHS, MEMORY, START, Port
from reinforge.errors import ComponentError, RecipeError
from reinforge.messages import _
from reinforge.models.composed import Composed
from reinforge.models.decoder import Decoder
from reinforge.models.policy import Policy
from reinforge.models.tokens import Padded

ROWS, TIME = "rows", "time"


class Preparation(nn.Module):
    """The pipeline's operations on numbers as a graph: float64 (rows, columns) with NaN where missing to float32."""

    def __init__(self, operations: Sequence[Operation]) -> None:
        super().__init__()
        self.operations = tuple(operations)
        for index, step in enumerate(operations):
            for name, array in step.arrays().items():
                self.register_buffer(f"{name}{index}", torch.from_numpy(np.array(array)), persistent=False)

    def forward(self, block: Tensor) -> Tensor:
        for index, step in enumerate(self.operations):
            held = {name: cast(Tensor, getattr(self, f"{name}{index}")) for name in step.arrays()}
            match step:
                case Blank():
                    block = torch.where((block < held["low"]) | (block > held["high"]), math.nan, block)
                case Clip():
                    # Comparisons are false for NaN, which stays.
                    block = torch.where(block < held["low"], held["low"], block)
                    block = torch.where(block > held["high"], held["high"], block)
                case Indicate():
                    block = torch.cat([block, block.index_select(1, held["columns"]).isnan().double()], 1)
                case Impute():
                    block = torch.where(block.isnan(), held["fill"], block)
                case Log():
                    chosen = torch.zeros(block.shape[1], dtype=torch.bool).index_fill(0, held["columns"], True)
                    block = torch.where(chosen, block.sign() * block.abs().log1p(), block)
                case Scale():
                    block = (block - held["shift"]) / held["scale"]
        return block.float()


class Graph(nn.Module):
    """The bundle's model behind positional tensors: the inputs of `ports`, then the outputs of `gives`, in order.

    Numbers of a table come as they are read, in double precision; tokens as ids filled up with 0, and their lengths; a
    policy's memory as its tensors, with where an episode starts.
    """

    def __init__(self, bundle: Bundle) -> None:
        super().__init__()
        self.model = bundle.model
        if isinstance(self.model, Decoder) and not self.model.options.causal:
            # Filled-up rows would be seen: its graph has no lengths.
            raise ComponentError(
                _("an encoder of text has no graph of its own"), where=str(bundle.path),
                remedy=_("Serve the bundle itself: reinforge serve BUNDLE."),
            )  # fmt: skip
        self.signature = bundle.signature
        self.ports: list[Port] = []
        # By the side of a shape that says how many tokens there are, the input.
        self.times: dict[str, str] = {}
        self.preparation: Preparation | None = None
        numbers = bundle.form.pipeline.blocks.get("numbers") if isinstance(bundle.form, TableForm) else None
        for name, block in self.signature.inputs.items():
            if isinstance(numbers, NumbersBlock) and name == "numbers":
                self.preparation = Preparation(numbers.operations)
                self.ports.append(Port(name, "float64", (ROWS, len(numbers.reader.numbers))))
                continue
            match block.form:
                case "tokens":
                    # Two texts of a row have lengths of their own.
                    side = f"{TIME}{len(self.times) or ''}"
                    self.times[side] = name
                    self.ports.append(Port(name, "int64", (ROWS, side)))
                    if not isinstance(self.model, Decoder):
                        self.ports.append(Port(f"{name}{LENGTHS}", "int64", (ROWS,)))
                case "categories":
                    self.ports.append(Port(name, "int64", (ROWS, len(block.sizes))))
                case "image":
                    self.ports.append(Port(name, "uint8", (ROWS, *block.shape)))
                case _:
                    self.ports.append(Port(name, _box_dtype(bundle, name), (ROWS, *block.shape)))
        taken = {port.name for port in self.ports}
        # Names stand once in a graph.
        self.named = {name: f"{name} logits" if name in taken else name for name in self.signature.outputs}
        self.gives = [Port(name, "float32", (ROWS, *self._sides(key))) for key, name in self.named.items()]
        state = self.model.initial_state(1) if isinstance(self.model, Policy) else None
        self.state = list(state or ())
        if state is not None:
            for name, value in state.items():
                assert isinstance(value, Tensor)
                port = Port(f"{MEMORY}{name}", str(value.dtype).removeprefix("torch."), (ROWS, *value.shape[1:]))
                self.ports.append(port)
                self.gives.append(Port(f"{MEMORY}{name} after", port.dtype, port.shape))
            self.ports.append(Port(START, "bool", (ROWS,)))
        names = [port.name for port in self.ports]
        if len(set(names)) != len(names):
            raise RecipeError(
                _("two inputs of the graph would have one name: {names}").format(names=", ".join(names)),
                where=str(bundle.path), remedy=_("Rename the column."),
            )  # fmt: skip

    def forward(self, *given: Tensor) -> tuple[Tensor, ...]:
        """One tensor per port, to one per output."""
        tensors = dict(zip((port.name for port in self.ports), given))
        inputs: dict[str, Any] = {}
        for name, block in self.signature.inputs.items():
            value = tensors[name]
            if name == "numbers" and self.preparation is not None:
                value = self.preparation(value)
            if block.form == "tokens" and f"{name}{LENGTHS}" in tensors:
                lengths = tensors[f"{name}{LENGTHS}"]
                mask = torch.arange(value.shape[1], device=value.device) < lengths[:, None]
                inputs[name] = Padded(value, mask, lengths, False)
            else:
                inputs[name] = value
        state: Batch | None = None
        if self.state:
            inputs["start"] = tensors[START]
            state = {name: tensors[f"{MEMORY}{name}"] for name in self.state}
        outputs, after = self.model(inputs, state)
        found = [outputs[name] for name in self.signature.outputs]
        return (*found, *(cast("Mapping[str, Tensor]", after)[name] for name in self.state))

    def _sides(self, name: str) -> tuple[int | str, ...]:
        output = self.signature.outputs[name]
        if output.form == "span":
            return (2, output.size)
        return (TIME, output.size) if output.form == "tokens" else (output.size,)

    @property
    def varies(self) -> bool:
        """Whether lengths vary."""
        return bool(self.times)

    def longest(self, side: str) -> int | None:
        """The most tokens of a row, by the side of `times`; None where nothing bounds them."""
        if isinstance(self.model, Decoder):
            return self.model.options.context
        name, model = self.times[side], self.model
        reading = model.encoders[name] if isinstance(model, Composed) and name in model.encoders else model
        contexts = [c for m in reading.modules() if isinstance(c := getattr(m, "context", None), int)]
        return min((*self.signature.inputs[name].shape[:1], *contexts), default=None)


def _box_dtype(bundle: Bundle, name: str) -> str:
    fields = {field.name: field for field in bundle.schema.inputs}
    return "uint8" if getattr(fields.get(name), "dtype", "") == "uint8" else "float32"
