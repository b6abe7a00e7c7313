"""The layer check: imports run down the floors, never up, and never in a circle; the ground knows no torch.

`python tools/layers.py` prints what breaks the rules and ends with status 1; docs/architecture.md tells what the floors
are for. Every import counts, inside functions and for types alone too: a lazy circle is still a circle.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = "reinforge"
# From the top to the ground. What is on one floor may import one another, in one direction.
FLOORS: tuple[frozenset[str], ...] = (
    frozenset({"__main__"}),
    frozenset({"cli"}),
    frozenset({"serving", "export", "compress", "explain", "client"}),
    frozenset({"workflow"}),
    frozenset({"bundle", "evaluation"}),
    frozenset({"engine"}),
    frozenset({"sources", "objectives", "inference", "edge"}),
    frozenset({"data", "models", "environments"}),
    frozenset({"core"}),
    frozenset({"recipe", "schema", "storage", "messages", "registry", "errors"}),
)
GROUND = FLOORS[-1]
# Too heavy for what must come at once: the ground, every room's options, every `__init__`, and the command line.
HEAVY = (
    "torch",
    "numpy",
    "polars",
    "gymnasium",
    "tokenizers",
    "torchmetrics",
    "matplotlib",
    "PIL",
    "starlette",
    "uvicorn",
)
MAX_LINES = 600
_REASON = re.compile(r"over 600 lines", re.IGNORECASE)


@dataclass(frozen=True)
class Module:
    """One file: its dotted name, what it imports (with lines), and its text."""

    name: str
    path: Path
    imports: tuple[tuple[str, int], ...]
    text: str

    @property
    def room(self) -> str:
        """The part after the package: "engine" for reinforge.engine.loop; empty for the package itself."""
        return f"{self.name}.".split(".")[1]


def read(source: Path) -> dict[str, Module]:
    """Every module under `source`/reinforge, by dotted name."""
    modules: dict[str, Module] = {}
    for path in sorted((source / PACKAGE).rglob("*.py")):
        parts = path.relative_to(source).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        text = path.read_text("utf-8")
        modules[name] = Module(name, path, tuple(_imports(ast.parse(text), name, path.name == "__init__.py")), text)
    return modules


def broken(modules: Mapping[str, Module]) -> list[str]:
    """Everything that breaks the rules, a line each; empty where the house stands."""
    return [*_upward(modules), *_circles(modules), *_heavy(modules), *_long(modules)]


def _imports(tree: ast.Module, name: str, is_package: bool) -> Iterator[tuple[str, int]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = name.split(".")
                parts = parts[: len(parts) - node.level + is_package]
                base = ".".join([*parts, base]) if base else ".".join(parts)
            for alias in node.names:
                # A module or a name within one: `_target` finds out which.
                yield f"{base}.{alias.name}", node.lineno


def _target(imported: str, modules: Mapping[str, Module]) -> str | None:
    """The module of ours that an import means, if it is ours."""
    while imported and imported not in modules:
        imported = imported.rpartition(".")[0]
    return imported or None


def _edges(modules: Mapping[str, Module]) -> Iterator[tuple[Module, Module, int]]:
    for module in modules.values():
        for imported, line in module.imports:
            target = _target(imported, modules)
            if target is not None and target not in (module.name, PACKAGE):
                yield module, modules[target], line


def _floor(room: str) -> int | None:
    return next((index for index, rooms in enumerate(FLOORS) if room in rooms), None)


def _upward(modules: Mapping[str, Module]) -> Iterator[str]:
    for module in modules.values():
        if module.name != PACKAGE and _floor(module.room) is None:
            yield f"{module.path}:1: the room {module.room!r} is on no floor"
    for module, target, line in _edges(modules):
        floor, below = _floor(module.room), _floor(target.room)
        if floor is not None and below is not None and below < floor:
            yield f"{module.path}:{line}: {module.room} imports {target.name}, which is on a floor above"


def _circles(modules: Mapping[str, Module]) -> Iterator[str]:
    by_module: dict[str, set[str]] = {}
    by_room: dict[str, set[str]] = {}
    for module, target, _line in _edges(modules):
        # A package's own `__init__` only gathers what its modules offer.
        if not module.name.startswith(f"{target.name}."):
            by_module.setdefault(module.name, set()).add(target.name)
        if module.room and target.room and module.room != target.room:
            by_room.setdefault(module.room, set()).add(target.room)
    for kind, graph in (("rooms", by_room), ("modules", by_module)):
        for circle in circles(graph):
            yield f"{kind} in a circle: {' -> '.join(circle)}"


def circles(graph: Mapping[str, set[str]]) -> list[list[str]]:
    """Circles of a graph: for each node that can come back to itself, a shortest way, each set of nodes once."""
    found: dict[frozenset[str], list[str]] = {}
    for start in sorted(graph):
        paths = [[start]]
        seen: set[str] = set()
        while paths:
            path = paths.pop(0)
            onward = sorted(graph.get(path[-1], ()))
            if start in onward:
                found.setdefault(frozenset(path), [*path, start])
                break
            fresh = [node for node in onward if node not in seen]
            seen.update(fresh)
            paths += [[*path, node] for node in fresh]
    return list(found.values())


def _heavy(modules: Mapping[str, Module]) -> Iterator[str]:
    for module in modules.values():
        light = module.room in {"", "__main__", "cli", *GROUND} or module.path.name.endswith(
            ("__init__.py", "options.py")
        )
        for imported, line in module.imports if light else ():
            if imported.split(".")[0] in HEAVY:
                yield f"{module.path}:{line}: imports {imported.split('.')[0]}, which is too heavy here"


def _long(modules: Mapping[str, Module]) -> Iterator[str]:
    for module in modules.values():
        lines = module.text.splitlines()
        if len(lines) > MAX_LINES and not _REASON.search("\n".join(lines[:15])):
            yield f"{module.path}:1: {len(lines)} lines; its first lines must say why ('Over {MAX_LINES} lines: ...')"


def main() -> int:
    """Print what breaks the rules."""
    lines = broken(read(ROOT / "src"))
    for line in lines:
        print(line.replace(f"{ROOT}/", ""))
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
