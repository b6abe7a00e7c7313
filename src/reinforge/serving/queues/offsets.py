"""What of a partition of Kafka's is finished, though it keeps but one offset. Free of torch and of Kafka's library."""

from __future__ import annotations

from dataclasses import dataclass, field

_OURS = "reinforge"


@dataclass(eq=False)
class Partition:
    """What is known of a partition that is this worker's.

    `open`: by its offset, how often what is not finished was taken; all else before `next` is finished. `read`: the
    last offset that came. `ours`: until another has it.
    """

    number: int
    next: int = 0
    open: dict[int, int] = field(default_factory=dict)
    read: int = -1
    ours: bool = True

    @classmethod
    def noted(cls, number: int, offset: int, note: str | None) -> Partition:
        """As `offset` and `note` say, below 0 for none. Where somebody else committed, all before it is finished."""
        first = max(offset, 0)
        try:
            whose, ahead, *rest = (note or "").split()
            if whose != _OURS:
                raise ValueError
            pairs = (each.split(":") for each in rest)
            following, opened = first + int(ahead), {first + int(at): int(taken) for at, taken in pairs}
            if not all(first <= at < following and taken >= 0 for at, taken in opened.items()) or following < first:
                raise ValueError
            return cls(number, following, opened, first - 1)
        except ValueError:
            return cls(number, first, read=first - 1)

    @property
    def offset(self) -> int:
        """Before which all is finished."""
        return min(self.open, default=self.next)

    @property
    def note(self) -> str:
        """`next`, and each that is open with how often it was taken, counted from the offset: "reinforge 4 0:1 2:3"."""
        first = self.offset
        opened = (f"{at - first}:{taken}" for at, taken in sorted(self.open.items()))
        return " ".join((_OURS, str(self.next - first), *opened))

    def take(self, offset: int) -> bool:
        """Whether the message there, which came, is to be worked on, and not finished."""
        if offset > self.read + 1 and self.open:
            # They come in order: what was passed over is there no more, by the topic's retention or compaction.
            self.open = {at: taken for at, taken in self.open.items() if not self.read < at < offset}
        self.read = offset
        if offset >= self.next:
            self.next = offset + 1
            self.open[offset] = 0
        if offset not in self.open:
            return False
        self.open[offset] += 1
        return True

    def leave(self) -> None:
        """To another, as if nothing that came and is open had been taken: it was no fault of its own."""
        self.open = {at: taken - (at <= self.read) for at, taken in self.open.items()}
