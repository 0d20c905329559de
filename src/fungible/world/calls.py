"""The truth: every call of the month, what it used, for whom, and what is wrong with its records.

Nothing here knows how the product prices or joins; `truth.py` says what each call costs.
"""

import random
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Literal

import msgspec

SECOND_NS = 1_000_000_000
HOUR_NS = 3600 * SECOND_NS
DAY_NS = 24 * HOUR_NS
MONTH = "2026-10"
DAYS = 31
START_NS = int(datetime(2026, 10, 1, tzinfo=UTC).timestamp()) * SECOND_NS
END_NS = START_NS + DAYS * DAY_NS
# The price of the OpenAI-like model falls here, in the middle of a day.
CUT_NS = START_NS + 14 * DAY_NS + 12 * HOUR_NS
# This host's clock is behind; what it records is what the truth goes by.
SKEW_NS = 90 * SECOND_NS

Fault = Literal[
    "aborted-stream",
    "duplicate-span",
    "duplicate-response",
    "missing-usage",
    "unlogged",
    "untraced",
]


class Service(msgspec.Struct, frozen=True, kw_only=True):
    """A place that answers: what bills it, how calls name it, and what it runs on."""

    name: str
    issuer: str
    model: str
    server: str
    accelerator: str = ""
    share: int = 1


SERVICES = (
    Service(
        name="hosted-a", issuer="openai", model="aster-mini", server="api.aster.example", share=5
    ),
    Service(
        name="hosted-b", issuer="anthropic", model="birch-2", server="api.birch.example", share=3
    ),
    Service(
        name="fleet",
        issuer="own-fleet",
        model="cedar-7b",
        server="10.20.0.11:8000",
        accelerator="nvidia-h100",
        share=2,
    ),
)
BY_NAME = {service.name: service for service in SERVICES}


class Leaves(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens in mutually exclusive classes."""

    in_uncached: int
    in_cache_read: int = 0
    in_cache_write: int = 0
    out_visible: int
    out_reasoning: int = 0


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """One upstream call as it really was.

    `key` may be shared: the customer is known from the trace alone. Times are the tracer's, whose
    clock is `skew_ns` behind the log's.
    """

    number: int
    service: str
    customer: str
    feature: str
    owner: str
    key: str
    tier: str
    response_id: str
    trace_id: str
    span_id: str
    started_ns: int
    first_token_ns: int
    ended_ns: int
    leaves: Leaves
    streamed: bool
    skew_ns: int = 0
    faults: tuple[Fault, ...] = ()

    @property
    def known_usage(self) -> bool:
        """Whether any record states what it used."""
        return not {"aborted-stream", "missing-usage"} & set(self.faults)


# (customer, owner, key, weight); the first two share a key.
CUSTOMERS = (
    ("acorn", "team-forest", "key-shared", 6),
    ("bramble", "team-forest", "key-shared", 4),
    ("clover", "team-meadow", "key-clover", 3),
    ("", "", "key-orphan", 1),
)
FEATURES = (("search", 5), ("summaries", 3), ("", 1))


def calls(count: int, seed: int) -> list[Call]:
    """The month's calls, oldest first; the same for the same arguments."""
    chance = random.Random(seed)  # noqa: S311  # a world, not a secret
    made = [_call(number, chance) for number in range(count)]
    return sorted(_apart(made), key=lambda call: (call.started_ns, call.number))


def _call(number: int, chance: random.Random) -> Call:
    service = chance.choices(SERVICES, [each.share for each in SERVICES])[0]
    customer, owner, key, _ = chance.choices(CUSTOMERS, [each[3] for each in CUSTOMERS])[0]
    feature = chance.choices([name for name, _ in FEATURES], [each for _, each in FEATURES])[0]
    started = START_NS + chance.randrange(DAYS * 86_400_000) * 1_000_000
    took = chance.randrange(200, 8_000) * 1_000_000
    faults = _faults(service, chance)
    skewed = chance.random() < 0.1 and "untraced" not in faults
    return Call(
        number=number,
        service=service.name,
        customer=customer,
        feature=feature,
        owner=owner,
        key=key,
        tier="flex" if service.name == "hosted-a" and chance.random() < 0.2 else "",
        response_id=f"{_PREFIX[service.name]}{chance.getrandbits(96):024x}",
        trace_id=f"{chance.getrandbits(128) or 1:032x}",
        span_id=f"{chance.getrandbits(64) or 1:016x}",
        started_ns=started,
        first_token_ns=started + took // 4,
        ended_ns=started + took,
        leaves=_leaves(service, chance),
        streamed=chance.random() < 0.6,
        skew_ns=SKEW_NS if skewed else 0,
        faults=faults,
    )


_PREFIX = {"hosted-a": "chatcmpl-", "hosted-b": "msg_", "fleet": "chatcmpl-own-"}


def _leaves(service: Service, chance: random.Random) -> Leaves:
    prompt, cached = chance.randrange(20, 4_000), 0
    if service.name != "fleet" and chance.random() < 0.4:
        cached = chance.randrange(prompt)
    written = chance.randrange(500) if service.name == "hosted-b" and chance.random() < 0.2 else 0
    reasoning = chance.randrange(800) if service.name == "hosted-a" and chance.random() < 0.3 else 0
    return Leaves(
        in_uncached=prompt - cached,
        in_cache_read=cached,
        in_cache_write=written,
        out_visible=chance.randrange(1, 900),
        out_reasoning=reasoning,
    )


def _faults(service: Service, chance: random.Random) -> tuple[Fault, ...]:
    draw = chance.random()
    if service.name == "fleet":
        # Its time is paid for whatever is known of its tokens.
        return ("duplicate-span",) if draw < 0.05 else ()
    table: list[tuple[float, tuple[Fault, ...]]] = [
        (0.02, ("aborted-stream",)),
        (0.04, ("missing-usage",)),
        (0.09, ("duplicate-span",)),
        (0.12, ("duplicate-response",)),
        (0.15, ("unlogged",)),
        (0.17, ("untraced",)),
    ]
    return next((faults for below, faults in table if draw < below), ())


def _apart(made: list[Call]) -> Iterator[Call]:
    """Calls of the fleet never overlap, so that each second of it is somebody's or nobody's."""
    free_at = 0
    for call in sorted(made, key=lambda call: (call.started_ns, call.number)):
        if call.service != "fleet":
            yield call
        elif call.started_ns >= free_at and call.ended_ns < END_NS:
            free_at = call.ended_ns
            yield call
