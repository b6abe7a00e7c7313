"""`export`: a bundle in the form that another program reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from reinforge.bundle.bundle import Bundle
from reinforge.bundle.loading import load
from reinforge.bundle.network import Factory
from reinforge.errors import RecipeError
from reinforge.export.container import to_container
from reinforge.export.executorch import to_executorch
from reinforge.export.folder import Exported
from reinforge.export.gguf import to_gguf
from reinforge.export.hugging_face import to_hugging_face
from reinforge.export.onnx import to_onnx
from reinforge.export.peft import to_peft
from reinforge.export.torch_export import to_torch_export
from reinforge.messages import _
from reinforge.recipe.user_code import load_user_code

TARGETS: Mapping[str, Callable[[Bundle, Path], Exported]] = {
    "huggingface": to_hugging_face, "peft": to_peft, "onnx": to_onnx, "torch-export": to_torch_export, "gguf": to_gguf,
    "executorch": to_executorch, "container": to_container,
}  # fmt: skip


def export(
    bundle: str | Path, to: str = "huggingface", output: str | Path | None = None, *, use: Sequence[str | Path] = (),
    modules: Mapping[str, Factory] | None = None,
) -> Exported:  # fmt: skip
    """Write a bundle (a run's folder stands for its own) for another program.

    `to`: huggingface, a folder that transformers loads; peft, the adapter alone; onnx, a graph that onnxruntime and
    `reinforge-edge` run; torch-export, a program that torch runs; executorch, one for small devices; gguf, a file
    for llama.cpp; container, a folder that builds an image of a server. `output`: the new folder; by default
    NAME-TARGET beside it. `modules` builds the caller's own networks, as for `load`.
    Raises RecipeError for an unknown target or a bundle that it can't take, IntegrityError where the export does not
    give what the bundle gives, PathError where the folder is not empty.
    """
    if to not in TARGETS:
        raise RecipeError(
            _("there is no target {name!r}").format(name=to), where="--to",
            remedy=_("Known: {names}.").format(names=", ".join(TARGETS)),
        )  # fmt: skip
    load_user_code(use)
    loaded = load(bundle, modules=modules)
    folder = Path(output) if output is not None else loaded.path.with_name(f"{loaded.path.name}-{to}")
    return TARGETS[to](loaded, folder)
