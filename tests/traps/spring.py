"""A plugin for pytest that springs one trap: REINFORGE_SLIP names it and its number, "NAME/0".

REINFORGE_SLIP="beta rises to one/0" pytest -p tests.traps.spring tests/sources/test_replay.py
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import CodeType, ModuleType

from tests.traps.reinforcement import TRAPS, Slip


class _Loader(SourceFileLoader):
    slip: Slip

    def get_code(self, fullname: str) -> CodeType:
        source = self.get_data(self.path).decode()
        assert self.slip.old in source, f"{self.slip.module} no longer has {self.slip.old!r}"
        return compile(source.replace(self.slip.old, self.slip.new), self.path, "exec")


class _Finder(MetaPathFinder):
    def __init__(self, slip: Slip) -> None:
        self.slip, self.name = slip, "reinforge." + slip.module.removesuffix(".py").replace("/", ".")

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != self.name:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        assert spec is not None
        assert spec.origin is not None
        loader = _Loader(fullname, spec.origin)
        loader.slip, spec.loader = self.slip, loader
        return spec


if "REINFORGE_SLIP" in os.environ:
    _name, _, _number = os.environ["REINFORGE_SLIP"].rpartition("/")
    sys.meta_path.insert(0, _Finder(TRAPS[_name][int(_number)]))
