"""A piece of memory that supervisor and replicas share: when each replica was last alive, in which state, and how many
connections it has."""

from __future__ import annotations

import mmap
import os
import struct
import tempfile
import time

ABSENT, STARTING, READY, STOPPING = range(4)
_BEAT, _COUNT, _SLOT = struct.Struct("<dq"), struct.Struct("<q"), struct.Struct("<dqq")
# A replica beats twice a second; one that missed four beats is not relied on.
BEAT_SECONDS, SILENT_SECONDS = 0.5, 2.0


class Board:
    """One slot per replica: the time of its last beat (the system's monotonic clock, seconds), its state, and its
    connections."""

    def __init__(self, replicas: int, descriptor: int | None = None) -> None:
        self.replicas = replicas
        if descriptor is None:
            with tempfile.TemporaryFile() as file:
                file.truncate(_SLOT.size * replicas)
                self.descriptor = os.dup(file.fileno())
        else:
            self.descriptor = descriptor
        self._memory = mmap.mmap(self.descriptor, _SLOT.size * replicas)

    def put(self, replica: int, state: int) -> None:
        """Note that this replica is alive now, in this state."""
        _BEAT.pack_into(self._memory, replica * _SLOT.size, time.monotonic(), state)

    def count(self, replica: int, connections: int) -> None:
        """Note how many connections this replica has."""
        _COUNT.pack_into(self._memory, replica * _SLOT.size + _BEAT.size, connections)

    def fewest(self, replica: int) -> float:
        """The fewest connections that another replica has which is ready; infinite where there is none."""
        found = float("inf")
        for other in range(self.replicas):
            at, state, connections = _SLOT.unpack_from(self._memory, other * _SLOT.size)
            if other != replica and state == READY and time.monotonic() - at < SILENT_SECONDS:
                found = min(found, connections)
        return found

    def get(self, replica: int) -> tuple[float, int]:
        """Seconds since its last beat, and its state."""
        at, state = _BEAT.unpack_from(self._memory, replica * _SLOT.size)
        return time.monotonic() - at, state

    @property
    def ready(self) -> bool:
        """Whether every replica is there and has beaten lately."""
        slots = [self.get(replica) for replica in range(self.replicas)]
        return all(state == READY and since < SILENT_SECONDS for since, state in slots)

    def close(self) -> None:
        """Give it back."""
        self._memory.close()
        os.close(self.descriptor)
