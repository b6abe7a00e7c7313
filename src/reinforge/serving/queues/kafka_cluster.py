"""A Kafka cluster: how it is reached, and the topics that a queue needs there."""

from __future__ import annotations

import time
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from reinforge.errors import ReinforgeError
from reinforge.messages import _
from reinforge.serving.queues.address import Address

# Of a topic of requests that we create: so many workers share it at most.
PARTITIONS = 16
_SECONDS, _SLICE = 5.0, 0.2
# What waiting for a cluster that is asked for the first time does not mend.
_REFUSED = (KafkaError._ALL_BROKERS_DOWN, KafkaError._AUTHENTICATION, KafkaError._SSL)


def settings(address: Address) -> dict[str, Any]:
    """librdkafka's, for the brokers and who we are there."""
    split = urlsplit(address.url)
    asked = dict(parse_qsl(split.query))
    who, named, _hosts = split.netloc.rpartition("@")
    encrypted = "SSL" if split.scheme == "kafka+ssl" else "PLAINTEXT"
    said: dict[str, Any] = {
        "bootstrap.servers": ",".join(address.hosts), "client.id": "reinforge", "log_level": 0,
        "security.protocol": f"SASL_{encrypted}" if named else encrypted,
    }  # fmt: skip
    if named:
        name, _colon, password = who.partition(":")
        said["sasl.mechanism"] = asked.get("mechanism", "PLAIN")
        said["sasl.username"], said["sasl.password"] = unquote(name), unquote(password)
    for key, setting in (("ca", "ca"), ("cert", "certificate"), ("key", "key")):
        if key in asked:
            said[f"ssl.{setting}.location"] = asked[key]
    return said


def declare(address: Address, results: str, dead: str) -> None:
    """Create the topics that are missing. Raises KafkaException where the cluster is not there, ReinforgeError where
    they can't be created."""
    faults: list[KafkaError] = []
    said: dict[str, Any] = {**settings(address), "error_cb": faults.append}
    admin = AdminClient(said)
    end = time.monotonic() + _SECONDS
    while True:
        try:
            there = admin.list_topics(timeout=_SLICE).topics
            break
        except KafkaException as error:
            admin.poll(0)
            if time.monotonic() > end or any(fault.code() in _REFUSED for fault in faults):
                # The first says why.
                raise KafkaException(faults[0] if faults else error.args[0]) from None
    kept = {"cleanup.policy": "compact,delete", "retention.ms": str(round(address.kept * 1000))}
    topics = [NewTopic(address.name, PARTITIONS, -1), NewTopic(results, -1, -1, config=kept), NewTopic(dead, -1, -1)]
    if not (missing := [topic for topic in topics if topic.topic not in there]):
        return
    for name, created in admin.create_topics(missing, request_timeout=_SECONDS).items():
        try:
            created.result()
        except KafkaException as error:
            if error.args[0].code() == KafkaError.TOPIC_ALREADY_EXISTS:
                continue
            problem = _("the topic {name} is missing, and can't be created: {reason}")
            raise ReinforgeError(
                problem.format(name=name, reason=plain(error)), where=address.shown,
                remedy=_("Create it, or allow that to the account."),
            ) from None  # fmt: skip


def plain(error: Exception) -> Exception:
    """What a fault of Kafka's says, without its numbers."""
    inner = error.args[0] if isinstance(error, KafkaException) and error.args else None
    return RuntimeError(inner.str()) if isinstance(inner, KafkaError) else error
