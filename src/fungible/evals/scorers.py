"""How one answer is scored: each scorer is data in the suite, checked when it is loaded.

Tolerant where wording is free (case, quotes, a closing full stop, "The capital of France is
Paris."), strict where the answer is the point.
"""

import re

import msgspec

from fungible.errors import ConfigError

_NUMBER = re.compile(r"(?<![\w.])[-−]?\d+(?:,\d{3})*(?:\.\d+)?")
_EDGE = re.compile(r"^[\W_]+|[\W_]+$")


class Exact(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="exact"):
    """The whole answer is `answer`, but for case, outer punctuation and runs of spaces."""

    answer: str

    def score(self, text: str) -> float:
        """1 if right, else 0."""
        return float(_plain(text) == _plain(self.answer))


class Contains(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="contains"):
    """One of `answers` occurs as a whole word or phrase, in any case."""

    answers: list[str]

    def score(self, text: str) -> float:
        """1 if right, else 0."""
        return float(any(_position(answer, text) is not None for answer in self.answers))


class OneOf(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="one_of"):
    """Of `choices`, the one named first is `answer`; naming none is wrong."""

    choices: list[str]
    answer: str

    def score(self, text: str) -> float:
        """1 if right, else 0. Where two choices start together, the longer one counts."""
        named = [
            (position, -len(choice), choice)
            for choice in self.choices
            if (position := _position(choice, text)) is not None
        ]
        return float(bool(named) and min(named)[2].casefold() == self.answer.casefold())


class Number(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="number"):
    """The last number in the answer is `value`, give or take `tolerance`."""

    value: float
    tolerance: float = 0.0

    def score(self, text: str) -> float:
        """1 if right, else 0."""
        found = _NUMBER.findall(text)
        if not found:
            return 0.0
        last = float(found[-1].replace(",", "").replace("−", "-"))
        return float(abs(last - self.value) <= self.tolerance)


class Regex(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="regex"):
    """The pattern is found somewhere in the answer (Python syntax, case counts)."""

    pattern: str

    def score(self, text: str) -> float:
        """1 if right, else 0."""
        return float(re.search(self.pattern, text) is not None)


Scorer = Exact | Contains | OneOf | Number | Regex


def check_scorer(scorer: Scorer, where: str) -> None:
    """Raise `ConfigError`, naming `where`, for a scorer that can never give 1."""
    if isinstance(scorer, Exact) and not _plain(scorer.answer):
        raise ConfigError(f"{where}.answer is empty")
    if isinstance(scorer, Contains) and not (scorer.answers and all(scorer.answers)):
        raise ConfigError(f"{where}.answers needs at least one word, none of them empty")
    if isinstance(scorer, OneOf) and scorer.answer not in scorer.choices:
        raise ConfigError(f"{where}.answer {scorer.answer!r} is not one of its choices")
    if isinstance(scorer, Number) and scorer.tolerance < 0:
        raise ConfigError(f"{where}.tolerance must not be negative")
    if isinstance(scorer, Regex):
        try:
            re.compile(scorer.pattern)
        except re.error as error:
            raise ConfigError(f"{where}.pattern is not a regular expression: {error}") from error


def _plain(text: str) -> str:
    return " ".join(_EDGE.sub("", text.casefold()).split())


def _position(phrase: str, text: str) -> int | None:
    """Where `phrase` first stands as whole words."""
    found = re.search(rf"(?<!\w){re.escape(phrase.casefold())}(?!\w)", text.casefold())
    return found.start() if found else None
