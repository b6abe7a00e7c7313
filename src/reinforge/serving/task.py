"""What a replica is told at its beginning, free of torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field

from reinforge.serving.limits import Limits
from reinforge.serving.queues.address import Address
from reinforge.serving.tokens import Token
from reinforge.serving.trials import Change, Trial, candidate
from reinforge.storage.strict_json import Json

# How long requests that are being answered may take after the server was told to stop.
GRACE_SECONDS = 10


@dataclass(frozen=True)
class Access:
    """Who may ask: the host it listens on and further names it goes by, tokens (None: anybody), the files of a TLS
    certificate and key, where the access log goes ("-": standard output), and whether policies may be watched in their
    environments, which runs these."""

    host: str = "127.0.0.1"
    names: tuple[str, ...] = ()
    tokens: tuple[Token, ...] | None = None
    certificate: str | None = None
    key: str | None = None
    log: str | None = None
    watch: bool = False


@dataclass(frozen=True)
class Task:
    """The folders of bundles by name, public keys (PEM) one of which must have signed each (none: unsigned ones are
    served), files with the user's components, threads of each computation, who may ask, what it may cost, the queue to
    take from as well, names that have a candidate beside them, and folders served before; which of how many replicas it
    is, and the descriptors of the socket and the board it inherits.
    """

    bundles: Mapping[str, str]
    keys: tuple[str, ...] = ()
    use: tuple[str, ...] = ()
    threads: int = 1
    replicas: int = 1
    access: Access = field(default_factory=Access)
    limits: Limits = field(default_factory=Limits)
    queue: Address | None = None
    trials: Mapping[str, Trial] = field(default_factory=dict)
    previous: Mapping[str, str] = field(default_factory=dict)
    replica: int = 0
    listener: int = -1
    board: int = -1

    def of(self, replica: int, listener: int, board: int) -> Task:
        """The same for one of the replicas."""
        return dataclasses.replace(self, replica=replica, listener=listener, board=board)

    def changed(self, change: Change) -> Task:
        """With other folders and trials; one that ends takes its candidate along."""
        ended = [name for name, trial in change.trials.items() if trial is None]
        bundles = {**self.bundles, **change.folders}
        trials = {**self.trials, **{name: trial for name, trial in change.trials.items() if trial is not None}}
        before = {name: path for name, path in self.bundles.items() if bundles[name] != path}
        for name in ended:
            bundles.pop(candidate(name), None)
            trials.pop(name, None)
        return dataclasses.replace(self, bundles=bundles, trials=trials, previous={**self.previous, **before})

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
            "trials": {name: trial.to_json() for name, trial in self.trials.items()},
            "previous": dict(self.previous),
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
            "trials": {name: Trial(**trial) for name, trial in value["trials"].items()},
        })  # fmt: skip
