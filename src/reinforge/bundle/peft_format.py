"""Adapters in the files of PEFT: adapter_config.json and adapter_model.safetensors."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from reinforge.core.tensor_files import chunks, read
from reinforge.errors import ComponentError, IntegrityError
from reinforge.messages import _
from reinforge.models.adapters import AdaptedLinear, adapt, adapted_layers, parts_of
from reinforge.models.decoder import Decoder
from reinforge.models.decoder_options import LoRAOptions
from reinforge.models.families import weight_names
from reinforge.storage.model_folder import read_json

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."
# What of a config would change what is computed, and its one known value.
_ONLY: Mapping[str, tuple[Any, ...]] = {
    "peft_type": ("LORA",), "bias": ("none", None), "modules_to_save": (None, []), "rank_pattern": ({}, None),
    "alpha_pattern": ({}, None), "lora_bias": (False, None), "use_qalora": (False, None),
    "fan_in_fan_out": (False, None),
    "target_parameters": (None, []), "layer_replication": (None,), "trainable_token_indices": (None,),
}  # fmt: skip


def write_adapter(model: Decoder, folder: Path, *, base: str | None = None) -> int:
    """Write the model's adapters to a new folder; `base` names the model that they belong to. Returns the bytes
    written.

    Raises ComponentError for a model without adapters.
    """
    layers = adapted_layers(model)
    if not layers:
        raise ComponentError(_("the model has no adapters"), where="adapters")
    first = next(iter(layers.values()))
    tensors, modules = {}, []
    for theirs, layer, place, row in _placed(model):
        part = layer.adapted[place]
        size = part.stop - part.start
        modules.append(theirs)
        tensors[f"{_PREFIX}{theirs}.lora_A.weight"] = layer.lora_a.detach()[
            place * layer.rank : (place + 1) * layer.rank
        ]
        tensors[f"{_PREFIX}{theirs}.lora_B.weight"] = layer.lora_b.detach()[row : row + size]
        if layer.magnitude is not None:
            tensors[f"{_PREFIX}{theirs}.lora_magnitude_vector"] = layer.magnitude.detach()[row : row + size]
    config = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": base, "r": first.rank,
        # As a plain multiple, whatever it was stated as.
        "lora_alpha": first.scale * first.rank, "use_rslora": False, "use_dora": first.magnitude is not None,
        "lora_dropout": first.rate, "bias": "none", "target_modules": sorted(modules), "inference_mode": True,
    }  # fmt: skip
    folder.mkdir(parents=True)
    with (folder / WEIGHTS).open("xb") as file:
        for piece in chunks({name: tensor.contiguous() for name, tensor in tensors.items()}):
            file.write(piece)
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    return sum(path.stat().st_size for path in folder.iterdir())


def read_adapter(model: Decoder, folder: Path, dropout: float = 0.0, bits: Literal[4] | None = None) -> LoRAOptions:
    """Give the model the adapters in a folder, in place; their options, with this `dropout`, over weights in `bits`.

    Raises ComponentError that names the key or the weight which can't be."""
    where = str(folder)
    config = read_json(folder, CONFIG, where)
    if not isinstance(config, Mapping):
        raise IntegrityError("it is no object", where=f"{where}, {CONFIG}")
    for key, allowed in _ONLY.items():
        if key in config and config[key] not in allowed:
            raise ComponentError(
                _("an adapter with {key} {value} can't be read").format(key=key, value=repr(config[key])[:80]),
                where=f"{where}, {CONFIG}", remedy=_("Merge it with PEFT first, and import the whole model."),
            )  # fmt: skip
    tensors, _size, _digest = read(folder / WEIGHTS)
    names = {name.removeprefix(_PREFIX).rpartition(".lora_")[0] for name in tensors}
    ours = {theirs: part for part, theirs in _names(model).items()}
    unknown = sorted(names - ours.keys())
    if unknown or not names:
        raise ComponentError(
            _("the adapter is for {name}, which the model lacks").format(name=unknown[0] if unknown else "?"),
            where=where, remedy=_("Begin with the model that it was trained on."),
        )  # fmt: skip
    options = LoRAOptions(
        rank=int(config["r"]), alpha=float(config["lora_alpha"]), stabilised=bool(config.get("use_rslora")),
        magnitude=bool(config.get("use_dora")), dropout=dropout, bits=bits,
        patterns=tuple(sorted(ours[name] for name in names)),
    )  # fmt: skip
    adapt(options, model)
    for theirs, layer, place, row in _placed(model):
        part = layer.adapted[place]
        size = part.stop - part.start
        targets = {
            "lora_A.weight": layer.lora_a.detach()[place * layer.rank : (place + 1) * layer.rank],
            "lora_B.weight": layer.lora_b.detach()[row : row + size],
        }
        if layer.magnitude is not None:
            targets["lora_magnitude_vector"] = layer.magnitude.detach()[row : row + size]
        for leaf, target in targets.items():
            given = tensors.get(f"{_PREFIX}{theirs}.{leaf}")
            if given is None or given.shape != target.shape:
                raise ComponentError(
                    _("its weights are not those of its config ({listing})").format(listing=f"{theirs}.{leaf}"),
                    where=where,
                )
            with torch.no_grad():
                target.copy_(given)
    return options


def _names(model: Decoder) -> dict[str, str]:
    """transformers' name of each linear layer or part, by ours."""
    found: dict[str, str] = {}
    for ours, theirs in weight_names(model.options).items():
        name, _dot, leaf = ours.rpartition(".")
        module = model.get_submodule(name)
        if leaf == "weight" and isinstance(module, torch.nn.Linear):
            for part, other in zip(parts_of(name, module), theirs):
                found[part.name] = other.removesuffix(".weight")
    return found


def _placed(model: Decoder) -> Iterator[tuple[str, AdaptedLinear, int, int]]:
    """Each adapted part: transformers' name, the layer, which of its parts, and where its rows of B begin."""
    names = _names(model)
    for layer in adapted_layers(model).values():
        row = 0
        for place, part in enumerate(layer.adapted):
            yield names[part.name], layer, place, row
            row += part.stop - part.start


def restore(model: Decoder, options: LoRAOptions, tensors: Mapping[str, Tensor]) -> None:
    """Give a model of the same shape the adapters whose weights a bundle keeps, in place."""
    # What it is over says nothing of the adapter itself.
    adapt(options.model_copy(update={"bits": None}), model)
    state = model.state_dict()
    for name, tensor in tensors.items():
        if name not in state or state[name].shape != tensor.shape:
            raise IntegrityError(f"the adapter's weight {name[:80]!r} fits no layer", where="training.safetensors")
        with torch.no_grad():
            state[name].copy_(tensor)
