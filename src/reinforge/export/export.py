"""`export`: a bundle in the form that another program reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from reinforge.bundle.bundle import Bundle
from reinforge.bundle.loading import load
from reinforge.errors import RecipeError
from reinforge.export.hugging_face import Exported, to_hugging_face
from reinforge.export.peft import to_peft
from reinforge.messages import _
from reinforge.recipe.user_code import load_user_code

TARGETS: Mapping[str, Callable[[Bundle, Path], Exported]] = {"huggingface": to_hugging_face, "peft": to_peft}


def export(
    bundle: str | Path, to: str = "huggingface", output: str | Path | None = None, *, use: Sequence[str | Path] = ()
) -> Exported:
    """Write a bundle (a run's folder stands for its own) for another program: `to` huggingface, a folder that
    transformers loads, or peft, the adapter alone. `output`: the new folder; by default NAME-TARGET beside it.

    Raises RecipeError for an unknown target or a bundle that it can't take, PathError where the folder is not empty.
    """
    if to not in TARGETS:
        raise RecipeError(
            _("there is no target {name!r}").format(name=to), where="--to",
            remedy=_("Known: {names}.").format(names=", ".join(TARGETS)),
        )  # fmt: skip
    load_user_code(use)
    loaded = load(bundle)
    folder = Path(output) if output is not None else loaded.path.with_name(f"{loaded.path.name}-{to}")
    return TARGETS[to](loaded, folder)
