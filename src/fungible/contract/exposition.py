"""Metrics in Prometheus' text format (version 0.0.4), as every process of ours shows them."""

from bisect import bisect_left
from collections.abc import Iterator, Sequence

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metric:
    """One number that goes up, or up and down.

    Args:
        kind: `counter` or `gauge`.
        labels: Labels of this sample beside those that all samples have.
    """

    def __init__(self, name: str, kind: str, help_text: str, labels: str = "") -> None:
        self.name = name
        self.kind = kind
        self.help = help_text
        self.value = 0.0
        self._labels = labels

    def samples(self, common: str) -> Iterator[str]:
        """Lines of the text format."""
        labels = f"{common},{self._labels}" if self._labels else common
        yield f"{self.name}{{{labels}}} {number(self.value)}"


class Histogram:
    """A cumulative histogram with fixed upper bounds."""

    kind = "histogram"

    def __init__(self, name: str, help_text: str, bounds: Sequence[float]) -> None:
        self.name = name
        self.help = help_text
        self.sum = 0.0
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(self._bounds) + 1)

    def observe(self, value: float) -> None:
        """Count one value."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self.sum += value

    def samples(self, common: str) -> Iterator[str]:
        """Lines of the text format."""
        total = 0
        for bound, count in zip((*self._bounds, None), list(self._counts), strict=True):
            total += count
            edge = "+Inf" if bound is None else number(bound)
            yield f'{self.name}_bucket{{{common},le="{edge}"}} {total}'
        yield f"{self.name}_sum{{{common}}} {number(self.sum)}"
        yield f"{self.name}_count{{{common}}} {total}"


def labelled(**labels: object) -> str:
    """Labels as the text format has them, values escaped."""
    return ",".join(f'{name}="{_escaped(str(value))}"' for name, value in labels.items())


def number(value: float) -> str:
    """Whole numbers without a point."""
    return str(int(value)) if value == int(value) else repr(value)


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
