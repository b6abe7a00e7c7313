"""Reinforge: one road from raw data to a deployed model, on PyTorch 2.

Importing it loads neither torch nor any other large library: the verbs are imported when first used.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

# Each public name and the module that has it.
_HOMES = {
    "prepare": "reinforge.workflow.prepare",
    "train": "reinforge.workflow.train",
    "evaluate": "reinforge.workflow.evaluate",
    "play": "reinforge.workflow.play",
    "predict": "reinforge.workflow.predict",
    "generate": "reinforge.workflow.generate",
    "compress": "reinforge.compress.compress",
    "export": "reinforge.export.export",
    "serve": "reinforge.serving.serve",
    "Client": "reinforge.client.client",
    "AsyncClient": "reinforge.client.client",
    "report": "reinforge.workflow.report",
    "recipes": "reinforge.workflow.recipes",
    "verify": "reinforge.workflow.verify",
    "doctor": "reinforge.workflow.doctor",
    "load": "reinforge.bundle",
    "Bundle": "reinforge.bundle",
    "Run": "reinforge.workflow.run",
    "Recipe": "reinforge.recipe",
    "Options": "reinforge.registry",
    "register": "reinforge.registry",
    "ReinforgeError": "reinforge.errors",
}
__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'reinforge' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
