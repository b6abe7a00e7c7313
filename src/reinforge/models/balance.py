"""Class weights that follow from the training rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import torch
from torch import Tensor

from reinforge.core import batch as batches
from reinforge.core.batch import Batch
from reinforge.models.losses import READ_LIKE
from reinforge.registry import Options
from reinforge.schema.signature import Output, Signature

Some = TypeVar("Some", bound=Options)


def balanced(options: Some, signature: Signature, data: Batch) -> Some:
    """The same options of a model or an objective, `weights: balanced` of their losses replaced by numbers.

    Looks at `heads` and `losses` by output, as the composed model and the supervised objective have them. `data`: the
    training rows, with "targets" and "valid".
    """
    changed: dict[str, object] = {}
    for section in ("heads", "losses"):
        chosen = getattr(options, section, None)
        if not isinstance(chosen, Mapping):
            continue
        new = {name: _settled(part, signature.outputs.get(name), name, data) for name, part in chosen.items()}
        if any(new[name] is not part for name, part in chosen.items()):
            changed[section] = new
    return options.model_copy(update=changed) if changed else options


def _settled(options: Options, output: Output | None, name: str, data: Batch) -> Options:
    loss = getattr(options, "loss", None)
    if isinstance(loss, Options):
        settled = _settled(loss, output, name, data)
        return options if settled is loss else options.model_copy(update={"loss": settled})
    if output is None or getattr(options, "weights", None) != "balanced":
        return options
    target, valid = batches.section(data, "targets")[name], batches.section(data, "valid").get(name)
    rows = target if valid is None else target[valid]
    weights = (
        label_weights(rows) if READ_LIKE.get(output.form, output.form) == "labels" else class_weights(rows, output)
    )
    return options.model_copy(update={"weights": tuple(weights.tolist())})


def class_weights(target: Tensor, output: Output) -> Tensor:
    """rows / (classes * rows of the class), as scikit-learn's `balanced`; 1 for a class without a row: (classes,)."""
    counts = torch.bincount(target.flatten(), minlength=output.size).double()
    weights = target.numel() / (output.size * counts)
    return torch.where(counts > 0, weights, 1.0)


def label_weights(target: Tensor) -> Tensor:
    """Rows without the label / rows with it, within 1 / rows and rows; 1 where no row has it: (labels,)."""
    rows, held = max(len(target), 1), target.double().sum(0)
    return torch.where(held > 0, ((rows - held) / held).clamp(1 / rows, rows), 1.0)
