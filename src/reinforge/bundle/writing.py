"""Writing a bundle, and proving at once that it reproduces itself."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor, nn

from reinforge.bundle import golden
from reinforge.bundle.bundle import Bundle
from reinforge.bundle.card import card
from reinforge.bundle.folders import FORMAT
from reinforge.bundle.forms import Form
from reinforge.bundle.loading import VERSION, load
from reinforge.bundle.network import Blueprint, Factory, take_apart
from reinforge.bundle.task import Task
from reinforge.core.modes import evaluating
from reinforge.core.tensor_files import chunks
from reinforge.errors import BundleError
from reinforge.models.compressed import Compressed, pack
from reinforge.registry import Options
from reinforge.schema.signature import Signature
from reinforge.storage.files import require_space
from reinforge.storage.folder import commit, discard
from reinforge.storage.strict_json import Json


def write_bundle(
    path: Path | str,
    *,
    model: nn.Module,
    options: Options | str,
    signature: Signature,
    form: Form,
    examples: Sequence[Mapping[str, object]],
    task: Task | None = None,
    reference: Json = None,
    provenance: Mapping[str, Json] | None = None,
    parents: Sequence[str] = (),
    training: Mapping[str, Tensor] | None = None,
    modules: Mapping[str, Factory] | None = None,
    compressed: Compressed | None = None,
) -> Bundle:
    """Write a bundle to a new folder and load it again, golden replay included; what was loaded is returned.

    `options`: of the registered model, or the name of a user's own module (then `modules` holds what builds it, for the
    check). `examples`: raw rows that become the golden ones. `parents`: digests of the bundles it was tuned from.
    `training`: tensors that learning can go on from. `compressed`: what was changed in the described network; weights
    that are to be stored in 8 bits must be such already. The model is left as it is.
    Raises StorageError, or BundleError where the bundle does not reproduce the model; then nothing is left of it.
    """
    target = Path(path)
    blueprint = replace(Blueprint.of(model, options, signature), compressed=compressed)
    stated = {**dict(provenance or {}), "versions": _versions()}
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    draft = Bundle(
        form.schema, form, blueprint, model, task or Task(), stated, reference or {}, tuple(parents), None, device
    )
    with evaluating(model):
        records = golden.record(draft, examples)
    if not records:
        raise BundleError("a bundle needs at least one golden row", remedy="Pass some raw rows as `examples`.")
    weights, shared = take_apart(model)
    if compressed is not None:
        weights = pack(weights, compressed.packed)
    description, tensors = form.save()
    require_space(target.parent, sum(t.nbytes for t in (*weights.values(), *(training or {}).values())) + (1 << 20))
    with commit(target, FORMAT, VERSION) as staging:
        staging.about["parents"] = list(parents)
        staging.json("schema.json", form.schema.to_json())
        staging.json("pipeline.json", {"kind": form.kind, "description": description})
        staging.write("pipeline.safetensors", chunks(tensors))
        staging.json("model.json", blueprint.to_json(shared))
        staging.write("weights.safetensors", chunks(weights))
        staging.json("task.json", draft.task.model_dump(mode="json"))
        staging.write(golden.NAME, [golden.write(records)])
        staging.json("reference.json", draft.reference)
        staging.json("provenance.json", stated)
        staging.text("card.md", card(draft, sum(t.numel() for t in weights.values())))
        if training is not None:
            staging.write("training.safetensors", chunks(training))
    try:
        return load(target, modules=modules)
    except BundleError:
        discard(target)
        raise


def _versions() -> dict[str, Json]:
    python = ".".join(map(str, sys.version_info[:3]))
    return {"python": python, **{name: version(name) for name in ("reinforge", "torch", "numpy")}}
