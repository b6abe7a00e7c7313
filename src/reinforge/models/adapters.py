"""Low-rank adapters of linear layers: few weights learn beside the frozen ones, and are added to them at the end.

LoRA (arXiv:2106.09685), rank-stabilised (arXiv:2312.03732), with a learned magnitude (DoRA, arXiv:2402.09353), over
weights in 4 bits (QLoRA, arXiv:2305.14314). Works on every linear layer of any model; of joined ones (queries, keys and
values in one) each part has an adapter of its own.

Shape suffixes: n any, i inputs, o outputs, r rank.
"""

from __future__ import annotations

import difflib
import fnmatch
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reinforge.errors import RecipeError
from reinforge.messages import _
from reinforge.models.decoder_options import LoRAOptions
from reinforge.models.four_bit import dequantise, product, quantise

NAMES = ("lora_a", "lora_b", "magnitude")


class Part(NamedTuple):
    """Outputs `start` to `stop` of a layer, by the name of the layer or of its part."""

    name: str
    start: int
    stop: int


class AdaptedLinear(nn.Linear):
    """y = x W^T + b + scale (x A^T) B^T, for the parts that are adapted; with a magnitude m, W + scale B A is
    divided by the norms of its rows (without gradients through them) and multiplied by m. What a linear layer becomes
    in place."""

    lora_a: nn.Parameter
    lora_b: nn.Parameter
    magnitude: nn.Parameter | None
    adapted: tuple[Part, ...]
    scale: float
    rank: int
    rate: float
    active: bool
    original: type[nn.Linear]

    def forward(self, x: Tensor) -> Tensor:
        if not self.active:
            return self.frozen(x, self.bias)
        dropped = F.dropout(x, self.rate, self.training) if self.rate else x
        low = F.linear(dropped, self.lora_a)
        if self.magnitude is None:
            return self._added(self.frozen(x, self.bias), low)
        plain = self.frozen(x, None)
        both = self._added(plain, low)
        with torch.no_grad():
            norm_o: Tensor = torch.linalg.vector_norm(self._updated(), dim=1).to(both.dtype)
        scaled: Tensor = both * (self._spread(self.magnitude, norm_o) / norm_o)
        return scaled if self.bias is None else scaled + self.bias

    def frozen(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """What the layer does without its adapters."""
        return F.linear(x, self.weight, bias)

    def unfrozen(self, weight_oi: Tensor, others: torch.dtype | None) -> None:
        """Take this weight in place of the frozen one; `others`: the type of the weights around it."""
        self.weight.copy_(weight_oi)

    def _added(self, plain: Tensor, low: Tensor) -> Tensor:
        pieces, end, row = [], 0, 0
        for place, part in enumerate(self.adapted):
            if part.start > end:
                pieces.append(plain[..., end : part.start])
            size = part.stop - part.start
            delta = F.linear(low[..., place * self.rank : (place + 1) * self.rank], self.lora_b[row : row + size])
            pieces.append(torch.add(plain[..., part.start : part.stop], delta, alpha=self.scale))
            end, row = part.stop, row + size
        if end < plain.shape[-1]:
            pieces.append(plain[..., end:])
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces, -1)

    def _updated(self) -> Tensor:
        """W + scale B A in float32: (o, i)."""
        kind = torch.promote_types(self.weight.dtype, torch.float32)
        weight_oi, row = self.weight.detach().to(kind).clone(), 0
        for place, part in enumerate(self.adapted):
            size = part.stop - part.start
            a_ri = self.lora_a.detach()[place * self.rank : (place + 1) * self.rank].to(kind)
            weight_oi[part.start : part.stop].addmm_(
                self.lora_b.detach()[row : row + size].to(kind), a_ri, alpha=self.scale
            )
            row += size
        return weight_oi

    def _spread(self, magnitude: Tensor, others_o: Tensor) -> Tensor:
        """The adapted outputs' values among `others` (o,)."""
        pieces, end, row = [], 0, 0
        for part in self.adapted:
            pieces += [others_o[end : part.start], magnitude[row : row + part.stop - part.start]]
            end, row = part.stop, row + part.stop - part.start
        return torch.cat([*pieces, others_o[end:]])

    def merged(self) -> Tensor:
        """The one weight that does the same, in float32: (o, i)."""
        weight_oi = self._updated()
        if self.magnitude is None:
            return weight_oi
        norm_o = weight_oi.norm(dim=1)
        spread_o = self._spread(self.magnitude.detach().to(norm_o.dtype), norm_o)
        return weight_oi.mul_((spread_o / norm_o)[:, None])


class FourBitLinear(AdaptedLinear):
    """The same over a weight that is kept in 4 bits, `codes` and `scales`; `weight` is what they stand for, in float32.
    Merged, it is a weight again."""

    codes: Tensor
    scales: Tensor
    kept: tuple[tuple[int, int], torch.dtype]

    @classmethod
    def of(cls, layer: nn.Linear) -> None:
        """Let a layer be one, in place."""
        weight = layer.weight.detach()
        shape = (layer.out_features, layer.in_features)
        del layer.weight
        layer.__class__ = cls
        made = cast(FourBitLinear, layer)
        made.kept = shape, weight.dtype
        codes, scales = quantise(weight)
        made.register_buffer("codes", codes)
        made.register_buffer("scales", scales)

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """(o, i), computed each time."""
        return dequantise(self.codes, self.scales, self.kept[0], torch.float32)

    def frozen(self, x: Tensor, bias: Tensor | None) -> Tensor:
        return product(x, self.codes, self.scales, bias, self.kept[0])

    def unfrozen(self, weight_oi: Tensor, others: torch.dtype | None) -> None:
        # A training in half precision rounds the other weights after this one became codes.
        weight = weight_oi.to(others or self.kept[1])
        del self.codes, self.scales, self.kept
        # As a plain layer it may have a weight again.
        self.__class__ = AdaptedLinear  # type: ignore[assignment]
        self.register_parameter("weight", nn.Parameter(weight, requires_grad=False))


def adapt(options: LoRAOptions, model: nn.Module) -> list[str]:
    """Give the linear layers that match `options.patterns` adapters, in place, and freeze everything else; their names.

    At first they change nothing: B is 0, A uniform as a linear layer's weight (drawn from torch's generator). Raises
    RecipeError for a pattern that matches nothing.
    """
    found = {
        part.name: (name, part)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
        for part in parts_of(name, module)
    }
    chosen: set[str] = set()
    for pattern in options.patterns:
        matching = {name for name in found if fnmatch.fnmatchcase(name, pattern)}
        if not matching:
            near = difflib.get_close_matches(pattern, list(found), 3, cutoff=0.4) or list(found)[:8]
            raise RecipeError(
                _("the pattern {pattern!r} matches no linear layer").format(pattern=pattern),
                where="start.adapter.patterns",
                remedy=_("There are: {names}.").format(names=", ".join(near) or _("none")),
            )
        chosen |= matching
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    layers: dict[str, list[Part]] = {}
    for name, (layer, part) in found.items():
        if name in chosen:
            layers.setdefault(layer, []).append(part)
    for layer, parts in layers.items():
        _become(cast(nn.Linear, model.get_submodule(layer)), tuple(parts), options)
    return [name for name in found if name in chosen]


def parts_of(name: str, module: nn.Linear) -> list[Part]:
    """The layer itself, or the parts it joins, as NAME.PART."""
    widths: dict[str, int] | None = getattr(module, "parts", None)
    if widths is None:
        return [Part(name, 0, module.out_features)]
    found, start = [], 0
    for part, width in widths.items():
        found.append(Part(f"{name}.{part}", start, start + width))
        start += width
    return found


def _become(module: nn.Linear, parts: tuple[Part, ...], options: LoRAOptions) -> None:
    rows = sum(part.stop - part.start for part in parts)
    like: dict[str, Any] = {"device": module.weight.device, "dtype": torch.float32}
    a = torch.empty(len(parts) * options.rank, module.in_features, **like)
    nn.init.kaiming_uniform_(a, a=math.sqrt(5))
    original = type(module)
    if options.bits == 4:
        FourBitLinear.of(module)
    else:
        module.__class__ = AdaptedLinear
    layer = cast(AdaptedLinear, module)
    layer.original, layer.adapted, layer.rank = original, parts, options.rank
    layer.scale, layer.rate, layer.active = options.scale, options.dropout, True
    layer.lora_a = nn.Parameter(a)
    layer.lora_b = nn.Parameter(torch.zeros(rows, options.rank, **like))
    layer.magnitude = None
    if options.magnitude:
        norm_o = layer.weight.detach().float().norm(dim=1)
        layer.magnitude = nn.Parameter(torch.cat([norm_o[part.start : part.stop] for part in parts]))


def adapted_layers(model: nn.Module) -> dict[str, AdaptedLinear]:
    """By name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, AdaptedLinear)}


def adapters_are_new(model: nn.Module) -> bool:
    """Whether the model has adapters, and they change nothing yet: without them it is what it was at the start."""
    layers = adapted_layers(model).values()
    return bool(layers) and not any(bool(layer.lora_b.any()) for layer in layers)


@contextmanager
def without_adapters(model: nn.Module) -> Iterator[None]:
    """The model as it was before adapters: a reference that costs no memory."""
    layers = adapted_layers(model).values()
    before = [layer.active for layer in layers]
    for layer in layers:
        layer.active = False
    try:
        yield
    finally:
        for layer, active in zip(layers, before):
            layer.active = active


def adapter_state(model: nn.Module) -> dict[str, Tensor]:
    """The adapters' weights alone, by their names in the model; copies."""
    state = model.state_dict()
    return {name: value.detach().clone() for name, value in state.items() if name.rpartition(".")[2] in NAMES}


def parameter_count(model: nn.Module) -> int:
    """How many weights the model has, those in 4 bits among them."""
    four = [layer for layer in adapted_layers(model).values() if isinstance(layer, FourBitLinear)]
    return sum(p.numel() for p in model.parameters()) + sum(math.prod(layer.kept[0]) for layer in four)


def whole_state(model: nn.Module) -> dict[str, Tensor]:
    """The state with every frozen weight under its own name, those in 4 bits as what they stand for."""
    state = model.state_dict()
    for name, layer in adapted_layers(model).items():
        if isinstance(layer, FourBitLinear):
            state[f"{name}.weight"] = layer.weight
    return state


def merge(model: nn.Module) -> None:
    """Add adapters to their weights and take them away, in place: the model computes the same with nothing beside it.
    Half weights are rounded once; those in 4 bits become weights of the type that the others have."""
    named = ((name.rpartition(".")[2], parameter) for name, parameter in model.named_parameters())
    others = next((p.dtype for name, p in named if name not in NAMES), None)
    for layer in adapted_layers(model).values():
        with torch.no_grad():
            layer.unfrozen(layer.merged(), others)
        for name in (*NAMES, "adapted", "rank", "scale", "rate", "active"):
            if hasattr(layer, name):
                delattr(layer, name)
        original = layer.original
        del layer.original
        cast(nn.Linear, layer).__class__ = original
    for parameter in model.parameters():
        parameter.requires_grad_(True)
