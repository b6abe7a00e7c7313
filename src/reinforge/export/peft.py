"""The adapter that a bundle was trained with, alone, as PEFT reads it."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path

from reinforge.bundle.bundle import Bundle
from reinforge.bundle.peft_format import restore, write_adapter
from reinforge.errors import PathError, RecipeError
from reinforge.export.folder import Exported
from reinforge.messages import _
from reinforge.models.decoder import Decoder
from reinforge.models.decoder_options import LoRAOptions


def to_peft(bundle: Bundle, folder: Path) -> Exported:
    """Write adapter_config.json and adapter_model.safetensors to a new folder; they go with the model that training
    began from, exported to huggingface. Raises RecipeError for a bundle that was trained without an adapter."""
    tensors = bundle.training() or {}
    said = bundle.provenance if isinstance(bundle.provenance, Mapping) else {}
    recipe = said.get("recipe")
    start = recipe.get("start") if isinstance(recipe, Mapping) else None
    adapter = start.get("adapter") if isinstance(start, Mapping) else None
    if not isinstance(bundle.model, Decoder) or not isinstance(adapter, Mapping) or not tensors:
        raise RecipeError(
            _("the bundle was trained without an adapter"), where=str(bundle.path),
            remedy=_("Export it whole: --to huggingface."),
        )  # fmt: skip
    if folder.exists():
        raise PathError(
            _("the folder is there already, and not empty"), where=str(folder),
            remedy=_("Name another with -o, or remove it."),
        )  # fmt: skip
    model = copy.deepcopy(bundle.model)
    restore(model, LoRAOptions.model_validate(dict(adapter)), tensors)
    base = start.get("bundle") if isinstance(start, Mapping) else None
    size = write_adapter(model, folder, base=base if isinstance(base, str) else None)
    return Exported(folder, "lora", size, 2, ())
