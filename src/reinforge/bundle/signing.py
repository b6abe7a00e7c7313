"""Signatures of bundles: Ed25519 (RFC 8032) over the manifest, which states the digest of every file.

They lie in `signatures.json` beside the manifest, so that they travel with the bundle and change nothing in it. Private
keys are PEM files of PKCS 8, public ones of SubjectPublicKeyInfo, as other programs write them too.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from reinforge.bundle.folders import FORMAT, bundle_folder
from reinforge.errors import BundleError, IntegrityError, MissingExtra, PathError, ReinforgeError
from reinforge.messages import _
from reinforge.storage import strict_json
from reinforge.storage.files import read_limited, storage_errors, write_atomic
from reinforge.storage.folder import Folder
from reinforge.storage.manifest import SIGNATURES, Manifest

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

# What is signed begins with this, so that no signature made for another purpose is one of a bundle.
_PURPOSE = b"reinforge bundle 1\n"
_MOST_SIGNATURES, _MOST_BYTES = 64, 64 << 10


@dataclass(frozen=True)
class Keys:
    """A new pair: its files, and the name by which signatures call it."""

    private: Path
    public: Path
    key: str


@dataclass(frozen=True)
class Signed:
    """A signature that was made: whose, and of which bundle."""

    key: str
    digest: str


def make_keys(path: Path) -> Keys:
    """A new pair of keys as PATH, which only its owner may read, and PATH.pub. Raises PathError where one is there."""
    serialization = _serialization()
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    public = path.with_name(f"{path.name}.pub")
    for there in (path, public):
        if os.path.lexists(there):
            raise PathError(_("it exists already"), where=str(there), remedy=_("Choose another name."))
    pair = Ed25519PrivateKey.generate()
    content = pair.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        # Nobody else may read it, from the first moment on.
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(content)
    written = pair.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    write_atomic(public, written.decode())
    return Keys(path, public, _name(pair.public_key()))


def sign(bundle: str | Path, key: Path) -> Signed:
    """Sign a bundle whose every file is as its manifest states; a signature by the same key is replaced, others stay.

    Raises BundleError, StorageError, or ReinforgeError for a file that is no private key.
    """
    pair = _private(key)
    folder = _opened(bundle_folder(bundle))
    _whole(folder)
    name = _name(pair.public_key())
    signature = base64.b64encode(pair.sign(_message(folder.manifest))).decode()
    kept = {other: text for other, text in _stored(folder.path).items() if other != name}
    if len(kept) >= _MOST_SIGNATURES:
        raise BundleError(_("it has {n} signatures already").format(n=len(kept)), where=str(folder.path))
    content = {"version": 1, "signatures": {**kept, name: signature}}
    write_atomic(folder.path / SIGNATURES, strict_json.pretty(content))
    return Signed(name, folder.manifest.digest)


def public_keys(paths: Iterable[str | Path]) -> tuple[str, ...]:
    """The texts of files of public keys. Raises ReinforgeError for one that is none."""
    texts = []
    for path in paths:
        with storage_errors(Path(path)):
            text = read_limited(Path(path), _MOST_BYTES).decode("latin-1")
        _public(text, str(path))
        texts.append(text)
    return tuple(texts)


def required(bundle: str | Path, keys: Sequence[str]) -> Signed:
    """The first signature that is by one of the keys (as `public_keys` gives them), checked against the manifest. The
    files are not: whoever loads the bundle compares the digest. Raises BundleError where there is no such signature, or
    one that does not match."""
    from cryptography.exceptions import InvalidSignature

    folder = _opened(bundle_folder(bundle))
    where, stored = str(folder.path), _stored(folder.path)
    if not stored:
        remedy = _("Sign it: {command}").format(command="reinforge sign BUNDLE --key FILE")
        raise BundleError(_("it has no signature"), where=where, remedy=remedy)
    for text in keys:
        key = _public(text, "key")
        name = _name(key)
        if name not in stored:
            continue
        try:
            key.verify(base64.b64decode(stored[name]), _message(folder.manifest))
        except InvalidSignature:
            raise BundleError(
                _("the signature by {key} does not match: the bundle was changed after it was signed").format(key=name),
                where=where, remedy=_("Use another copy, or have it signed anew by whom you trust."),
            ) from None  # fmt: skip
        return Signed(name, folder.manifest.digest)
    raise BundleError(
        _("none of its signatures is by a key that is trusted: {keys}").format(keys=", ".join(stored)), where=where,
        remedy=_("Trusted are: {keys}.").format(keys=", ".join(_name(_public(text, "key")) for text in keys)),
    )  # fmt: skip


def _message(manifest: Manifest) -> bytes:
    return _PURPOSE + strict_json.canonical(manifest.content())


def _opened(path: Path) -> Folder:
    try:
        return Folder.open(path, FORMAT)
    except IntegrityError as error:
        raise BundleError(error.problem, where=error.where, remedy=error.remedy) from error


def _whole(folder: Folder) -> None:
    try:
        folder.verify()
    except IntegrityError as error:
        raise BundleError(error.problem, where=error.where, remedy=error.remedy) from error


def _stored(path: Path) -> dict[str, str]:
    """By name of the key, signatures in base64, of 64 bytes each. Raises BundleError."""
    file = path / SIGNATURES
    if not os.path.lexists(file):
        return {}
    try:
        value = strict_json.parse(read_limited(file, _MOST_BYTES), str(file), limit=_MOST_BYTES, depth=4)
        if not isinstance(value, dict) or set(value) != {"version", "signatures"} or value["version"] != 1:
            raise IntegrityError(_("it is no version 1 of signatures"), where=str(file))
        found = value["signatures"]
        if not isinstance(found, dict) or len(found) > _MOST_SIGNATURES:
            raise IntegrityError(_("it is no version 1 of signatures"), where=str(file))
        for text in found.values():
            if not isinstance(text, str) or len(base64.b64decode(text, validate=True)) != 64:
                raise IntegrityError(_("a signature in it is malformed"), where=str(file))
    except (binascii.Error, ValueError):
        raise BundleError(_("a signature in it is malformed"), where=str(file)) from None
    except IntegrityError as error:
        raise BundleError(error.problem, where=error.where, remedy=error.remedy) from None
    return dict(found)


def _name(key: Ed25519PublicKey) -> str:
    """Sixteen digits of the SHA-256 of the key's 32 bytes."""
    return hashlib.sha256(key.public_bytes_raw()).hexdigest()[:16]


def _private(path: Path) -> Ed25519PrivateKey:
    serialization = _serialization()
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    content = read_limited(path, _MOST_BYTES)
    try:
        key = serialization.load_pem_private_key(content, None)
    except (ValueError, TypeError):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise ReinforgeError(
            _("this is no private Ed25519 key in PEM without a password"), where=str(path),
            remedy=_("Make one: {command}").format(command="reinforge keys FILE"),
        )  # fmt: skip
    return key


def _public(text: str, where: str) -> Ed25519PublicKey:
    serialization = _serialization()
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        key = serialization.load_pem_public_key(text.encode("latin-1"))
    except ValueError:
        key = None
    if not isinstance(key, Ed25519PublicKey):
        raise ReinforgeError(
            _("this is no public Ed25519 key in PEM"), where=where,
            remedy=_("Give the file that ends in .pub: {command}").format(command="reinforge keys FILE"),
        )  # fmt: skip
    return key


def _serialization() -> ModuleType:
    """cryptography's module of that name. Raises MissingExtra."""
    try:
        from cryptography.hazmat.primitives import serialization
    except ModuleNotFoundError:
        raise MissingExtra("cryptography", "sign") from None
    return serialization
