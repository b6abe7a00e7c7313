import errno
import json
import os
import socket
import subprocess
import sys
import unicodedata

import pytest

from reinforge.errors import IntegrityError, StorageError
from reinforge.storage import files, folder, manifest
from reinforge.storage.folder import Folder, commit, discard, sweep

FORMAT = "test"


def make(target, **contents):
    with commit(target, FORMAT, 1) as staging:
        for name, text in (contents or {"a": "one", "b": "two"}).items():
            staging.text(f"{name}.txt", text)
    return target


def rewrite(target, change):
    """Change the manifest and give it a right digest of its own, as an attacker would."""
    path = target / manifest.NAME
    value = json.loads(path.read_text())
    change(value)
    files_ = {n: manifest.FileRecord(f["size"], f["sha256"]) for n, f in value["files"].items()}
    value["digest"] = manifest.Manifest(value["format"], value["version"], files_, value["about"]).digest
    path.write_text(json.dumps(value))


def test_a_committed_folder_is_whole(tmp_path):
    target = make(tmp_path / "x")
    opened = Folder.open(target, FORMAT)
    assert opened.bytes("a.txt") == b"one"
    opened.verify()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x"]


def test_an_error_inside_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt), commit(tmp_path / "x", FORMAT, 1) as staging:  # noqa: PT012
        staging.text("a.txt", "one")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_what_stands_is_never_overwritten(tmp_path):
    target = make(tmp_path / "x")
    with pytest.raises(StorageError, match="exists"):
        make(target, other="content")
    Folder.open(target, FORMAT).verify()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO])
@pytest.mark.parametrize("call", ["fsync", "rename", "mkdir"])
def test_errors_of_the_system_are_typed_and_leave_nothing(tmp_path, monkeypatch, code, call):
    standing = make(tmp_path / "standing")

    def fail(*arguments, **keywords):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(StorageError):
        make(tmp_path / "x")
    monkeypatch.undo()
    assert [p.name for p in tmp_path.iterdir()] == ["standing"]
    Folder.open(standing, FORMAT).verify()


def test_a_file_larger_than_allowed_is_typed_and_leaves_nothing(tmp_path):
    """A real failed write, by the system's limit on file sizes, in a process of its own."""
    program = """
import resource, signal, sys
from pathlib import Path
from reinforge.errors import StorageError
from reinforge.storage.folder import commit
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    with commit(Path(sys.argv[1]), "test", 1) as staging:
        staging.write("a.bin", [bytes(1000)] * 100)
except StorageError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path / "x")], capture_output=True, text=True)
    assert "larger than this system allows" in done.stdout, done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_full_device_is_typed():
    if not os.path.exists("/dev/full"):
        pytest.skip("this system has no /dev/full")
    with pytest.raises(StorageError, match="full"), files.storage_errors("here"), open("/dev/full", "wb") as file:  # noqa: PT012
        file.write(b"x")
        file.flush()


def test_sweep_removes_what_the_dead_left_and_nothing_of_the_living(tmp_path):
    (tmp_path / ".tmp-dead-1").mkdir()
    (tmp_path / ".tmp-dead-1" / "a").write_text("rest")
    with commit(tmp_path / "living", FORMAT, 1) as staging:
        sweep(tmp_path)
        assert [p.name for p in tmp_path.iterdir()] == [staging.path.name]
    Folder.open(tmp_path / "living", FORMAT).verify()


def test_discard_is_immediate(tmp_path):
    target = make(tmp_path / "x")
    discard(target)
    assert list(tmp_path.iterdir()) == []


def test_every_flipped_bit_of_a_small_folder_is_noticed(tmp_path):
    target = make(tmp_path / "x")
    for path in sorted(target.iterdir()):
        content = path.read_bytes()
        for position in range(len(content)):
            damaged = bytearray(content)
            damaged[position] ^= 1 << (position % 8)
            path.write_bytes(damaged)
            with pytest.raises(StorageError):
                Folder.open(target, FORMAT).verify()
        path.write_bytes(content)
    Folder.open(target, FORMAT).verify()


def test_truncated_files_are_noticed_before_they_are_read(tmp_path):
    target = make(tmp_path / "x")
    (target / "a.txt").write_bytes(b"on")
    with pytest.raises(IntegrityError, match="2 bytes"):
        Folder.open(target, FORMAT)


def _extra(target):
    (target / "extra.txt").write_text("x")


def _extra_folder(target):
    (target / "empty").mkdir()


def _link(target):
    content = target.parent / "outside.txt"
    content.write_text("one")
    (target / "a.txt").unlink()
    (target / "a.txt").symlink_to(content)


def _manifest_link(target):
    moved = target.parent / "moved.json"
    os.rename(target / manifest.NAME, moved)
    (target / manifest.NAME).symlink_to(moved)


def _pipe(target):
    (target / "a.txt").unlink()
    os.mkfifo(target / "a.txt")


def _manifest_pipe(target):
    (target / manifest.NAME).unlink()
    os.mkfifo(target / manifest.NAME)


def _socket(target):
    (target / "a.txt").unlink()
    here = os.getcwd()
    os.chdir(target)
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind("a.txt")
    finally:
        os.chdir(here)


def _missing(target):
    (target / "b.txt").unlink()


def _folder_for_file(target):
    (target / "a.txt").unlink()
    (target / "a.txt").mkdir()


@pytest.mark.parametrize(
    "attack",
    [_extra, _extra_folder, _link, _manifest_link, _pipe, _manifest_pipe, _socket, _missing, _folder_for_file],
)
def test_strange_files_are_refused(tmp_path, attack):
    target = make(tmp_path / "x")
    attack(target)
    with pytest.raises(IntegrityError):
        Folder.open(target, FORMAT)


@pytest.mark.parametrize(
    "name",
    [
        "../a.txt",
        "/etc/passwd",
        "a/../../b",
        "a//b",
        "./a",
        "",
        "a/",
        ".hidden",
        "a\\b",
        "c:x",
        "a\x00b",
        "con",
        "NUL.txt",
        "a.",
        "a b",
        "x" * 300,
        "a/b/c/d/e",
        "manifest.json",
        unicodedata.normalize("NFD", "é.txt"),
        "é.txt",
        "A.TXT",
    ],
)
def test_hostile_names_are_refused(tmp_path, name):
    """Written by us, or stated by a manifest with a right digest. "A.TXT" is "a.txt" on some systems."""
    target = make(tmp_path / "x")

    def add(value):
        value["files"][name] = {"size": 0, "sha256": "0" * 64}

    rewrite(target, add)
    with pytest.raises(IntegrityError):
        Folder.open(target, FORMAT)
    with pytest.raises(IntegrityError), commit(tmp_path / "y", FORMAT, 1) as staging:  # noqa: PT012
        staging.text("a.txt", "one")
        staging.text(name, "content")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x"]


@pytest.mark.parametrize(
    "change",
    [
        lambda v: v.update(format="other"),
        lambda v: v.update(version=0),
        lambda v: v.update(version=True),
        lambda v: v["files"]["a.txt"].update(size=-1),
        lambda v: v["files"]["a.txt"].update(sha256="zz"),
    ],
)
def test_malformed_manifests_are_refused(tmp_path, change):
    target = make(tmp_path / "x")
    rewrite(target, change)
    with pytest.raises(IntegrityError):
        Folder.open(target, FORMAT)


def test_a_manifest_with_a_duplicate_key_is_refused(tmp_path):
    target = make(tmp_path / "x")
    path = target / manifest.NAME
    path.write_text(path.read_text().replace('"a.txt"', '"b.txt"'))
    with pytest.raises(IntegrityError, match="twice"):
        Folder.open(target, FORMAT)


def test_links_fall_back_to_checked_copies(tmp_path, monkeypatch):
    target = make(tmp_path / "x")
    record = Folder.open(target, FORMAT).record("a.txt")

    def fail(*arguments, **keywords):
        raise OSError(errno.EXDEV, "cross-device")

    monkeypatch.setattr(os, "link", fail)
    with commit(tmp_path / "y", FORMAT, 1) as staging:
        staging.link("a.txt", target / "a.txt", record)
    Folder.open(tmp_path / "y", FORMAT).verify()
    (target / "a.txt").write_text("two")
    with pytest.raises(IntegrityError, match="changed"), commit(tmp_path / "z", FORMAT, 1) as staging:
        staging.link("a.txt", target / "a.txt", record)


def test_write_atomic_keeps_the_old_content_when_it_fails(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    files.write_atomic(path, "old")

    def fail(*arguments):
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(StorageError, match="full"):
        files.write_atomic(path, "new")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_space_is_checked(tmp_path):
    files.require_space(tmp_path / "not" / "there", 1)
    with pytest.raises(StorageError, match="needed"):
        files.require_space(tmp_path, 1 << 60)


def test_without_locks_leftovers_stay(tmp_path, monkeypatch):
    """Where no lock can tell the dead from the living, nothing is removed."""
    monkeypatch.setattr(folder, "fcntl", None)
    (tmp_path / ".tmp-dead-1").mkdir()
    make(tmp_path / "x")
    assert sorted(p.name for p in tmp_path.iterdir()) == [".tmp-dead-1", "x"]
