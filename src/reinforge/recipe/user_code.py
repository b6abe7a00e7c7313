"""A user's own components: Python files named on the command line, never by a recipe."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
import traceback
from collections.abc import Iterable
from pathlib import Path

from reinforge.errors import RecipeError
from reinforge.messages import _

_PREFIX = "reinforge_use_"


def loaded_user_code() -> list[str]:
    """The files imported so far, for a process that begins anew."""
    return [str(module.__file__) for name, module in list(sys.modules.items()) if name.startswith(_PREFIX)]


def load_user_code(files: Iterable[str | Path]) -> list[str]:
    """Import each file once, so that what it registers is known; returns their absolute paths.

    Raises RecipeError, with file and line, where there is no such file or it fails.
    """
    return [_load(Path(file)) for file in files]


def _load(file: Path) -> str:
    path = file.resolve()
    if path.suffix != ".py" or not path.is_file():
        raise RecipeError(_("there is no such Python file"), where=f"--use {file}")
    # Named by its path, so that two files of one name differ and the same file is imported once.
    name = f"{_PREFIX}{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return str(path)
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise RecipeError(_("there is no such Python file"), where=f"--use {file}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        # A user's file may fail in any way, and it is theirs to mend.
        del sys.modules[name]
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
        line = error.lineno if isinstance(error, SyntaxError) else lines[-1] if lines else None
        where = f"{file}:{line}" if line else str(file)
        raise RecipeError(f"{type(error).__name__}: {error}", where=where) from error
    return str(path)
