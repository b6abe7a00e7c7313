"""Smaller networks: of fewer units, chosen by the size of their weights, or with linear layers of low rank."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from itertools import accumulate
from typing import Any, cast

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from reinforge.core.seeds import undisturbed
from reinforge.errors import RecipeError
from reinforge.messages import _
from reinforge.models.composed import Composed
from reinforge.models.compressed import PLAIN, Compressed, Int8Linear, factor, quantised, restored
from reinforge.models.decoder import Decoder
from reinforge.models.encoders import Embedding
from reinforge.models.fusion import Concat, Gate
from reinforge.models.numeric import Periodic, Piecewise
from reinforge.models.tokens import RNN
from reinforge.registry import REGISTRY, Options
from reinforge.schema.signature import Signature

# Options that say how wide something is.
WIDTHS = ("sizes", "width", "size", "hidden", "embedding", "channels")
# Layers with fewer inputs gain nothing from products of whole numbers.
LEAST_INPUTS = 128
# Widths are tried at so many shares of what they were.
SHARES = 64


def in_8_bits(model: nn.Module, *, computing: bool) -> tuple[nn.Module, Compressed]:
    """A copy whose matrices are rounded to 8 bits; where `computing`, large linear layers take inputs in 8 bits too."""
    changed = copy.deepcopy(model)
    seen: set[int] = set()
    packed: list[str] = []
    for name, tensor in changed.state_dict(keep_vars=True).items():
        if not tensor.is_floating_point() or tensor.ndim < 2 or tensor.numel() < 64 or tensor.data_ptr() in seen:
            continue
        if tensor.dtype == torch.float64:
            continue
        seen.add(tensor.data_ptr())
        packed.append(name)
        with torch.no_grad():
            tensor.copy_(restored(*quantised(tensor)))
    linears: list[str] = []
    if computing:
        for name, module in changed.named_modules():
            if (
                type(module) is nn.Linear
                and module.in_features >= LEAST_INPUTS
                and module.weight.dtype == torch.float32
            ):
                linears.append(name)
                module.__class__ = Int8Linear
    return changed, Compressed(packed=tuple(packed), int8=tuple(linears))


def of_low_rank(model: nn.Module, keep: float) -> tuple[nn.Module, Compressed]:
    """A copy whose linear layers are products of two, from the largest singular values (Eckart and Young, 1936), where
    that holds at most `keep` of a layer's numbers. Raises RecipeError where no layer is large enough."""
    changed = copy.deepcopy(model)
    ranks: dict[str, int] = {}
    for name, module in list(changed.named_modules()):
        if type(module) not in PLAIN or (isinstance(model, Decoder) and name == "head"):
            # What a decoder says at last is read off the head's weight, as off an embedding.
            continue
        assert isinstance(module, nn.Linear)
        outputs, inputs = module.weight.shape
        rank = int(keep * outputs * inputs / (outputs + inputs))
        if rank < 1 or min(outputs, inputs) < 8:
            continue
        left, values, right = torch.linalg.svd(module.weight.detach().double(), full_matrices=False)
        root = values[:rank].sqrt()
        down, up = root[:, None] * right[:rank], left[:, :rank] * root
        factor(module, down.to(module.weight.dtype), up.to(module.weight.dtype))
        ranks[name] = rank
    if not ranks:
        raise RecipeError(
            _("it has no linear layer that is large enough"), where="--method low-rank",
            remedy=_("Take another method, or a larger --keep."),
        )  # fmt: skip
    return changed, Compressed(low_rank=ranks)


def narrower(options: Options, keep: float, signature: Signature) -> Options:
    """Options of a network whose inner widths are `keep` of what they were. Raises RecipeError where none is wide."""

    def shrunk(value: Any, wide: bool = False) -> Any:
        if isinstance(value, Mapping):
            return {key: shrunk(item, key in WIDTHS) for key, item in value.items()}
        if isinstance(value, list):
            return [shrunk(item, wide) for item in value]
        if wide and isinstance(value, int) and not isinstance(value, bool) and value > 4:
            # In fours, so that heads and groups divide it.
            return min(value, max(4, 4 * round(value * keep / 4)))
        return value

    told = options.model_dump(mode="json")
    found = shrunk(told)
    if found == told:
        raise _nothing_wide()
    try:
        return type(options).model_validate(found)
    except ValidationError as error:
        raise RecipeError(
            _("no network of such widths can be made: {told}").format(told=error.errors()[0]["msg"]),
            where="--method prune", remedy=_("Take another method."),
        ) from None  # fmt: skip


def pruned(model: nn.Module, options: Options, keep: float, signature: Signature) -> tuple[nn.Module, Options]:
    """A narrower network with the units of the given one whose weights are largest, and its options.

    A width that shrinks keeps the same units wherever it stands, so that what is added up or normalised together stays
    together; which ones is said by the sum of the squares of all weights of each unit (Li et al., arXiv:1608.08710, by
    the square). Raises RecipeError.
    """
    less = narrower(options, keep, signature)
    with undisturbed():
        small: nn.Module = REGISTRY.build("model", less, signature)
    theirs, ours = dict(model.named_parameters()), dict(small.named_parameters())
    if theirs.keys() != ours.keys() or any(theirs[name].ndim != ours[name].ndim for name in ours):
        raise RecipeError(_("a narrower network of this kind has other layers"), where="--method prune")
    pieces = _pieces(model, small)
    weight: dict[tuple[int, int], Tensor] = {}
    for name in ours:
        squares = theirs[name].detach().double().square()
        for place, pairs in enumerate(pieces[name]):
            others = [side for side in range(squares.ndim) if side != place]
            size = squares.sum(others) if others else squares
            for pair, part in zip(pairs, torch.split(size, [many for many, _few in pairs])):
                if pair[0] != pair[1]:
                    weight[pair] = weight.get(pair, 0) + part / max(float(part.sum()), 1e-30)
    chosen = {pair: size.topk(pair[1]).indices.sort().values for pair, size in weight.items()}
    with torch.no_grad():
        for name, mine in ours.items():
            value = theirs[name].detach()
            for place, pairs in enumerate(pieces[name]):
                if value.shape[place] != mine.shape[place]:
                    starts = accumulate((many for many, _few in pairs), initial=0)
                    stay = [start + chosen.get(pair, torch.arange(pair[0])) for start, pair in zip(starts, pairs)]
                    value = value.index_select(place, torch.cat(stay))
            mine.copy_(value)
        for name, buffer in small.named_buffers():
            given = dict(model.named_buffers()).get(name)
            if given is not None and given.shape == buffer.shape:
                buffer.copy_(given)
    return small.eval(), less


def _pieces(model: nn.Module, small: nn.Module) -> dict[str, list[list[tuple[int, int]]]]:
    """Of each parameter, by its sides: the widths that lie end to end in one, before and after. Gates of a recurrent
    layer are such, both its directions, and encoders whose features are joined."""
    found = {
        name: [[pair] for pair in zip(mine.shape, other.shape)]
        for (name, mine), (_name, other) in zip(model.named_parameters(), small.named_parameters())
    }
    for where, module in model.named_modules():
        if isinstance(module, nn.RNNBase):
            width = (module.hidden_size, cast(nn.RNNBase, small.get_submodule(where)).hidden_size)
            for name, parameter in module.named_parameters():
                sides = found[f"{where}.{name}"]
                sides[0] = [width] * (parameter.shape[0] // module.hidden_size)
                if name.startswith("weight_ih") and "_l0" not in name:
                    sides[1] = [width] * (1 + module.bidirectional)
    if isinstance(model, Composed) and isinstance(small, Composed):
        _joined(model, small, found)
    return found


def _joined(model: Composed, small: Composed, found: dict[str, list[list[tuple[int, int]]]]) -> None:
    """The pieces of what reads an encoder's features, or those of all."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    parts: dict[str, list[tuple[int, int]]] = {}
    for (name, mine), (_same, other) in zip(model.encoders.items(), small.encoders.items()):
        before, after = cast(int, mine.features), cast(int, other.features)
        times = _alike(mine) if after < before else 1
        parts[name] = [(before // times, after // times)] * times
    join = [pair for part in parts.values() for pair in part]
    of = {name: model.signature.outputs[name].of for name, _head in model.heads.items()}
    readers = [(head, parts[read]) for name, head in model.heads.items() if (read := of[name]) is not None]
    if isinstance(model.fusion, Concat):
        first = next((layer for layer in model.body.modules() if isinstance(layer, nn.Linear)), None)
        those = [head for name, head in model.heads.items() if of[name] is None] if first is None else [first]
        readers += [(reader, join) for reader in those]
    else:
        readers += list(zip(model.fusion.projections, parts.values()))
    if isinstance(model.fusion, Gate):
        readers.append((model.fusion.gates, join))
        for parameter in model.fusion.gates.parameters():
            found[names[id(parameter)]][0] = [(model.fusion.features, small.fusion.features)] * len(parts)
    for reader, pieces in readers:
        for parameter in reader.parameters():
            if parameter.ndim == 2 and parameter.shape[1] == sum(many for many, _few in pieces):
                found[names[id(parameter)]][1] = pieces


def _alike(encoder: nn.Module) -> int:
    """How many times an encoder gives features of the same units, end to end: a direction, or a column, each."""
    if isinstance(encoder, RNN):
        return 1 + encoder.network.bidirectional
    if isinstance(encoder, Embedding):
        return len(encoder.sizes)
    return len(encoder.layer.weight) if isinstance(encoder, Piecewise | Periodic) and encoder.layer is not None else 1


def numbers(model: nn.Module) -> int:
    """How many a network learned."""
    return sum(parameter.numel() for parameter in model.parameters())


def share(model: nn.Module, options: Options, keep: float, signature: Signature) -> float:
    """What a network keeps of its widths so as to keep about `keep` of its numbers: those of layers grow with the
    square, those of tables with the width itself. Raises RecipeError where no narrower network can be made."""
    total, wrong, nearest = numbers(model), None, (math.inf, keep)
    tried: set[str] = set()
    for step in range(1, SHARES):
        try:
            less = narrower(options, step / SHARES, signature)
        except RecipeError as error:
            wrong = wrong or error
            continue
        told = less.model_dump_json()
        if told not in tried:
            tried.add(told)
            with undisturbed():
                part = numbers(REGISTRY.build("model", less, signature)) / total
            if part < 1:
                nearest = min(nearest, (abs(part - keep), step / SHARES))
    if nearest[0] == math.inf:
        raise wrong or _nothing_wide()
    return nearest[1]


def _nothing_wide() -> RecipeError:
    return RecipeError(
        _("its options name no width that could be smaller"), where="--method prune", remedy=_("Take another method.")
    )
