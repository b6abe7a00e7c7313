"""What a replica is told at its beginning, free of torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field

from reinforge.serving.limits import Limits
from reinforge.serving.queues.address import Address
from reinforge.serving.tokens import Token
from reinforge.storage.strict_json import Json

# How long requests that are being answered may take after the server was told to stop.
GRACE_SECONDS = 10


@dataclass(frozen=True)
class Access:
    """Who may ask: the host it listens on and further names it goes by, tokens (None: anybody), the files of a TLS
    certificate and key, and where the access log goes ("-": standard output)."""

    host: str = "127.0.0.1"
    names: tuple[str, ...] = ()
    tokens: tuple[Token, ...] | None = None
    certificate: str | None = None
    key: str | None = None
    log: str | None = None


@dataclass(frozen=True)
class Task:
    """The folders of bundles by name, public keys (PEM) one of which must have signed each (none: unsigned ones are
    served), files with the user's components, threads of each computation, who may ask, what it may cost, and the queue
    to take from as well; which of how many replicas it is, and the descriptors of the socket and the board it inherits.
    """

    bundles: Mapping[str, str]
    keys: tuple[str, ...] = ()
    use: tuple[str, ...] = ()
    threads: int = 1
    replicas: int = 1
    access: Access = field(default_factory=Access)
    limits: Limits = field(default_factory=Limits)
    queue: Address | None = None
    replica: int = 0
    listener: int = -1
    board: int = -1

    def of(self, replica: int, listener: int, board: int, bundles: Mapping[str, str]) -> Task:
        """The same for one of the replicas, with the bundles as they are now."""
        return dataclasses.replace(self, replica=replica, listener=listener, board=board, bundles=dict(bundles))

    def to_json(self) -> Json:
        """As one line can say it."""
        tokens = self.access.tokens
        access = {
            **vars(self.access),
            "tokens": None if tokens is None else [t.model_dump(mode="json") for t in tokens],
        }
        return {
            **vars(self),
            "bundles": dict(self.bundles),
            "access": access,
            "limits": vars(self.limits),
            "queue": self.queue and vars(self.queue),
        }

    @classmethod
    def from_json(cls, value: Json) -> Task:
        """What `to_json` gave."""
        access = dict(value["access"])
        tokens = access.pop("tokens")
        access["names"] = tuple(access["names"])
        known = None if tokens is None else tuple(Token.model_validate(token) for token in tokens)
        return cls(**{
            **value, "use": tuple(value["use"]), "keys": tuple(value["keys"]), "access": Access(**access, tokens=known),
            "limits": Limits(**value["limits"]), "queue": value["queue"] and Address(**value["queue"]),
        })  # fmt: skip
