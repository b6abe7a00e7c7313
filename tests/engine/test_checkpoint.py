import errno
import logging
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from reinforge.core.sealed import Sealed
from reinforge.engine import checkpoint
from reinforge.engine.checkpoint import CheckpointStore
from reinforge.errors import CheckpointError, ComponentError, IntegrityError, StorageError


def state(number, sealed=3):
    """A state that says its number in every part, so that a mixture shows."""
    segments = [Sealed(f"segment-{i}", {"rows": torch.full((50,), float(i))}) for i in range(sealed)]
    return {
        "learner": {"weight": torch.full((100, 100), float(number)).t(), "bias": torch.full((7,), float(number))},
        "optimizer": {0: {"step": number, "moments": np.full(50, number)}},
        "source": {"segments": segments, "number": number},
        "clock": {"updates": number},
    }


def consistent(found):
    number = found["clock"]["updates"]
    assert bool((found["learner"]["weight"] == number).all())
    assert bool((found["learner"]["bias"] == number).all())
    assert found["optimizer"][0]["step"] == number
    assert (found["optimizer"][0]["moments"] == number).all()
    assert found["source"]["number"] == number
    for i, segment in enumerate(found["source"]["segments"]):
        assert segment.name == f"segment-{i}"
        assert bool((segment.tensors["rows"] == i).all())
    return number


def test_the_newest_is_loaded_and_older_ones_are_pruned(tmp_path):
    store = CheckpointStore(tmp_path / "checkpoints", keep=2)
    assert store.latest() is None
    for number in (1, 20, 300, 4000):
        store.save(state(number), updates=number)
    assert [p.name for p in store.paths()] == ["000000000300", "000000004000"]
    fresh = CheckpointStore(tmp_path / "checkpoints")
    assert consistent(fresh.latest()) == 4000
    assert fresh.notes == []


def test_sealed_parts_are_written_once_and_linked(tmp_path):
    store = CheckpointStore(tmp_path, keep=3)
    first, second = (store.save(state(n), updates=n) for n in (1, 2))
    resumed = CheckpointStore(tmp_path, keep=3)
    consistent(resumed.latest())
    third = resumed.save(state(3, sealed=4), updates=3)
    inodes = [
        [(p / "sealed" / f"segment-{i}.safetensors").stat().st_ino for i in range(3)] for p in (first, second, third)
    ]
    assert inodes[0] == inodes[1] == inodes[2]
    assert (third / "sealed" / "segment-3.safetensors").stat().st_nlink == 1
    for path in (first, second, third):
        consistent(resumed.load(path))


def test_a_store_never_links_what_it_has_not_seen(tmp_path):
    """After falling back, a name may stand for other content than in the damaged checkpoint."""
    CheckpointStore(tmp_path).save({"a": Sealed("part", {"x": torch.zeros(3)})}, updates=1)
    store = CheckpointStore(tmp_path)
    store.save({"a": Sealed("part", {"x": torch.ones(3)})}, updates=2)
    assert CheckpointStore(tmp_path).latest()["a"].tensors["x"].tolist() == [1, 1, 1]


def test_twice_at_the_same_update_keeps_the_second(tmp_path):
    store = CheckpointStore(tmp_path)
    store.save({"a": 1}, updates=5)
    store.save({"a": 2}, updates=5)
    assert CheckpointStore(tmp_path).latest() == {"a": 2}


def test_saving_before_a_standing_later_one_is_refused(tmp_path):
    CheckpointStore(tmp_path).save({"a": 1}, updates=5)
    with pytest.raises(CheckpointError, match="later"):
        CheckpointStore(tmp_path).save({"a": 2}, updates=4)


def damage(path, how):
    files = sorted(p for p in path.rglob("*") if p.is_file())
    if how.endswith("gone"):
        (path / "manifest.json" if "list" in how else files[0]).unlink()
        return
    for file in files if how != "flip" else [max(files, key=lambda p: p.stat().st_size)]:
        content = bytearray(file.read_bytes())
        if how == "flip":
            content[-1 - len(content) // 3] ^= 16
        file.unlink()  # hard links to older checkpoints stay whole, as on a real disk they might not
        file.write_bytes(content[: len(content) // 2] if how == "truncate" else content)


@pytest.mark.parametrize("how", ["flip", "truncate", "a file is gone", "its list is gone"])
def test_a_damaged_one_is_refused_and_the_previous_is_used(tmp_path, caplog, how):
    store = CheckpointStore(tmp_path)
    store.save(state(1), updates=1)
    second = store.save(state(2), updates=2)
    damage(second, how)
    with pytest.raises(CheckpointError):
        store.load(second)
    fresh = CheckpointStore(tmp_path)
    with caplog.at_level(logging.WARNING):
        assert consistent(fresh.latest()) == 1
    assert "000000000002 was not used" in fresh.notes[0]
    assert fresh.notes[0] in caplog.text
    fresh.save(state(2), updates=2)
    fresh.save(state(3), updates=3)
    assert not second.exists()
    assert [consistent(fresh.load(p)) for p in fresh.paths()] == [2, 3]


def test_the_one_before_stays_until_the_new_one_was_read_back(tmp_path, monkeypatch):
    """A disk that writes something else than it was given must not cost the good checkpoint."""
    store = CheckpointStore(tmp_path, keep=1)
    first = store.save(state(1), updates=1)
    write = checkpoint.Staging.write

    def corrupting(staging, name, chunks):
        record = write(staging, name, chunks)
        if name == "learner.safetensors":
            content = bytearray((staging.path / name).read_bytes())
            content[-5] ^= 1
            (staging.path / name).write_bytes(content)
        return record

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.Staging, "write", corrupting)
        with pytest.raises(StorageError, match="digest"):
            store.save(state(2), updates=2)
    assert first.is_dir()
    assert consistent(CheckpointStore(tmp_path).latest()) == 1


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs /proc to name what is synced")
def test_everything_is_on_the_disk_before_the_checkpoint_has_its_name(tmp_path, monkeypatch):
    """What a crash of the whole machine leaves is what was synced: files, then folders, then the rename, then its
    folder."""
    told = []
    rename, sync = os.rename, os.fsync

    def renamed(source, target, **keywords):
        if str(target).endswith("000000000001"):
            told.append(("rename", sorted(p.name for p in Path(source).rglob("*") if p.is_file())))
        rename(source, target, **keywords)

    def synced(descriptor):
        told.append(("sync", os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}"))))
        sync(descriptor)

    monkeypatch.setattr(os, "rename", renamed)
    monkeypatch.setattr(os, "fsync", synced)
    CheckpointStore(tmp_path / "checkpoints").save(state(1), updates=1)
    place = next(i for i, (what, _) in enumerate(told) if what == "rename")
    before, after = [name for _, name in told[:place]], [name for _, name in told[place + 1 :]]
    assert set(told[place][1]) <= set(before)
    assert "sealed" in before
    assert any(name.startswith(".tmp-") for name in before)
    assert "checkpoints" in after


def test_what_can_not_be_read_now_is_not_damaged(tmp_path, monkeypatch):
    """Going on from the one before would lose the newest, and then delete it."""
    store = CheckpointStore(tmp_path)
    for number in (1, 2):
        store.save(state(number), updates=number)

    def failing(descriptor, buffers):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    fresh = CheckpointStore(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(os, "readv", failing)
        with pytest.raises(StorageError, match=r"(?s)output error.*Try again") as caught:
            fresh.latest()
    assert not isinstance(caught.value, IntegrityError)
    assert fresh.notes == []
    assert consistent(fresh.latest()) == 2
    fresh.save(state(3), updates=3)
    assert [consistent(fresh.load(path)) for path in fresh.paths()] == [2, 3]


def test_none_usable_is_an_error_and_not_a_new_start(tmp_path):
    store = CheckpointStore(tmp_path)
    for number in (1, 2):
        damage(store.save(state(number), updates=number), "flip")
    with pytest.raises(CheckpointError, match="no checkpoint is usable"):
        CheckpointStore(tmp_path).latest()


def test_every_byte_counts(tmp_path):
    store = CheckpointStore(tmp_path)
    path = store.save({"a": {"x": torch.ones(3), "s": Sealed("p", {"y": torch.ones(2)})}, "b": [1, 2.5]}, updates=1)
    for file in sorted(p for p in path.rglob("*") if p.is_file()):
        content = file.read_bytes()
        for position in range(len(content)):
            damaged = bytearray(content)
            damaged[position] ^= 1 << (position % 8)
            file.write_bytes(damaged)
            with pytest.raises(CheckpointError):
                store.load(path)
        file.write_bytes(content)
    store.load(path)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES])
@pytest.mark.parametrize("call", ["fsync", "rename", "mkdir"])
def test_a_failed_save_loses_nothing(tmp_path, monkeypatch, code, call):
    store = CheckpointStore(tmp_path)
    for number in (1, 2):
        store.save(state(number), updates=number)

    def fail(*arguments, **keywords):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(StorageError):
        store.save(state(3), updates=3)
    monkeypatch.undo()
    assert [consistent(store.load(p)) for p in store.paths()] == [1, 2]
    store.save(state(3), updates=3)
    assert consistent(CheckpointStore(tmp_path).latest()) == 3


def test_a_small_disk_is_noticed_before_writing(tmp_path, monkeypatch):
    store = CheckpointStore(tmp_path)
    store.save(state(1), updates=1)
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 1000})())
    with pytest.raises(StorageError, match="needed"):
        store.save(state(2), updates=2)
    assert consistent(CheckpointStore(tmp_path).latest()) == 1


def test_a_really_full_disk_loses_nothing(tmp_path):
    """A file system of one megabyte, mounted for the test: needs root."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = (
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], capture_output=True).returncode == 0
    )
    if not mounted:
        pytest.skip("mounting needs root")
    try:
        store = CheckpointStore(disk, keep=2)
        import reinforge.engine.checkpoint as module

        margin, module._MARGIN = module._MARGIN, -(1 << 40)  # so that the write itself fails, not the check before it
        try:
            store.save(state(1), updates=1)
            for number in range(2, 40):
                big = {**state(number), "ballast": torch.zeros(number * 5000)}
                try:
                    store.save(big, updates=number)
                except StorageError as error:
                    problem = str(error)
                    break
            else:
                pytest.fail("the disk never got full")
        finally:
            module._MARGIN = margin
        assert "full" in problem
        assert [consistent(store.load(p)) for p in store.paths()][-1] == number - 1
        assert not [p for p in disk.iterdir() if p.name.startswith(".")]
    finally:
        subprocess.run(["umount", disk], check=True)


@pytest.mark.parametrize("name", ["../x", "a/b", "", "manifest", "a.b", ".x"])
def test_parts_have_plain_names(tmp_path, name):
    with pytest.raises(ComponentError):
        CheckpointStore(tmp_path).save({name: 1}, updates=1)


def test_a_sealed_part_can_not_leave_the_folder(tmp_path):
    with pytest.raises(StorageError):
        CheckpointStore(tmp_path / "c").save({"a": Sealed("../../evil", {"x": torch.ones(1)})}, updates=1)
    assert [p.name for p in tmp_path.rglob("*")] == ["c"]


def test_two_sealed_parts_of_one_name_are_refused(tmp_path):
    parts = {"a": Sealed("p", {"x": torch.ones(1)}), "b": Sealed("p", {"x": torch.zeros(1)})}
    with pytest.raises(ComponentError, match="two sealed"):
        CheckpointStore(tmp_path).save(parts, updates=1)


def test_a_newer_format_is_refused_with_a_remedy(tmp_path, monkeypatch):
    monkeypatch.setattr("reinforge.engine.checkpoint.VERSION", 2)
    path = CheckpointStore(tmp_path).save({"a": 1}, updates=1)
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match="Upgrade"):
        CheckpointStore(tmp_path).load(path)


WRITER = """
import sys
sys.path.insert(0, sys.argv[2])
from test_checkpoint import state
from reinforge.engine.checkpoint import CheckpointStore
store = CheckpointStore(sys.argv[1], keep=2)
found = store.latest()
number = found["clock"]["updates"] if found else 0
print("ready", flush=True)
while True:
    number += 1
    store.save(state(number), updates=number)
    print(number, flush=True)
"""


def kill_at_random_moments(folder, times, seed):
    draw, highest, killed_inside = random.Random(seed), 0, 0
    for _ in range(times):
        command = [sys.executable, "-c", WRITER, str(folder), os.path.dirname(__file__)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout.readline() == "ready\n"
        process.stdout.readline()
        time.sleep(draw.uniform(0, 0.03))
        process.send_signal(signal.SIGKILL)
        reported = [int(line) for line in process.stdout.read().split()]
        process.wait()
        killed_inside += any(p.name.startswith(".") for p in folder.iterdir())
        store = CheckpointStore(folder)
        number = consistent(store.latest())
        assert store.notes == []
        assert number >= max(reported, default=highest + 1), "a checkpoint that was reported is gone"
        highest = number
    return killed_inside


def test_killed_writers_leave_a_consistent_store(tmp_path):
    kill_at_random_moments(tmp_path, times=3, seed=0)


@pytest.mark.slow
def test_killed_writers_leave_a_consistent_store_twenty_five_times(tmp_path):
    assert kill_at_random_moments(tmp_path, times=25, seed=1) > 5, "too few of the kills fell inside saving"
