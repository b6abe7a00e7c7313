"""The house stands: floors, circles, length of files, and a ground that loads nothing heavy."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tools import layers

ROOT = Path(__file__).parents[1]


def test_the_house_stands() -> None:
    assert layers.broken(layers.read(ROOT / "src")) == []


def house(root: Path, **files: str) -> list[str]:
    """What is wrong with a package made of these files, named like engine__loop."""
    for name, text in {"__init__": "", **files}.items():
        path = root / "reinforge" / Path(*name.split("__")) if name != "__init__" else root / "reinforge" / "__init__"
        path = path.with_name(path.name + ".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        if path.parent != root / "reinforge":
            (path.parent / "__init__.py").touch()
    return [line.replace(f"{root}/reinforge/", "") for line in layers.broken(layers.read(root))]


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (
            {"core__a": "from reinforge.engine import loop", "engine__loop": ""},
            "core/a.py:1: core imports reinforge.engine",
        ),
        (
            {"core__a": "def f():\n    import reinforge.cli.x", "cli__x": ""},
            "core/a.py:2: core imports reinforge.cli.x",
        ),
        ({"core__a": "from ..engine.loop import Engine", "engine__loop": ""}, "core/a.py:1: core imports"),
        (
            {"data__a": "import reinforge.models.b", "models__b": "import reinforge.data.a"},
            "rooms in a circle: data -> mod",
        ),
        (
            {
                "data__a": "import reinforge.data.b",
                "data__b": "import reinforge.data.c",
                "data__c": "def f():\n    import reinforge.data.a",
            },
            "modules in a circle: reinforge.data.a -> reinforge.data.b -> reinforge.data.c -> reinforge.data.a",
        ),
        ({"schema__a": "import torch"}, "schema/a.py:1: imports torch, which is too heavy here"),
        ({"models__options": "def f():\n    from torch import nn"}, "models/options.py:2: imports torch"),
        ({"attic__a": ""}, "attic/a.py:1: the room 'attic' is on no floor"),
        ({"core__a": "\n" * 601}, "core/a.py:1: 601 lines"),
    ],
)
def test_what_breaks_the_rules_is_found(tmp_path: Path, files: dict[str, str], said: str) -> None:
    found = house(tmp_path, **files)
    assert any(said in line for line in found), found


def test_what_keeps_the_rules_is_let_through(tmp_path: Path) -> None:
    files = {
        "cli__x": "from reinforge import errors\nfrom reinforge.engine.loop import Engine",
        "engine__loop": "import torch\nfrom reinforge.data import table",
        "data__table": "import polars\nimport reinforge.models.net\nfrom reinforge.data import options",
        "models__net": "import reinforge",
        "data__options": "import pydantic",
        "core__long": '"""Over 600 lines: one table."""\n' + "\n" * 700,
        "errors": "",
    }
    assert house(tmp_path, **files) == []


def test_the_ground_and_all_options_load_nothing_heavy() -> None:
    names = [
        name
        for name, module in layers.read(ROOT / "src").items()
        if module.room in {"", "__main__", "cli", *layers.GROUND}
        or module.path.name.endswith(("__init__.py", "options.py"))
    ]
    names.remove("reinforge.__main__")
    code = (
        f"import importlib, sys\nfor name in {names!r}: importlib.import_module(name)\n"
        f"print([name for name in {layers.HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "[]"


def test_importing_reinforge_loads_next_to_nothing() -> None:
    code = (
        "import sys, reinforge; print([m for m in ('torch', 'pydantic', 'yaml', 'typer', 'rich') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"
