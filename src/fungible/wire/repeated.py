"""Events of a stream that differ in nothing but their text, which is nearly all of them.

Once one of them was parsed, the next that begins and ends with the same bytes holds the same but
for what lies between, if that is a JSON string without escapes. So it need not be parsed again.
"""

import re
from collections.abc import Callable

_PROBE = "a text that no model says"
# How often in a row it is learned in vain: some servers put something new into every event.
_LESSONS = 4
# An example that served for so many texts was worth it.
_WORTH = 8


def text_field(name: str) -> re.Pattern[bytes]:
    """Finds a field of that name whose value is a string without escapes."""
    return re.compile(rb'"%b": ?"([^"\\]+)"' % name.encode())


class Example:
    """An event that others resemble.

    Args:
        sought: Finds the text; see `text_field`.
        only_text: Parses an event; its text, or `None` where anything else in it matters.

    Attributes:
        before, after: What resembling events begin and end with.
        start, end: Where the text begins, from the left, and ends, from the right.
    """

    __slots__ = ("_lessons", "_only_text", "_served", "_sought", "after", "before", "end", "start")

    def __init__(self, sought: re.Pattern[bytes], only_text: Callable[[bytes], str | None]) -> None:
        self._sought = sought
        self._only_text = only_text
        self._lessons = _LESSONS
        self._served = 0
        self.before = self.after = b"\0"  # no event has it
        self.start, self.end = 1, -1

    def learn(self, event: bytes, texts: int) -> None:
        """Take another example, where it is one; so many `texts` came so far."""
        if not self._lessons or (event.startswith(self.before) and event.endswith(self.after)):
            return
        found = self._sought.search(event)
        if found is None:
            return
        self._lessons = _LESSONS if texts - self._served > _WORTH else self._lessons - 1
        self._served = texts
        before, after = event[: found.start(1)], event[found.end(1) :]
        # Proof that it is this text that is read, and not another field of the same name.
        if self._only_text(before + _PROBE.encode() + after) == _PROBE:
            self.before, self.after = before, after
            self.start, self.end = len(before), -len(after)
