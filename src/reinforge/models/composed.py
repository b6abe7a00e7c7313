"""The composed model: encoders, fusion, body and heads; and the same contract around a user's own module."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NoReturn

import torch
from torch import Tensor, nn

from reinforge.core.batch import Batch
from reinforge.errors import ComponentError
from reinforge.models.fusion import Concat, Part
from reinforge.models.heads import Head, build_head
from reinforge.models.named import Named
from reinforge.models.options import ComposedOptions, GivenOptions
from reinforge.registry import REGISTRY
from reinforge.schema.signature import Input, Output, Signature


class Composed(nn.Module):
    """One encoder per input block, a fusion, a body, one head per output.

    Built from its options and the signature alone. forward: inputs by block to ({output: (rows, size)}, state).
    """

    def __init__(self, options: ComposedOptions, signature: Signature) -> None:
        super().__init__()
        _known("input", options.encoders, signature.inputs)
        _known("output", options.heads, signature.outputs)
        self.signature = signature
        encoders = {}
        for name, block in signature.inputs.items():
            chosen = options.encoders.get(name) or REGISTRY.find("encoder", _default_encoder(block)).options()
            encoders[name] = REGISTRY.build("encoder", chosen, block)
        # What an encoder found in files is kept, so that a bundle needs them no more.
        found = {name: encoder.described for name, encoder in encoders.items() if hasattr(encoder, "described")}
        self.described = options.model_copy(update={"encoders": {**options.encoders, **found}}) if found else options
        self.encoders = Named(encoders)
        parts = [Part(encoder.features, getattr(encoder, "token_features", None)) for encoder in encoders.values()]
        self.fusion = REGISTRY.build("fusion", options.fusion, parts)
        self.body = REGISTRY.build("body", options.body, self.fusion.features)
        heads = {}
        for name, output in signature.outputs.items():
            features = _read(name, output, encoders) if output.of is not None else self.body.features
            heads[name] = build_head(output, features, options.heads.get(name))
        self.heads = Named(heads)
        # Encoders whose sequence a head or the fusion reads.
        about = {output.of for output in signature.outputs.values()}
        self.reads = [
            name
            for name, part in zip(encoders, parts)
            if name in about or (self.fusion.sequences and part.token_features is not None)
        ]

        # Small networks are made of calls: the common way goes without those of the fusion.
        self.plain = not self.reads and isinstance(self.fusion, Concat)

    def forward(self, inputs: Batch, state: Batch | None = None) -> tuple[dict[str, Tensor], Batch | None]:
        if self.plain:
            parts = [encoder(inputs[name]) for name, encoder in self.encoders.items()]
            features, state = self.body(parts[0] if len(parts) == 1 else torch.cat(parts, -1), state)
            return {name: head(features) for name, head in self.heads.items()}, state
        sequences = {name: self.encoders[name].sequence(inputs[name]) for name in self.reads}  # type: ignore[operator]
        parts, masks = self._parts(inputs, sequences)
        features, state = self.body(self.fusion(parts, masks), state)
        outputs = {}
        for name, head in self.heads.items():
            of = self.signature.outputs[name].of
            outputs[name] = head(features) if of is None else head(*sequences[of])
        return outputs, state

    def _parts(
        self, inputs: Batch, sequences: Mapping[str, tuple[Tensor, Tensor]]
    ) -> tuple[list[Tensor], list[Tensor | None]]:
        """What the fusion takes: each encoder's features, or its sequence, and a mask."""
        parts: list[Tensor] = []
        masks: list[Tensor | None] = []
        for name, encoder in self.encoders.items():
            mask: Tensor | None
            if self.fusion.sequences and name in sequences:
                part, mask = sequences[name]
            else:
                part = encoder.pool(*sequences[name]) if name in sequences else encoder(inputs[name])  # type: ignore[operator]
                present = getattr(encoder, "present", None)
                mask = present(inputs[name]) if present is not None and self.fusion.masks else None
            parts.append(part)
            masks.append(mask)
        return parts, masks

    def observe(self, inputs: Batch) -> None:
        """Show training rows to the encoders that take statistics of them (quantiles, say), once, before training."""
        for name, encoder in self.encoders.items():
            take = getattr(encoder, "observe", None)
            if take is not None:
                take(inputs[name])

    def initial_state(self, n: int) -> Batch | None:
        """The body's; None for a body without memory."""
        state: Batch | None = self.body.initial_state(n)
        return state

    def decode(self, outputs: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
        """What each head makes of its output, by output."""
        return decode(self.heads, outputs)


class Wrapped(nn.Module):
    """A user's own module behind the model's contract: `module` maps the one input block to the one output.

    Its result may be (rows,) or (rows, size) for numbers; (rows, classes) logits for a category.
    """

    def __init__(self, module: nn.Module, signature: Signature) -> None:
        super().__init__()
        for what, found in (("input block", signature.inputs), ("output", signature.outputs)):
            if len(found) != 1:
                raise ComponentError(
                    f"a plain module takes one {what}, and here are {len(found)}: {', '.join(found)}",
                    where=type(module).__name__,
                    remedy="Give it forward(inputs, state=None) -> (outputs by name, state) and initial_state(n).",
                )
        self.module, self.signature = module, signature
        (self.block,), (self.name,) = signature.inputs, signature.outputs
        self.heads = Named({self.name: build_head(signature.outputs[self.name])})
        self.size = signature.outputs[self.name].size

    def forward(self, inputs: Batch, state: Batch | None = None) -> tuple[dict[str, Tensor], Batch | None]:
        block = inputs[self.block]
        first = next(self.module.parameters(), None)
        if first is not None and isinstance(block, Tensor) and block.is_floating_point():
            block = block.to(first.dtype)
        output: Tensor = self.module(block).float()
        if output.ndim == 1 and self.size == 1:
            output = output[:, None]
        if output.shape[-1] != self.size:
            raise ComponentError(
                f"it gave {tuple(output.shape)} where (rows, {self.size}) belongs", where=type(self.module).__name__
            )
        return {self.name: output}, state

    def initial_state(self, n: int) -> Batch | None:
        """None: a plain module has no memory."""
        return None

    def decode(self, outputs: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
        """What the head makes of the output."""
        return decode(self.heads, outputs)


def given_in_python(options: GivenOptions, signature: Signature) -> NoReturn:
    """A user's own module can't be built from a recipe alone. Raises ComponentError."""
    raise ComponentError(
        f"the module {options.name!r} was given in Python", where="model", remedy="Pass it: train(..., model=module)."
    )


def decode(heads: Named, outputs: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Each head's decoding of its output."""
    decoded = {}
    for name, head in heads.items():
        assert isinstance(head, Head)
        decoded[name] = head.decode(outputs[name])
    return decoded


def _default_encoder(block: Input) -> str:
    return {"categories": "embedding", "image": "cnn", "tokens": "bag"}.get(block.form, "flatten")


def _read(name: str, output: Output, encoders: Mapping[str, nn.Module]) -> int:
    """The features of the sequence that an output is about. Raises ComponentError where there is none."""
    encoder = encoders.get(output.of or "")
    features = getattr(encoder, "token_features", None)
    if not isinstance(features, int):
        having = [other for other, found in encoders.items() if hasattr(found, "token_features")]
        raise ComponentError(
            f"it is about the tokens of {output.of!r}, which has no encoder that gives them",
            where=f"output {name!r}",
            remedy=f"Inputs that have one: {', '.join(having) or 'none'}.",
        )
    return features


def _known(what: str, named: Mapping[str, object], known: Mapping[str, object]) -> None:
    for name in named:
        if name not in known:
            raise ComponentError(f"there is no {what} called {name!r}", remedy=f"There are: {', '.join(known)}.")
