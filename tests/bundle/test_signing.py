"""Signatures: by the right key, over exactly this bundle, checked before anything else is read; OpenSSL agrees."""

import base64
import json
import os
import shutil
import stat
import subprocess

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from reinforge.bundle import load
from reinforge.bundle.archive import pack, unpack
from reinforge.bundle.signing import make_keys, public_keys, required, sign
from reinforge.cli.application import run
from reinforge.errors import BundleError, PathError, ReinforgeError, StorageError
from reinforge.serving.trust import trusted
from reinforge.storage.strict_json import canonical
from reinforge.workflow.verify import verify
from tests.bundle import made


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    folder = tmp_path_factory.mktemp("signing")
    return make_keys(folder / "mine"), make_keys(folder / "other"), made.table_bundle(folder / "bundle")


@pytest.fixture
def mine(original):
    return original[0]


@pytest.fixture
def other(original):
    return original[1]


@pytest.fixture
def path(original, tmp_path):
    """A copy, signed by mine."""
    shutil.copytree(original[2].path, tmp_path / "bundle")
    sign(tmp_path / "bundle", original[0].private)
    return tmp_path / "bundle"


def test_what_is_signed_is_verified_and_is_still_the_same_bundle(original, mine, path):
    assert load(path).digest == original[2].digest
    assert required(path, public_keys([mine.public])) == sign(path, mine.private)
    assert verify(path, keys=[mine.public]).signed == mine.key
    assert verify(path).signed is None
    assert stat.S_IMODE(mine.private.stat().st_mode) == 0o600
    assert trusted(path, public_keys([mine.public])).predict(made.rows(3)) == original[2].predict(made.rows(3))


def test_openssl_finds_the_signature_right_too(mine, path, tmp_path):
    """Over bytes that are put together here by hand."""
    manifest = json.loads((path / "manifest.json").read_text())
    del manifest["digest"]
    (tmp_path / "message").write_bytes(b"reinforge bundle 1\n" + canonical(manifest))
    (signature,) = json.loads((path / "signatures.json").read_text())["signatures"].values()
    (tmp_path / "signature").write_bytes(base64.b64decode(signature))
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl")
    done = subprocess.run(
        ["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", mine.public, "-rawin", "-in", tmp_path / "message",
         "-sigfile", tmp_path / "signature"], capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "Verified Successfully" in done.stdout, done.stdout + done.stderr


def test_several_may_sign(mine, other, path):
    sign(path, other.private)
    sign(path, other.private)
    assert len(json.loads((path / "signatures.json").read_text())["signatures"]) == 2
    for keys in ([mine], [other], [other, mine]):
        assert required(path, public_keys(each.public for each in keys)).key == keys[0].key


def test_no_signature_and_a_wrong_key(original, mine, other, path):
    with pytest.raises(BundleError, match="no signature"):
        required(original[2].path, public_keys([mine.public]))
    with pytest.raises(BundleError, match=f"by a key that is trusted: {mine.key}"):
        verify(path, keys=[other.public])


def test_nothing_may_be_changed(mine, path):
    """Neither a file alone, which its digest shows, nor with its manifest, which the signature shows."""
    keys = public_keys([mine.public])
    for name in [each.name for each in path.iterdir() if each.name not in ("manifest.json", "signatures.json")]:
        content = (path / name).read_bytes()
        manifest = (path / "manifest.json").read_bytes()
        (path / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        with pytest.raises(BundleError):
            trusted(path, keys)
        with pytest.raises(BundleError):
            sign(path, mine.private)
        made.rewrite(path, name, content + b" ")
        with pytest.raises(BundleError, match="was changed after it was signed"):
            required(path, keys)
        (path / name).write_bytes(content)
        (path / "manifest.json").write_bytes(manifest)
    trusted(path, keys)
    manifest = json.loads((path / "manifest.json").read_text())
    made.rewrite(path, "card.md", (path / "card.md").read_bytes())
    trusted(path, keys)
    about = {**manifest["about"], "parents": ["0" * 64]}
    from reinforge.storage.manifest import FileRecord, Manifest

    files = {name: FileRecord(each["size"], each["sha256"]) for name, each in manifest["files"].items()}
    (path / "manifest.json").write_text(Manifest(manifest["format"], manifest["version"], files, about).text())
    with pytest.raises(BundleError, match="was changed after it was signed"):
        required(path, keys)


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"{}", b"\xff", b"{" * 70_000, b'{"version": 2, "signatures": {}}',
     b'{"version": 1, "signatures": []}', b'{"version": 1, "signatures": {"KEY": 3}}',
     b'{"version": 1, "signatures": {"KEY": "!!"}}', b'{"version": 1, "signatures": {"KEY": "AAAA"}}',
     b'{"version": 1, "signatures": {"KEY": "\xc3\xa9"}}',
     b'{"version": 1, "signatures": {"KEY": "' + base64.b64encode(bytes(64)) + b'"}}'],
)  # fmt: skip
def test_signatures_that_are_none(mine, path, content):
    (path / "signatures.json").write_bytes(content.replace(b"KEY", mine.key.encode()))
    with pytest.raises((BundleError, StorageError)):
        required(path, public_keys([mine.public]))
    # Whoever asks for no signature isn't kept from the bundle by one.
    load(path, verify="digest")


def test_a_signature_of_another_bundle_or_a_link(mine, path, tmp_path):
    another = made.policy_bundle(tmp_path / "another")
    shutil.copy(path / "signatures.json", another.path / "signatures.json")
    with pytest.raises(BundleError, match="does not match"):
        required(another.path, public_keys([mine.public]))
    (path / "signatures.json").rename(tmp_path / "elsewhere")
    (path / "signatures.json").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BundleError):
        load(path)


def test_signatures_travel_in_an_archive(mine, path, tmp_path):
    unpack(pack(path, tmp_path / "one.zip"), tmp_path / "back")
    assert required(tmp_path / "back", public_keys([mine.public])).key == mine.key


def test_keys_that_are_none(mine, path, tmp_path):
    elliptic = ec.generate_private_key(ec.SECP256R1())
    locked = ed25519.Ed25519PrivateKey.generate()
    pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    files = {
        "elliptic": elliptic.private_bytes(pem, pkcs8, serialization.NoEncryption()),
        "locked": locked.private_bytes(pem, pkcs8, serialization.BestAvailableEncryption(b"x")),
        "empty": b"", "bytes": os.urandom(100), "public": mine.public.read_bytes(),
    }  # fmt: skip
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ReinforgeError, match="private"):
            sign(path, tmp_path / name)
        if name != "public":
            with pytest.raises(ReinforgeError, match="public"):
                public_keys([tmp_path / name])
    with pytest.raises(StorageError):
        public_keys([tmp_path / "none"])
    with pytest.raises(PathError, match="exists already"):
        make_keys(mine.private)


def test_the_verbs(path, tmp_path, capsys):
    assert run(["keys", str(tmp_path / "k"), "--json"]) == 0
    key = json.loads(capsys.readouterr().out.splitlines()[-1])["key"]
    assert run(["verify", str(path), "--key", str(tmp_path / "k.pub")]) == 1
    assert "trusted" in capsys.readouterr().err
    assert run(["sign", str(path), "--key", str(tmp_path / "k")]) == 0
    assert key in capsys.readouterr().out
    assert run(["verify", str(path), "--key", str(tmp_path / "k.pub"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["signed"] == key
    assert run(["sign", str(path), "--key", str(tmp_path / "k.pub")]) == 2
