"""Bearer tokens: a file of their hashes, what each may do, and how often."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from reinforge.errors import IntegrityError, ReinforgeError
from reinforge.messages import _
from reinforge.storage import strict_json
from reinforge.storage.files import read_limited, replacing, storage_errors

Scope = Literal["predict", "metrics", "admin"]
_NAME = re.compile(r"^[A-Za-z0-9._-]{1,64}$", re.ASCII)
_BYTES = 32
_MOST = 4 << 20


class Token(BaseModel):
    """One token's line: its name, the SHA-256 of it (it has 256 random bits, so that nothing slower is needed), what it
    opens, and how many requests a second it may make (null: any number)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, Field(pattern=_NAME.pattern)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    scopes: tuple[Scope, ...] = ("predict",)
    rate: Annotated[float, Field(gt=0)] | None = None


_TOKENS = TypeAdapter(list[Token])


@dataclass
class _Bucket:
    """A token bucket: as many requests at once as come in a second, refilled steadily."""

    left: float
    at: float


class Tokens:
    """The tokens of a file, checked in constant time. `share`: the part of a rate that falls to this replica."""

    def __init__(self, tokens: Sequence[Token], share: float = 1.0) -> None:
        self._tokens = [(token, bytes.fromhex(token.sha256)) for token in tokens]
        self._share = share
        self._buckets: dict[str, _Bucket] = {}

    def known(self, header: str | None) -> Token | None:
        """Whose token an Authorization header brings; None for nobody's."""
        kind, _space, text = (header or "").partition(" ")
        given = hashlib.sha256(text.strip().encode("utf-8", "surrogateescape")).digest()
        # Every hash is compared, so that time tells nothing of the others.
        found = [token for token, known in self._tokens if hmac.compare_digest(known, given)]
        return found[0] if found and kind.lower() == "bearer" else None

    def wait(self, token: Token) -> float:
        """Take one request from the token's rate: 0, or seconds until it may come again."""
        if token.rate is None:
            return 0.0
        rate, now = token.rate * self._share, time.monotonic()
        most = max(rate, 1.0)
        bucket = self._buckets.setdefault(token.name, _Bucket(most, now))
        bucket.left, bucket.at = min(most, bucket.left + (now - bucket.at) * rate), now
        if bucket.left < 1:
            return (1 - bucket.left) / rate
        bucket.left -= 1
        return 0.0


def read_tokens(path: Path) -> list[Token]:
    """The tokens of a file. Raises ReinforgeError that says what of it is malformed, or StorageError."""
    with storage_errors(path):
        content = read_limited(path, _MOST)
    try:
        tokens = _TOKENS.validate_python(strict_json.parse(content, str(path)))
    except (IntegrityError, ValidationError) as error:
        reason = error.problem if isinstance(error, IntegrityError) else _reason(error)
        problem = _("this is no file of tokens: {reason}").format(reason=reason)
        raise ReinforgeError(problem, where=str(path), remedy=_("Make one with: reinforge token FILE NAME")) from None
    names = [token.name for token in tokens]
    if len(set(names)) != len(names):
        raise ReinforgeError(_("two tokens have one name"), where=str(path))
    return tokens


def _reason(error: ValidationError) -> str:
    first = error.errors()[0]
    place = ".".join(map(str, first["loc"]))
    return f"{place}: {first['msg']}" if place else first["msg"]


def add_token(path: Path, name: str, scopes: Sequence[Scope], rate: float | None = None) -> str:
    """A new token under this name, in place of one that had it; its hash is written, itself returned and kept nowhere.

    Raises ReinforgeError for a name that is none.
    """
    if not _NAME.fullmatch(name):
        raise ReinforgeError(
            _("{name!r} is no name of a token").format(name=name[:80]),
            remedy=_("Use 1 to 64 letters, digits, dots, dashes and underscores."),
        )
    secret = secrets.token_urlsafe(_BYTES)
    digest = hashlib.sha256(secret.encode()).hexdigest()
    before = read_tokens(path) if path.exists() else []
    kept = [token for token in before if token.name != name]
    added = Token(name=name, sha256=digest, scopes=tuple(dict.fromkeys(scopes)), rate=rate)
    value = [token.model_dump(mode="json") for token in (*kept, added)]
    with replacing(path) as file:
        file.write(strict_json.pretty(value).encode())
    path.chmod(0o600)
    return secret
