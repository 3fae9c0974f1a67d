"""Stop texts in a stream: what may still become one is held back until it is clear."""

from __future__ import annotations

from collections.abc import Sequence


class StopFilter:
    """Fed with pieces of an answer, lets through what belongs to it. ``met`` once a stop text has ended it."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.met = False

    def feed(self, text: str) -> str:
        """The text that is clear now: no stop text is in it, and none can begin in it."""
        text = self._held + text
        places = [place for stop in self._stops if (place := text.find(stop)) >= 0]
        if places:
            self.met, self._held = True, ""
            return text[: min(places)]
        clear = len(text) - self._beginning(text)
        self._held = text[clear:]
        return text[:clear]

    def rest(self) -> str:
        """What was held back; for when the answer ends without a stop text."""
        rest, self._held = self._held, ""
        return rest

    def _beginning(self, text: str) -> int:
        """How many characters at the end of ``text`` could be the beginning of a stop text."""
        longest = 0
        for stop in self._stops:
            for length in range(min(len(stop) - 1, len(text)), longest, -1):
                if text.endswith(stop[:length]):
                    longest = length
                    break
        return longest
