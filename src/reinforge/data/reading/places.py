"""From a name in a recipe to files: a path, a pattern, a folder, or one of these in an installed package."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from reinforge.errors import DataError
from reinforge.messages import _

PACKAGE = "package:"
_WILD = frozenset("*?[")


def files_of(name: str, base: Path, suffixes: Sequence[str]) -> list[tuple[Path, str]]:
    """The files that a name means, in order, each with the name that errors call it: one file, those that a pattern
    matches, or those in a folder with one of these suffixes. A file that isn't there is left for its reader to miss.

    Raises DataError where a pattern or a folder has none, or a package or what is inside it isn't there.
    """
    if name.startswith(PACKAGE):
        folder, inside = _inside(name.removeprefix(PACKAGE))
    else:
        folder, inside = base, name
    path = folder / inside
    if path.is_dir():
        found = sorted(p for p in path.iterdir() if p.suffix.lower() in suffixes and not p.name.startswith("."))
        shown = name.rstrip("/") + "/"
    elif _WILD & set(inside) and not path.exists():
        root = Path(path.anchor) if path.is_absolute() else Path()
        found = sorted(root.glob(str(path.relative_to(root))))
        shown = name[: name.rfind("/") + 1] if "**" not in name else ""
    else:
        return [(path, name)]
    files = [(p, shown + p.name if shown or "/" not in name else str(p)) for p in found if p.is_file()]
    if not files:
        raise DataError(
            _("no file is there that can be read as a table"),
            where=name,
            remedy=_("Known suffixes: {known}; or state `delimiter`.").format(known=", ".join(suffixes)),
        )
    return files


def not_installed(package: str) -> DataError:
    """The error for data in a package that isn't there."""
    text = _("the data are in the package {package!r}, which is not installed").format(package=package)
    return DataError(text, remedy=f"pip install {package}")


def _inside(name: str) -> tuple[Path, str]:
    """Where a package's files lie, found without importing it, and the path inside that the name gives."""
    package, _slash, inside = name.partition("/")
    parts = PurePosixPath(inside).parts
    if not package.isidentifier() or not parts or ".." in parts or PurePosixPath(inside).is_absolute():
        raise DataError(
            _("{name!r} names no file in a package").format(name=name), remedy=_("Write package:NAME/PATH/FILE.csv.")
        )
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise not_installed(package)
    folders = [Path(location) for location in spec.submodule_search_locations]
    found = next((f for f in folders if (f / inside).exists() or (_WILD & set(inside) and any(f.glob(inside)))), None)
    if found is None:
        text = _("package {package!r} has no file {file!r}").format(package=package, file=inside)
        raise DataError(text, remedy=_("Check its version: {command}").format(command=f"pip show {package}"))
    return found, inside
