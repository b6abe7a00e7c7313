"""What is logged survives a disk that refuses, and is there once."""

from __future__ import annotations

import json
import os
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from reinforge.engine.logbook import Logbook
from reinforge.errors import StorageError
from reinforge.recipe.sections import Log
from tests.engine.problems import engine


@contextmanager
def file_size(limit: int) -> Iterator[None]:
    """No file of this process may grow beyond so many bytes: what a full disk looks like from inside."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("csv", [False, True])
def test_a_row_is_written_whole_or_not_at_all(csv: bool, tmp_path: Path) -> None:
    book, place = Logbook(tmp_path, Log(csv=csv)), 0
    with file_size(1000), pytest.raises(StorageError, match="larger than this system allows"):  # noqa: PT012
        while True:
            place += 1
            book.write({"updates": place, "loss": 1 / 3})
    book.write({"updates": 1000, "loss": 0.5})
    rows = [json.loads(line) for line in book.path.read_text().splitlines()]
    assert [row["updates"] for row in rows][-1] == 1000
    if csv:
        assert all(len(line.split(",")) == 2 for line in book.csv_path.read_text().splitlines())


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
def test_a_disk_that_refuses_the_log_does_not_end_the_training(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").symlink_to("/dev/full")
    notes: list[str] = []
    one = engine(updates=20, log=Log(updates=2), logbook=Logbook(tmp_path, Log(updates=2)), note=notes.append)
    finished = one.run()
    assert (finished.reason, finished.clock.updates) == ("updates", 20)
    assert len(notes) == 1
    assert "the disk is full" in notes[0]


def test_tensorboard_forgets_what_came_after_the_checkpoint(tmp_path: Path) -> None:
    """A START of a session at a step tells TensorBoard to hide what other files have from that step on."""
    event_pb2: Any = pytest.importorskip("tensorboardX.proto.event_pb2")
    begun = []
    for first in (1, 3):
        time.sleep(1.1 * len(begun))  # files are named by the second
        known = set(tmp_path.glob("tensorboard/*"))
        book = Logbook(tmp_path, Log(tensorboard=True))
        for updates in range(first, first + 4):
            book.write({"updates": updates, "loss": float(updates)})
        book.close()
        (file,) = set(tmp_path.glob("tensorboard/*")) - known
        events = [event_pb2.Event.FromString(record) for record in _records(file.read_bytes())]
        begun += [event.step for event in events if event.session_log.status == event_pb2.SessionLog.START]
        assert [event.step for event in events if event.summary.value] == list(range(first, first + 4))
    assert begun == [1, 3]


def _records(content: bytes) -> Iterator[bytes]:
    """TFRecord: length (8 bytes), its checksum (4), data, their checksum (4)."""
    while content:
        length = int.from_bytes(content[:8], "little")
        yield content[12 : 12 + length]
        content = content[16 + length :]
