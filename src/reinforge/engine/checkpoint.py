"""Checkpoints of a run: complete or absent, verified when loaded, the older ones pruned.

A checkpoint is a folder `checkpoints/UPDATES` with one safetensors file per top-level part of the state, `sealed/` with
parts that never change (hard links to the checkpoint before it), `state.json` and the manifest.
"""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path

from torch import Tensor

from reinforge.core import tensor_files, tree
from reinforge.core.contracts import State
from reinforge.core.sealed import Sealed
from reinforge.errors import CheckpointError, ComponentError, IntegrityError, StorageError
from reinforge.messages import _
from reinforge.storage import manifest, strict_json
from reinforge.storage.files import file_digest, require_space
from reinforge.storage.folder import Folder, Staging, commit, discard, sweep
from reinforge.storage.manifest import FileRecord

FORMAT, VERSION = "reinforge-checkpoint", 1
_FOLDER = re.compile(r"(\d{12})(?:-(\d+))?", re.ASCII)
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]*", re.ASCII)
_MAX_STATE = 256 << 20
# A full disk is better noticed before a long write than at its end.
_MARGIN = 16 << 20

log = logging.getLogger(__name__)


class CheckpointStore:
    """The checkpoints of one run, in `folder`.

    Rule of pruning: after a new checkpoint was written and read back, the newest `keep` stay, and those found
    damaged go.
    `notes` says why `latest` passed over a checkpoint.
    """

    def __init__(self, folder: Path | str, keep: int = 2) -> None:
        self.folder, self.keep = Path(folder), keep
        self.notes: list[str] = []
        self._damaged: set[Path] = set()
        # Sealed parts that this store wrote or loaded, and where. Others may bear the same name with other content.
        self._sealed: dict[str, tuple[Path, FileRecord]] = {}

    def save(self, state: State, *, updates: int) -> Path:
        """Write a checkpoint and prune; the new folder. Raises StorageError; then all earlier checkpoints stand.

        Raises ComponentError for a leaf that can't be saved, CheckpointError where a later checkpoint stands already.
        """
        parts = {name: _pack_part(name, part) for name, part in state.items()}
        unsealed = [value for part in parts.values() for k, value in part.sealed.items() if k not in self._sealed]
        new_parts = [*(part.tensors for part in parts.values()), *(value.tensors for value in unsealed)]
        new_bytes = sum(tensor.nbytes for tensors in new_parts for tensor in tensors.values())
        path = self._vacant(updates)
        require_space(self.folder, new_bytes + _MARGIN)
        with commit(path, FORMAT, VERSION) as staging:
            staging.about["updates"] = updates
            sealed: dict[str, Sealed] = {}
            for name, part in parts.items():
                for key, value in part.sealed.items():
                    if key in sealed and sealed[key] is not value:
                        raise ComponentError(f"two sealed parts are called {key!r}", where=name)
                    sealed[key] = value
                if part.tensors:
                    staging.write(f"{name}.safetensors", tensor_files.chunks(part.tensors))
            records = {key: self._seal(staging, value) for key, value in sealed.items()}
            staging.write("state.json", [strict_json.compact({name: part.skeleton for name, part in parts.items()})])
        written = Folder.open(path, FORMAT)
        for name in set(written.manifest.files) - {_sealed_file(key) for key in sealed}:
            _verify(written, name)
        self._sealed = {key: (path / _sealed_file(key), record) for key, record in records.items()}
        self._prune()
        return path

    def latest(self) -> State | None:
        """The newest usable state, verified; None where there is no checkpoint at all.

        A damaged one is passed over with a note. Raises CheckpointError where none of them is usable, and StorageError
        where one can't be read now: that is no damage, and to go on from the one before would lose what it holds.
        """
        self.notes = []
        candidates = self.paths()
        for path in reversed(candidates):
            try:
                state = self.load(path)
            except IntegrityError as error:
                note = f"checkpoint {path.name} was not used: {error}"
                log.warning(note)
                self.notes.append(note)
                self._damaged.add(path)
                continue
            except StorageError as error:
                again = _("Nothing was changed. Try again; without this folder, the checkpoint before it is used.")
                remedy = f"{error.remedy}\n  {again}" if error.remedy else again
                raise StorageError(error.problem, where=error.where, remedy=remedy) from error
            return state
        if candidates:
            raise CheckpointError(
                "no checkpoint is usable", where=str(self.folder), remedy="\n  ".join([*self.notes, "Train again."])
            )
        return None

    def load(self, path: Path) -> State:
        """The state of one checkpoint, every byte verified. Raises CheckpointError, or StorageError if unreadable."""
        try:
            return self._load(path)
        except CheckpointError:
            raise
        except IntegrityError as error:
            raise CheckpointError(error.problem, where=error.where or str(path), remedy=error.remedy) from error

    def paths(self) -> list[Path]:
        """The folders of all checkpoints, oldest first, verified or not."""
        if not self.folder.is_dir():
            return []
        named = [(m, p) for p in self.folder.iterdir() if (m := _FOLDER.fullmatch(p.name))]
        return [p for _m, p in sorted(named, key=lambda item: (int(item[0][1]), int(item[0][2] or 0)))]

    def _load(self, path: Path) -> State:
        if path.is_dir() and not os.path.lexists(path / manifest.NAME):
            raise CheckpointError(f"{manifest.NAME} is missing", where=str(path))
        folder = Folder.open(path, FORMAT)
        if folder.manifest.version > VERSION:
            raise CheckpointError(
                f"it has format version {folder.manifest.version}, and this release reads up to {VERSION}",
                where=str(path),
                remedy="Upgrade reinforge.",
            )
        skeletons = folder.json("state.json", limit=_MAX_STATE, depth=4 * tree.MAX_DEPTH)
        if not isinstance(skeletons, dict):
            raise CheckpointError("state.json is no object", where=str(path))
        sealed: dict[str, Sealed] = {}
        places: dict[str, tuple[Path, FileRecord]] = {}
        for file, record in folder.manifest.files.items():
            if file.startswith("sealed/"):
                key = file.removeprefix("sealed/").removesuffix(".safetensors")
                sealed[key] = Sealed(key, tensor_files.read_checked(folder, file, mapped=True))
                places[key] = (path / file, record)
        state: State = {}
        for name, skeleton in skeletons.items():
            file = f"{name}.safetensors"
            tensors: dict[str, Tensor] = tensor_files.read_checked(folder, file) if file in folder else {}
            state[name] = tree.unpack(skeleton, tensors, sealed)
        folder.verify()
        self._sealed = places
        return state

    def _seal(self, staging: Staging, sealed: Sealed) -> FileRecord:
        known = self._sealed.get(sealed.name)
        if known is not None and known[0].is_file():
            return staging.link(_sealed_file(sealed.name), *known)
        return staging.write(_sealed_file(sealed.name), tensor_files.chunks(sealed.tensors))

    def _vacant(self, updates: int) -> Path:
        """The folder for a new checkpoint: a second one at the same number of updates gets a serial."""
        serial = 0
        for path in self.paths():
            match = _FOLDER.fullmatch(path.name)
            number = int(match[1]) if match else 0
            if number > updates and path not in self._damaged:
                raise CheckpointError(
                    f"a later checkpoint ({number} updates) stands already",
                    where=str(self.folder),
                    remedy="Resume the run from it, or train into another folder.",
                )
            if number == updates and match:
                serial = max(serial, int(match[2] or 0) + 1)
        return self.folder / (f"{updates:012d}-{serial}" if serial else f"{updates:012d}")

    def _prune(self) -> None:
        sound = [path for path in self.paths() if path not in self._damaged]
        for path in {*sound[: -self.keep], *self._damaged}:
            if path.exists():
                discard(path)
        self._damaged = set()
        sweep(self.folder)


def _pack_part(name: str, part: object) -> tree.Packed:
    if not _PART.fullmatch(name) or name.lower() == "manifest":
        raise ComponentError(f"{name!r} can't be the name of a state's part", remedy="Use letters, digits, - and _.")
    try:
        return tree.pack(part)
    except ComponentError as error:
        where = f"{name}/{error.where}" if error.where else name
        raise ComponentError(error.problem, where=where, remedy=error.remedy) from None


def _sealed_file(key: str) -> str:
    return f"sealed/{key}.safetensors"


def _verify(folder: Folder, name: str) -> None:
    folder.check(name, *file_digest(folder.path / name))
