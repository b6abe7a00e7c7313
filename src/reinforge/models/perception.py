"""What a policy makes of an observation: an encoder for each of its parts, and running statistics where wanted."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import cast

import torch
from torch import Tensor, nn

from reinforge.core.batch import Batch
from reinforge.errors import ComponentError
from reinforge.models.encoders import Flatten
from reinforge.models.frames import Frames, merged, stacked
from reinforge.models.normaliser import Normaliser
from reinforge.models.policy_options import PolicyOptions
from reinforge.registry import REGISTRY
from reinforge.schema.signature import Input, Signature


class Perception(nn.Module):
    """Raw observations as features (..., features), each part through its encoder, end to end; of the last few
    observations, where the options say so.

    Boxes are normalised first where the options say so; images never are, for their bytes have a range of their own.
    """

    def __init__(self, options: PolicyOptions, signature: Signature) -> None:
        super().__init__()
        unknown = [name for name in options.encoders if name not in signature.inputs]
        if unknown:
            raise ComponentError(
                f"observations have no part {unknown[0]!r}",
                where="model.encoders",
                remedy=f"Known: {', '.join(signature.inputs)}.",
            )
        self.blocks = dict(signature.inputs)
        self.frames = Frames(self.blocks, options.frames) if options.frames > 1 else None
        encoders, normalisers = {}, {}
        for name, block in self.blocks.items():
            chosen = options.encoders.get(name) or REGISTRY.find("encoder", _default(block)).options()
            encoders[key(name)] = REGISTRY.build("encoder", chosen, stacked(block, options.frames))
            if options.normalise and block.form == "box":
                normalisers[key(name)] = Normaliser(block.shape)
        self.encoders, self.normalisers = nn.ModuleDict(encoders), nn.ModuleDict(normalisers)
        self.features = sum(int(cast(int, encoder.features)) for encoder in encoders.values())
        # Whether anything in it learns: what several networks look through can be shared only where nothing does.
        self.learns = any(parameter.requires_grad for parameter in self.parameters())

    @cached_property
    def only(self) -> str | None:
        """The one part whose numbers are its features as they are, where that is all it does."""
        (name, block), *more = self.blocks.items()
        simple = block.form == "box" and len(block.shape) == 1 and isinstance(self.encoders[key(name)], Flatten)
        return name if simple and not more and not self.normalisers and self.frames is None else None

    def forward(self, inputs: Batch) -> Tensor:
        """Parts (..., *shape) with the same leading dimensions, one or more, to (..., features)."""
        return self.see(inputs, None)[0]

    def see(self, inputs: Batch, state: Batch | None) -> tuple[Tensor, Batch | None]:
        """The same, with what was seen before: features, and the state with what is seen now in it."""
        if self.frames is None:
            return self._encoded(inputs), state
        frames, state = self.frames(inputs, state)
        return self._encoded(frames), state

    def initial_state(self, n: int) -> dict[str, Tensor]:
        """Nothing seen before, for n observations; empty where one frame is all that counts."""
        device = next((tensor.device for tensor in (*self.parameters(), *self.buffers())), torch.device("cpu"))
        return self.frames.initial_state(n, device) if self.frames is not None else {}

    def _encoded(self, inputs: Batch) -> Tensor:
        if self.only is not None:
            value = cast(Tensor, inputs[self.only])
            if value.dtype == torch.float32:
                return value
        found = [self._part(name, block, cast(Tensor, inputs[name])) for name, block in self.blocks.items()]
        return found[0] if len(found) == 1 else torch.cat(found, -1)

    def _part(self, name: str, block: Input, value: Tensor) -> Tensor:
        if key(name) in self.normalisers:
            value = self.normalisers[key(name)](value.float())
        encoder = self.encoders[key(name)]
        inner = 1 if block.form == "categories" else len(block.shape)
        if self.frames is not None:
            value = merged(block, value)
            inner += block.form != "categories" and len(block.shape) != 3
        leading = value.shape[: value.ndim - inner]
        if len(leading) == 1:
            return cast(Tensor, encoder(value))
        rows = value.reshape(-1, *value.shape[value.ndim - inner :])
        return cast(Tensor, encoder(rows).unflatten(0, leading))

    def statistics(self) -> dict[str, Normaliser]:
        """The running statistics by the part of the observation they are of."""
        return {
            name: cast(Normaliser, self.normalisers[key(name)]) for name in self.blocks if key(name) in self.normalisers
        }

    def observe(self, moments: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Take in the moments of new observations, by part."""
        for name, normaliser in self.statistics().items():
            normaliser.update(**moments[name])


def key(name: str) -> str:
    """A part's name as that of a module, which can't hold a dot."""
    return name.replace(".", "/")


def _default(block: Input) -> str:
    match block.form:
        case "categories":
            return "one-hot"
        case "image":
            return "nature-cnn"
        case _:
            return "flatten"
