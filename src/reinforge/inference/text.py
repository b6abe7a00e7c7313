"""Tokens as text while they are written: characters whole, and stop strings wherever tokens cut them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

UNFINISHED = "\N{REPLACEMENT CHARACTER}"


class TextWriter:
    """Takes one token after another and gives the text that is sure: characters whose bytes are all there, and nothing
    that may be the beginning of a stop string. As a request's `watch` it ends the completion at a stop string.

    `decode`: token ids to their text. The text never holds the stop string itself.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str], stop: Sequence[str] = ()) -> None:
        self.decode, self.stop = decode, tuple(text for text in stop if text)
        self.text = ""
        self.stopped = False
        self._ids: list[int] = []
        # Of the ids, those before `_given` are in the text; decoding begins a little before, since some decoders write
        # a first token without the space in front of it.
        self._from = self._given = self._taken = 0
        self._held = ""

    def __call__(self, token: int) -> bool:
        """One more token; True where a stop string is complete."""
        if not self.stopped:
            self._ids.append(token)
            before, now = self.decode(self._ids[self._from : self._given]), self.decode(self._ids[self._from :])
            if not now.endswith(UNFINISHED):
                self._write(now[len(before) :])
                self._from, self._given = self._given, len(self._ids)
        return self.stopped

    def take(self) -> str:
        """What was added to the text since the last time."""
        new, self._taken = self.text[self._taken :], len(self.text)
        return new

    def finish(self) -> str:
        """The whole text, with what was held back."""
        if not self.stopped:
            before, now = self.decode(self._ids[self._from : self._given]), self.decode(self._ids[self._from :])
            self._write(now[len(before) :])
            if not self.stopped:
                self.text += self._held
            self._held, self._from, self._given = "", self._given, len(self._ids)
        return self.text

    def _write(self, new: str) -> None:
        self._held += new
        places = [place for stop in self.stop if (place := self._held.find(stop)) >= 0]
        if places:
            self.text += self._held[: min(places)]
            self._held, self.stopped = "", True
            return
        sure = len(self._held) - max((_overlap(self._held, stop) for stop in self.stop), default=0)
        self.text += self._held[:sure]
        self._held = self._held[sure:]


def _overlap(text: str, stop: str) -> int:
    """How many of the text's last characters begin the stop string."""
    return next((n for n in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:n])), 0)
