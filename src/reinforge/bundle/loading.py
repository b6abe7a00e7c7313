"""Loading a bundle: nothing in it is trusted before it is checked, and nothing in it is ever executed."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

import torch
from pydantic import ValidationError

from reinforge.bundle import golden
from reinforge.bundle.bundle import Bundle
from reinforge.bundle.folders import FORMAT, bundle_folder
from reinforge.bundle.forms import load_form
from reinforge.bundle.network import Blueprint, Factory, build
from reinforge.bundle.task import Task
from reinforge.core.tensor_files import read_checked
from reinforge.errors import BundleError, IntegrityError
from reinforge.schema.schema import Schema
from reinforge.storage import strict_json
from reinforge.storage.folder import Folder
from reinforge.storage.strict_json import Json

VERSION = 1
JSON_FILES = ("schema.json", "pipeline.json", "model.json", "task.json", "reference.json", "provenance.json")
REQUIRED = (*JSON_FILES, "pipeline.safetensors", "weights.safetensors", golden.NAME, "card.md")
OPTIONAL = re.compile(r"training\.safetensors|exports/[A-Za-z0-9_./-]+", re.ASCII)
_JSON_LIMIT = 16 << 20
_DIGEST = re.compile(r"[0-9a-f]{64}", re.ASCII)

# Migration: from version n to n + 1, on the JSON documents by file name, in memory. A release reads every version since
# 1 through these; it never changes a bundle on disk.
MIGRATIONS: dict[int, Callable[[dict[str, Json]], dict[str, Json]]] = {}


def load(
    path: Path | str,
    verify: Literal["golden", "digest"] = "golden",
    modules: Mapping[str, Factory] | None = None,
    device: str = "cpu",
) -> Bundle:
    """The bundle in a folder, or in that of its run, checked.

    Every file's digest is verified; "golden" also replays the stored rows, whose tensors must be bit-equal and whose
    outputs must lie within the stated tolerance. `modules` gives functions that build the user's own modules, by name.
    Raises BundleError (damaged, hostile, unsupported, or not reproducing), StorageError (unreadable), or ComponentError
    that names what must be registered or passed.
    """
    try:
        return _load(bundle_folder(path), verify, modules or {}, torch.device(device))
    except BundleError:
        raise
    except IntegrityError as error:
        raise BundleError(error.problem, where=error.where or str(path), remedy=error.remedy) from error


def _load(path: Path, verify: str, modules: Mapping[str, Factory], device: torch.device) -> Bundle:
    folder = Folder.open(path, FORMAT)
    for name in REQUIRED:
        folder.record(name)
    for name in folder.manifest.files:
        if name not in REQUIRED and not OPTIONAL.fullmatch(name):
            raise BundleError("a bundle has no such file", where=str(path / name))
    documents = _migrated({name: folder.json(name, _JSON_LIMIT) for name in JSON_FILES}, folder.manifest.version)
    schema = Schema.from_json(documents["schema.json"])
    task = _task(documents["task.json"])
    blueprint, shared = Blueprint.from_json(documents["model.json"])
    pipeline = documents["pipeline.json"]
    if not isinstance(pipeline, dict) or set(pipeline) != {"kind", "description"}:
        raise BundleError("its keys are unknown", where="pipeline.json")
    tensors = read_checked(folder, "pipeline.safetensors")
    form = load_form(pipeline["kind"], schema, blueprint.signature, pipeline["description"], tensors)
    model = build(blueprint, read_checked(folder, "weights.safetensors"), shared, modules).to(device)
    records = golden.read(folder.bytes(golden.NAME, golden.MAX_BYTES))
    folder.verify()
    bundle = Bundle(
        schema, form, blueprint, model, task, documents["provenance.json"], documents["reference.json"],
        _parents(folder.manifest.about), folder, device,
    )  # fmt: skip
    if verify == "golden":
        golden.replay(bundle, records)
    return bundle


def _migrated(documents: dict[str, Json], version: int) -> dict[str, Json]:
    if version > VERSION:
        raise BundleError(
            f"it has format version {version}, and this release reads up to {VERSION}", remedy="Upgrade reinforge."
        )
    for step in range(version, VERSION):
        documents = MIGRATIONS[step](documents)
    return documents


def _task(value: Json) -> Task:
    try:
        return Task.model_validate_json(strict_json.compact(value))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise BundleError(f"{place}: {first['msg']}"[:400], where="task.json") from None


def _parents(about: Mapping[str, Json]) -> tuple[str, ...]:
    parents = about.get("parents", [])
    if not isinstance(parents, list) or not all(isinstance(p, str) and _DIGEST.fullmatch(p) for p in parents):
        raise BundleError("`parents` are no digests", where="manifest.json")
    return tuple(parents)
