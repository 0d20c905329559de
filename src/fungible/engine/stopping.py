"""Stop strings, found across token boundaries and never shown, not even in part."""

from collections.abc import Sequence


class StopMatcher:
    """Holds back text that may be the start of a stop string.

    The answer ends before the stop string that is complete first (the longest one where two
    end at the same character). What is shown does not depend on how the text was cut.

    Args:
        stops: Strings that end the answer; none of them empty.
    """

    def __init__(self, stops: Sequence[str] = ()) -> None:
        self._stops = tuple(stops)
        self._held = ""

    def push(self, text: str, *, may_stop: bool = True) -> tuple[str, bool]:
        """What may be shown now, and whether a stop string was found.

        Args:
            text: What comes next.
            may_stop: Whether a stop string that is complete in `text` ends the answer. One that
                does not is passed over; one that only begins in `text` may end it later.
        """
        if not self._stops:
            return text, False
        buffer = self._held + text
        found = self._complete(buffer) if may_stop else []
        if found:
            self._held = ""
            return buffer[: min(found)[1]], True
        keep = max(_overlap(buffer, stop) for stop in self._stops)
        cut = len(buffer) - keep
        self._held = buffer[cut:]
        return buffer[:cut], False

    def _complete(self, buffer: str) -> list[tuple[int, int]]:
        """(end, start) of the first of each stop string that ends after what was held back."""
        held = len(self._held)
        places = [(buffer.find(one, max(held - len(one) + 1, 0)), one) for one in self._stops]
        return [(at + len(one), at) for at, one in places if at >= 0]

    def flush(self) -> str:
        """What was held back, when the answer ends for another reason."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that is a start of `stop`, but not all of it."""
    for size in range(min(len(stop) - 1, len(text)), 0, -1):
        if text.endswith(stop[:size]):
            return size
    return 0
