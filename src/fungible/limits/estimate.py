"""What a request may use, before it is sent; and what an attempt did use, after it.

The estimate is meant to lie above what is used. Two numbers of `[limits]` decide how far:
`bytes_per_token` (1 is safe for every byte-level tokenizer, 3 suits most text) and
`assumed_output_tokens` for requests that name no maximum.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from fungible.config import LimitsSettings
from fungible.contract.events import AttemptEvent
from fungible.ledger.charging import charge
from fungible.ledger.costing import units_of
from fungible.ledger.prices import INPUT_LEAVES, LEAVES, OUTPUT_LEAVES, PriceBook
from fungible.limits.rules import Need, nanos_of, nanos_up

# An image or a file inside a request is not text: a flat count instead of its base64 bytes.
DATA_URL_TOKENS = 2048
_OVERHEAD_TOKENS = 16
# A prompt may come as token ids: each is one token, and no shorter than this many bytes.
_NUMBER_BYTES = 4
_MAXIMA = ("max_completion_tokens", "max_tokens", "max_output_tokens")
# Counting tokens uses none.
_FREE = frozenset({"messages/count_tokens", "tokenize"})
_MILLION = 1_000_000
_SAME_PRICE_NS = 10 * 10**9
# What a request asks without saying it to the model.
_SILENT = frozenset({"model", "metadata", "user", "stream", "stream_options", *_MAXIMA})


class Rate(msgspec.Struct, frozen=True):
    """Units (10^-18 of the currency) per million tokens in and out, of one backend or more."""

    into: int
    out: int


class Estimator:
    """Estimates requests and prices attempts.

    Args:
        settings: `[limits]`.
        book: The price sheet.
    """

    def __init__(self, settings: LimitsSettings, book: PriceBook) -> None:
        self._settings = settings
        self._book = book
        self._declared = {
            name: nanos_of(amount) * 10**9 for name, amount in settings.estimates.items()
        }
        self._rates: dict[tuple[str, ...], tuple[int, Rate | None]] = {}

    def before(
        self, body: Mapping[str, Any], endpoint: str, backends: Sequence[str], now_ns: int
    ) -> Need:
        """An upper estimate of a request, at the dearest of the backends that may serve it.

        Args:
            body: The decoded request.
            endpoint: Such as `chat/completions`; embeddings have no answer tokens.
            backends: Who may serve it.
            now_ns: The moment that decides which prices hold.
        """
        if endpoint in _FREE:
            return Need()
        into = _OVERHEAD_TOKENS + self._prompt_tokens(body)
        out = 0 if endpoint == "embeddings" else self._answer_tokens(body)
        rate = self._dearest(tuple(backends), now_ns)
        nanos = None
        if rate is not None:
            nanos = nanos_up(-(-(into * rate.into + out * rate.out) // _MILLION))
        return Need(into + out, nanos)

    def after(self, event: AttemptEvent) -> Need | None:
        """What an attempt used; `None` where nobody knows."""
        usage = {leaf: getattr(event, leaf) for leaf in LEAVES}
        known = [tokens for tokens in usage.values() if tokens is not None]
        if len(known) < len(LEAVES):
            return None
        facts = {name: getattr(event, name) for name in ("backend", "started_ns", "region")}
        found = charge(self._book, facts | usage)
        units = None if isinstance(found, str) else found.units
        if units is None and event.backend in self._declared:
            units = -(-sum(known) * self._declared[event.backend] // _MILLION)
        return Need(sum(known), None if units is None else nanos_up(units))

    def _prompt_tokens(self, body: Mapping[str, Any]) -> int:
        size, files = 0, 0
        for name, value in body.items():
            if name not in _SILENT:
                more, found = _text_size(value)
                size, files = size + more, files + found
        return -(-size // self._settings.bytes_per_token) + files * DATA_URL_TOKENS

    def _answer_tokens(self, body: Mapping[str, Any]) -> int:
        given = [body[name] for name in _MAXIMA if isinstance(body.get(name), int)]
        most = max(given, default=self._settings.assumed_output_tokens)
        answers = body.get("n")
        return max(0, most) * max(1, answers if isinstance(answers, int) else 1)

    def _dearest(self, backends: tuple[str, ...], now_ns: int) -> Rate | None:
        """The highest price of any leaf of any backend; `None` if one has no price."""
        until, rate = self._rates.get(backends, (0, None))
        if now_ns >= until:
            rates = [self._rate(name, now_ns) for name in backends]
            priced = [rate for rate in rates if rate is not None]
            rate = None
            if priced and len(priced) == len(rates):
                rate = Rate(max(r.into for r in priced), max(r.out for r in priced))
            if len(self._rates) >= 1000:
                self._rates.clear()
            self._rates[backends] = (now_ns + _SAME_PRICE_NS, rate)
        return rate

    def _rate(self, backend: str, now_ns: int) -> Rate | None:
        prices = self._book.tokens(backend, now_ns)
        into = [units_of(prices[leaf].price) for leaf in INPUT_LEAVES if leaf in prices]
        out = [units_of(prices[leaf].price) for leaf in OUTPUT_LEAVES if leaf in prices]
        if into:
            # A sheet may price what goes in alone: embeddings have nothing else.
            return Rate(max(into), max(out, default=0))
        declared = self._declared.get(backend)
        return None if declared is None else Rate(declared, declared)


def _text_size(value: object) -> tuple[int, int]:
    """UTF-8 bytes of all text inside a JSON value, and how many files it carries."""
    size, files = 0, 0
    rest = [value]
    while rest:
        part = rest.pop()
        if isinstance(part, str):
            if part.startswith("data:"):
                files += 1
            else:
                size += len(part) if part.isascii() else len(part.encode("utf-8", "replace"))
        elif isinstance(part, dict):
            rest += part.keys()
            rest += part.values()
        elif isinstance(part, list):
            rest += part
        elif part is not None:
            size += _NUMBER_BYTES
    return size, files
