"""Where requests are taken from, free of torch and of any broker's library."""

from __future__ import annotations

import importlib.util
import re
from dataclasses import dataclass
from urllib.parse import parse_qsl, urlsplit

from reinforge.errors import MissingExtra, ReinforgeError
from reinforge.messages import _

# By scheme, the kind of broker; by kind, the package that speaks to it.
SCHEMES = {
    "redis": "redis", "rediss": "redis", "unix": "redis", "amqp": "rabbitmq", "amqps": "rabbitmq", "nats": "nats",
    "tls": "nats", "kafka": "kafka", "kafka+ssl": "kafka",
}  # fmt: skip
PACKAGES = {"redis": "redis", "rabbitmq": "aio_pika", "nats": "nats", "kafka": "confluent_kafka"}
# What a URL of Kafka may ask behind its question mark.
KAFKA_ASKED = ("mechanism", "ca", "cert", "key")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True)
class Address:
    """A broker's URL, and what the queue is called there.

    `taken`: seconds after which what a worker took, and no longer says that it works on, is given to another.
    `attempts`: how often a message is taken at most; one that ended so many workers is put aside. `kept`: seconds that
    a result is kept where the broker keeps results by their ids. `ahead`: messages that a worker takes at most before
    it has answered them.
    """

    url: str
    name: str = "reinforge"
    taken: float = 30.0
    attempts: int = 5
    kept: float = 86_400.0
    ahead: int = 256

    def __post_init__(self) -> None:
        scheme = self.url.partition("://")[0] if "://" in self.url else ""
        if scheme not in SCHEMES:
            known = ", ".join(f"{each}://" for each in SCHEMES)
            raise ReinforgeError(
                _("{url} is no queue's address").format(url=self.shown), where="--queue",
                remedy=_("It begins with one of: {known}.").format(known=known),
            )  # fmt: skip
        try:
            split = urlsplit(self.url)
            asked = {name for name, _value in parse_qsl(split.query)}
            _ports = [urlsplit(f"//{host}").port for host in self.hosts]
        except ValueError as error:
            # What stands where a port should may be part of a password.
            reason = error if "@" not in self.url else _("a host or a port is none")
            raise ReinforgeError(
                _("the queue's address can't be read: {reason}").format(reason=reason), where="--queue",
                remedy=_("In a name or a password, percent-encode what is not a letter or a digit."),
            ) from None  # fmt: skip
        if self.kind == "redis" and (strange := {n for n in asked if n != "db" and not n.startswith("ssl_")}):
            raise ReinforgeError(
                _("the queue's address may not say {names}").format(names=", ".join(sorted(strange))), where="--queue",
                remedy=_("What may stand behind the question mark is db, and what begins with ssl_."),
            )  # fmt: skip
        if self.kind == "kafka" and (
            not all(urlsplit(f"//{host}").hostname for host in self.hosts)
            or split.path not in ("", "/")
            or "@" in split.query + split.fragment
            or not asked <= set(KAFKA_ASKED)
        ):
            raise ReinforgeError(
                _("{url} is no queue's address").format(url=self.shown), where="--queue",
                remedy=_(
                    "Kafka's is kafka://[name:password@]host[:port][,host[:port]], with kafka+ssl:// for TLS; "
                    "what may stand behind its question mark is {known}."
                ).format(known=", ".join(KAFKA_ASKED)),
            )  # fmt: skip
        if not _NAME.fullmatch(self.name):
            raise ReinforgeError(
                _("{name} can't be a queue's name").format(name=repr(self.name[:100])), where="--queue-name",
                remedy=_("Use letters, digits, dots, hyphens and underscores, 100 at most."),
            )  # fmt: skip
        if self.kind == "nats" and "" in self.name.split("."):
            raise ReinforgeError(
                _("{name} can't be a queue's name").format(name=repr(self.name)), where="--queue-name",
                remedy=_("At NATS it may not end with a dot, nor have two in a row."),
            )  # fmt: skip

    @property
    def kind(self) -> str:
        """ "redis", "rabbitmq", "nats" or "kafka"."""
        return SCHEMES[self.url.partition("://")[0]]

    @property
    def hosts(self) -> list[str]:
        """Each "host:port" or "host"; only Kafka has several."""
        place = urlsplit(self.url).netloc.rpartition("@")[2]
        return place.split(",") if self.url.startswith("kafka") else [place]

    @property
    def shown(self) -> str:
        """The URL without what is secret in it."""
        try:
            split = urlsplit(self.url)
            places = [urlsplit(f"//{host}") for host in self.hosts]
            shown = ",".join(
                f"{place.hostname or ''}{'' if place.port is None else f':{place.port}'}" for place in places
            )
        except ValueError:
            return repr(self.url.partition("://")[0])
        # A password that was not quoted may go on in the path.
        return f"{split.scheme}://{shown}{'' if '@' in split.path else split.path}"

    def check_installed(self) -> None:
        """Raise MissingExtra without the package that speaks to this kind of broker."""
        package = PACKAGES[self.kind]
        if importlib.util.find_spec(package) is None:
            raise MissingExtra(package, "queue")
