"""Bundles that want to do harm: refused with a typed error, in bounded memory, with nothing written or executed."""

import json
import os
import resource
import struct
import subprocess
import sys
import zipfile

import pytest
import torch

import reinforge.bundle
from reinforge.bundle.archive import pack, unpack
from reinforge.core import tensor_files
from reinforge.data.text import load_tokenizer
from reinforge.environments.parts import Part
from reinforge.errors import BundleError, ComponentError, IntegrityError, ReinforgeError, StorageError
from reinforge.schema.fields import Box
from reinforge.schema.signature import Input
from tests.bundle import made


def change(path, name, edit):
    value = json.loads((path / name).read_text())
    edit(value)
    made.rewrite(path, name, json.dumps(value))


def test_every_damaged_byte_of_the_small_files_is_noticed(table_path):
    for name in ("model.json", "task.json", "pipeline.safetensors", "card.md", "manifest.json"):
        content = (table_path / name).read_bytes()
        for position in range(0, len(content), 37):
            damaged = bytearray(content)
            damaged[position] ^= 1 << (position % 8)
            (table_path / name).write_bytes(damaged)
            with pytest.raises(BundleError):
                reinforge.bundle.load(table_path, verify="digest")
        (table_path / name).write_bytes(content)
    reinforge.bundle.load(table_path)


@pytest.mark.parametrize("name", ["evil.py", "weights.pt", "exports", "data.pkl"])
def test_files_that_no_bundle_has_are_refused_even_when_listed(table_path, name):
    made.rewrite(table_path, name, b"import os")
    with pytest.raises(BundleError, match="no such file"):
        reinforge.bundle.load(table_path)


def test_exports_are_allowed(table_path):
    made.rewrite(table_path, "exports/model.onnx", b"onnx")
    reinforge.bundle.load(table_path)


@pytest.mark.parametrize(
    "name", ["schema.json", "pipeline.json", "model.json", "task.json", "golden.jsonl", "weights.safetensors"]
)
def test_a_missing_file_is_named(table_path, name):
    (table_path / name).unlink()
    with pytest.raises(BundleError, match=name.replace(".", r"\.")):
        reinforge.bundle.load(table_path)


@pytest.mark.parametrize("name", ["schema.json", "pipeline.json", "model.json", "task.json"])
@pytest.mark.parametrize(
    "content", ["[" * 100_000, "{}", "[]", "null", "3", '"x"', "{" * 70 + "}" * 70, "NaN", '{"a":1,"a":2}', "\\u0000"]
)
def test_malformed_documents_are_refused(table_path, name, content):
    made.rewrite(table_path, name, content)
    if (name, content) == ("task.json", "{}"):
        return  # everything in it has a default
    with pytest.raises(BundleError):
        reinforge.bundle.load(table_path)


EDITS = {
    "layers": lambda v: v["options"]["body"].update(sizes=[1 << 40]),
    "many layers": lambda v: v["options"]["body"].update(sizes=[1] * 200_000),
    "classes": lambda v: v["signature"]["outputs"]["species"].update(size=1 << 50),
    "negative": lambda v: v["signature"]["inputs"]["numbers"].update(shape=[-3]),
    "negative class": lambda v: v["signature"]["outputs"]["species"].update(size=-1),
    "zero": lambda v: v["signature"]["outputs"]["species"].update(size=0),
    "beyond": lambda v: v["signature"]["outputs"]["species"].update(size=1 << 80),
    "no inputs": lambda v: v["signature"].update(inputs={}),
    "unknown key": lambda v: v.update(code="import os"),
    "import path": lambda v: v["options"].update(kind="os:system"),
    "target": lambda v: v["options"].update(target="os:system"),
    "shared": lambda v: v.update(shared={"a": "b"}),
    "shared number": lambda v: v.update(shared={"a": 1}),
    "module": lambda v: (v.pop("options"), v.update(module="os", wrapped=True)),
    "decoder": lambda v: v.update(options={"kind": "decoder", "layers": 1 << 40, "width": 1 << 20, "heads": 2}),
    "context": lambda v: v.update(
        options={"kind": "decoder", "context": 1 << 50, "layers": 1},
        signature={
            "inputs": {"t": {"form": "tokens", "sizes": [3]}},
            "outputs": {"t": {"form": "tokens", "size": 3}},
        },
    ),
}  # fmt: skip


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS.keys())
def test_hostile_models_are_refused_in_bounded_memory(table_path, edit):
    change(table_path, "model.json", edit)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises((BundleError, ComponentError)):
        reinforge.bundle.load(table_path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # kilobytes


def test_huge_shapes_in_the_weights_are_refused_in_bounded_memory(table_path):
    header = json.dumps({"a": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}}).encode()
    made.rewrite(table_path, "weights.safetensors", struct.pack("<Q", len(header)) + header)
    with pytest.raises(BundleError, match="end at byte"):
        reinforge.bundle.load(table_path)
    made.rewrite(table_path, "weights.safetensors", struct.pack("<Q", 1 << 50) + header)
    with pytest.raises(BundleError, match="cut off"):
        reinforge.bundle.load(table_path)


def test_weights_of_another_network_are_refused(table_path):
    for tensors in ({}, {"a": torch.ones(3)}):
        made.rewrite(table_path, "weights.safetensors", b"".join(map(bytes, tensor_files.chunks(tensors))))
        with pytest.raises(BundleError, match="lacks weights"):
            reinforge.bundle.load(table_path)


def test_sparse_giants_are_not_read(table_path):
    with open(table_path / "schema.json", "r+b") as file:
        file.truncate(1 << 40)
    with pytest.raises(BundleError, match="bytes"):
        reinforge.bundle.load(table_path)


def test_hostile_golden_rows_are_typed(table_path):
    lines = (table_path / "golden.jsonl").read_text().splitlines()
    for edit in (
        lambda v: v.update(row={"size": "x"}),
        lambda v: v.update(outputs={"species": "x"}),
        lambda v: v.update(outputs={"species": [1.0, 10**300], "price": [0.0]}),
        lambda v: v.update(outputs={}),
        lambda v: v.update(inputs={"numbers": 3}),
    ):
        value = json.loads(lines[0])
        edit(value)
        made.rewrite(table_path, "golden.jsonl", "\n".join([json.dumps(value), *lines[1:]]) + "\n")
        with pytest.raises(BundleError):
            reinforge.bundle.load(table_path)


def test_a_newer_format_says_to_upgrade(table_path):
    text = json.loads((table_path / "manifest.json").read_text())
    text["version"] = 9
    (table_path / "manifest.json").write_text(json.dumps(text))
    made_again = _digested(text)
    (table_path / "manifest.json").write_text(made_again)
    with pytest.raises(BundleError, match="Upgrade"):
        reinforge.bundle.load(table_path)


def _digested(value):
    from reinforge.storage.manifest import FileRecord, Manifest

    files = {n: FileRecord(f["size"], f["sha256"]) for n, f in value["files"].items()}
    return Manifest(value["format"], value["version"], files, value["about"]).text()


def test_migration_leads_old_documents_to_this_version(table_path, monkeypatch):
    """The rule, with a made-up version 2 that renames a key of task.json."""
    from reinforge.bundle import loading

    def second(documents):
        task = {**documents["task.json"], "outputs": {"species": {"threshold": 0.01}}}
        return {**documents, "task.json": task}

    monkeypatch.setattr(loading, "VERSION", 2)
    monkeypatch.setitem(loading.MIGRATIONS, 1, second)
    before = (table_path / "task.json").read_bytes()
    assert reinforge.bundle.load(table_path).task.outputs["species"].threshold == 0.01
    assert (table_path / "task.json").read_bytes() == before


def test_a_missing_folder_or_a_checkpoint_is_no_bundle(tmp_path, table_path):
    with pytest.raises(StorageError):
        reinforge.bundle.load(tmp_path / "missing")
    from reinforge.engine.checkpoint import CheckpointStore

    with pytest.raises(BundleError, match="expected 'reinforge-bundle'"):
        reinforge.bundle.load(CheckpointStore(tmp_path / "c").save({"a": 1}, updates=1))


def test_nothing_unpickles(table_path):
    """Loading works where pickle can't."""
    program = """
import pickle, sys
import reinforge.bundle.loading
import reinforge.models.composed
def refuse(*arguments, **keywords): raise SystemExit("pickle was called")
pickle.loads = pickle.load = pickle.Unpickler = refuse
reinforge.bundle.load(sys.argv[1])
"""
    done = subprocess.run([sys.executable, "-c", program, str(table_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# One file.


def test_a_bundle_travels_as_one_file(table_path, tmp_path):
    one, two = pack(table_path, tmp_path / "a.zip"), pack(table_path, tmp_path / "b.zip")
    assert one.read_bytes() == two.read_bytes()
    assert zipfile.ZipFile(one).testzip() is None
    copy = unpack(one, tmp_path / "copy")
    assert reinforge.bundle.load(copy).digest == reinforge.bundle.load(table_path).digest
    with pytest.raises(StorageError, match="exists"):
        pack(table_path, one)
    with pytest.raises(StorageError, match="exists"):
        unpack(one, copy)


def _zip(path, source, add=(), drop=()):
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(path, "w") as new:
        for info in old.infolist():
            if info.filename not in drop:
                new.writestr(info, old.read(info))
        for info, content in add:
            new.writestr(info, content)
    return path


def _link(name):
    info = zipfile.ZipInfo(name)
    info.external_attr = 0o120777 << 16
    return info


def _deflated(name):
    info = zipfile.ZipInfo(name)
    info.compress_type = zipfile.ZIP_DEFLATED
    return info


@pytest.mark.parametrize(
    ("add", "drop"),
    [
        ([("../evil.txt", b"x")], ()),
        ([("/tmp/evil.txt", b"x")], ()),
        ([("a\\..\\evil.txt", b"x")], ()),
        ([("extra.txt", b"x")], ()),
        ([("CARD.md", b"x")], ()),
        ([(_link("card.md"), b"/etc/passwd")], ("card.md",)),
        ([(_link("link"), b"/etc/passwd")], ()),
        ([("card.md", b"other")], ("card.md",)),
        ([(_deflated("card.md"), bytes(1 << 22))], ("card.md",)),
        ([("folder/", b"")], ()),
        ([], ("card.md",)),
        ([], ("manifest.json",)),
        ([("manifest.json", b"{}")], ("manifest.json",)),
        ([("manifest.json", b"[" * 100_000)], ("manifest.json",)),
    ],
)
def test_hostile_archives_are_refused_and_leave_nothing(table_path, tmp_path, add, drop):
    good = pack(table_path, tmp_path / "good.zip")
    bad = _zip(tmp_path / "bad.zip", good, add, drop)
    before = sorted(p.relative_to(tmp_path) for p in tmp_path.rglob("*"))
    with pytest.raises(BundleError):
        unpack(bad, tmp_path / "out" / "bundle")
    after = sorted(p.relative_to(tmp_path) for p in tmp_path.rglob("*") if p.name != "out")
    assert after == before
    assert not os.path.exists("/tmp/evil.txt")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_doubled_names_are_refused(table_path, tmp_path):
    bad = _zip(tmp_path / "bad.zip", pack(table_path, tmp_path / "good.zip"), [("card.md", b"other")])
    with pytest.raises(BundleError, match="twice"):
        unpack(bad, tmp_path / "out")


def test_an_archive_over_the_limit_is_refused(table_path, tmp_path):
    with pytest.raises(BundleError, match="allowed"):
        unpack(pack(table_path, tmp_path / "a.zip"), tmp_path / "out", limit=1000)


def test_damaged_archives_are_typed(table_path, tmp_path):
    content = pack(table_path, tmp_path / "a.zip").read_bytes()
    for position in range(0, len(content), 499):
        damaged = bytearray(content)
        damaged[position] ^= 1 << (position % 8)
        bad = tmp_path / "bad.zip"
        bad.write_bytes(damaged if position % 2 else damaged[: position + 1])
        target = tmp_path / f"out{position}"
        try:
            unpack(bad, target)
        except ReinforgeError:
            assert not target.exists()
        else:
            reinforge.bundle.load(target)  # a field that means nothing here was hit


def test_packing_a_damaged_folder_is_refused(table_path, tmp_path):
    (table_path / "card.md").write_text("x" * (table_path / "card.md").stat().st_size)
    with pytest.raises(IntegrityError):
        pack(table_path, tmp_path / "a.zip")


@pytest.mark.parametrize("kind", [None, {}, [], "made-up"])
def test_a_tokenizer_of_no_kind_is_refused(kind):
    with pytest.raises(IntegrityError, match="there is no tokenizer"):
        load_tokenizer({"kind": kind})


def test_choices_begin_at_whole_numbers_of_64_bits():
    block = Input(form="categories", sizes=(3,))
    assert Part(Box(shape=(1,), dtype="int64", low=-2, high=0), block).first.tolist() == [-2]
    with pytest.raises(IntegrityError, match="do not fit each other"):
        Part(Box(shape=(1,), dtype="int64", low=2.0**70, high=2.0**71), block)
    # Of what is no choice a bound may be anything.
    Part(Box(shape=(1,), low=-1e38, high=1e38), Input(form="box", shape=(1,)))
