"""What stands beside an exported graph: how rows become its inputs, and its outputs predictions.

The export writes it from the bundle (`reinforge.export.description`); here it is read. Names that both sides use:
"TEXT.lengths" goes with the tokens of TEXT, "memory.NAME" is a policy's memory, "start" where its episode begins.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from reinforge.errors import IntegrityError, PathError
from reinforge.messages import _
from reinforge.storage import strict_json
from reinforge.storage.files import read_limited, storage_errors

FORMAT, VERSION, NAME, GOLDEN = "reinforge-export", 1, "export.json", "golden.jsonl"
LENGTHS, MEMORY, START = ".lengths", "memory.", "start"
MAX_BYTES = 256 << 20
KEYS = ("target", "file", "sha256", "bundle", "form", "inputs", "outputs", "reading", "readout")


@dataclass(frozen=True)
class Port:
    """A graph's input or output: `shape` holds numbers, and names where it may vary."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True)
class Description:
    """An export's folder, read: `model` is the graph's file, checked against its digest."""

    folder: Path
    model: Path
    target: str
    form: str
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    reading: Any
    readout: Any
    values: dict[str, Any]


def load(folder: Path | str) -> Description:
    """What lies in an export's folder. Raises PathError where it is none, IntegrityError where it was changed."""
    place = Path(folder)
    path = place / NAME
    if not path.is_file():
        raise PathError(
            _("this is no export: it has no {name}").format(name=NAME), where=str(place),
            remedy=_("Write one: reinforge export BUNDLE --to onnx"),
        )  # fmt: skip
    with storage_errors(path):
        values = strict_json.parse(read_limited(path, MAX_BYTES), str(path), limit=MAX_BYTES)
    if not isinstance(values, dict) or values.get("format") != FORMAT or values.get("version") != VERSION:
        raise IntegrityError(
            _("it is no export of a version that this release reads"), where=str(path), remedy=_("Export again.")
        )
    if any(key not in values for key in KEYS):
        raise IntegrityError(_("its keys are incomplete"), where=str(path), remedy=_("Export again."))
    model = place / Path(str(values["file"])).name
    with storage_errors(model), open(model, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != values["sha256"]:
        raise IntegrityError(
            _("the graph is not the one that was exported"), where=str(model), remedy=_("Export again.")
        )
    ports = {
        key: tuple(Port(p["name"], p["dtype"], tuple(p["shape"])) for p in values[key]) for key in ("inputs", "outputs")
    }
    return Description(
        place, model, values["target"], values["form"], ports["inputs"], ports["outputs"],
        fields(values["reading"]), fields(values["readout"]), values,
    )  # fmt: skip


def fields(value: Any) -> Any:
    """JSON as the readers of values take it: objects with a "kind" by attribute, lists as tuples."""
    if isinstance(value, list):
        return tuple(fields(item) for item in value)
    if isinstance(value, dict):
        if value.get("kind") == "library":
            # What a tokenizer's library reads is its own, and its vocabulary may have the word "kind".
            return SimpleNamespace(**value)
        found = {key: fields(item) for key, item in value.items()}
        return SimpleNamespace(**found) if "kind" in value else found
    return value
