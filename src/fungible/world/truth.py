"""What the month cost, from the calls and the contracts alone.

The arithmetic is spelled out here once more, on purpose without the product's: two different
ways to the same digits.
"""

from collections import defaultdict
from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta
from decimal import ROUND_HALF_EVEN, Decimal

import msgspec

from fungible.world.calls import BY_NAME, CUT_NS, DAYS, END_NS, SECOND_NS, START_NS, Call

SCALE = Decimal(1).scaleb(-18)
MILLION = Decimal(1_000_000)
FLEET_HOUR = Decimal("3.6")  # dollars for one accelerator; a millisecond is a millionth
FLEET_SIZE = 1


class Rate(msgspec.Struct, frozen=True, kw_only=True):
    """One price per million tokens; holds in `[from_ns, to_ns)`, 0 is open."""

    service: str
    sku: str
    leaf: str
    tier: str
    price: Decimal
    currency: str
    from_ns: int = 0
    to_ns: int = 0


def _rates() -> tuple[Rate, ...]:
    found = []
    for tier, part in (("", Decimal(1)), ("flex", Decimal("0.5"))):
        for leaf, before, after in (
            ("in_uncached", "0.40", "0.30"),
            ("in_cache_read", "0.10", "0.075"),
            ("out_visible", "1.60", "1.20"),
            ("out_reasoning", "1.60", "1.20"),
        ):
            sku = f"aster-mini{'-flex' if tier else ''}/{leaf}"
            common = {"service": "hosted-a", "sku": sku, "leaf": leaf, "tier": tier}
            for price, from_ns, to_ns in ((before, 0, CUT_NS), (after, CUT_NS, 0)):
                found.append(
                    Rate(
                        **common,
                        price=Decimal(price) * part,
                        currency="USD",
                        from_ns=from_ns,
                        to_ns=to_ns,
                    )
                )
    for leaf, price in (
        ("in_uncached", "2.50"),
        ("in_cache_read", "0.25"),
        ("in_cache_write", "3.125"),
        ("out_visible", "12.50"),
        ("out_reasoning", "12.50"),
    ):
        found.append(
            Rate(
                service="hosted-b",
                sku=f"birch-2/{leaf}",
                leaf=leaf,
                tier="",
                price=Decimal(price),
                currency="EUR",
            )
        )
    return tuple(found)


RATES = _rates()


def euro_in_dollars(day: date) -> Decimal:
    """The rate of a banking day; weekends have none, so Friday's holds."""
    while day.weekday() >= 5:
        day -= timedelta(days=1)
    return Decimal("1.0500") + Decimal(day.toordinal() % 17) / Decimal(1000)


def banking_days() -> list[date]:
    """Days with a rate, from just before the month."""
    first = day_of(START_NS) - timedelta(days=7)
    span = (first + timedelta(days=at) for at in range(DAYS + 7))
    return [day for day in span if day.weekday() < 5]


def day_of(at_ns: int) -> date:
    """The UTC day of a moment."""
    return datetime.fromtimestamp(at_ns // SECOND_NS, tz=UTC).date()


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """What one leaf of a call costs, in the contract's currency and in dollars."""

    sku: str
    amount: Decimal
    currency: str
    dollars: Decimal


def parts_of(call: Call) -> list[Part]:
    """What the contract asks for a call of a hosted service, whether or not we know its usage."""
    tokens = msgspec.structs.asdict(call.leaves)
    found = []
    for rate in RATES:
        holds = rate.from_ns <= call.started_ns and (not rate.to_ns or call.started_ns < rate.to_ns)
        if (rate.service, rate.tier) != (call.service, call.tier) or not holds:
            continue
        if count := tokens[rate.leaf]:
            amount = rate.price * count / MILLION
            found.append(
                Part(
                    sku=rate.sku,
                    amount=amount,
                    currency=rate.currency,
                    dollars=_dollars(amount, rate.currency, day_of(call.started_ns)),
                )
            )
    return found


def _dollars(amount: Decimal, currency: str, day: date) -> Decimal:
    if currency == "USD":
        return amount
    return (amount * euro_in_dollars(day)).quantize(SCALE, rounding=ROUND_HALF_EVEN)


def cost_of(call: Call) -> Decimal | None:
    """Dollars of one call as our records can know it; `None`: its usage is nowhere recorded."""
    if call.service == "fleet":
        seconds = Decimal(call.ended_ns - call.started_ns) / SECOND_NS
        return FLEET_HOUR * FLEET_SIZE * seconds / 3600
    if not call.known_usage:
        return None
    return sum((part.dollars for part in parts_of(call)), Decimal(0))


class Sum(msgspec.Struct, kw_only=True):
    """A row of the truth: how many attempts, how many without a price, and dollars."""

    attempts: int = 0
    unpriced: int = 0
    dollars: Decimal = Decimal(0)


class Truth(msgspec.Struct, frozen=True, kw_only=True):
    """What the marts must say.

    `by_*` hold dollars of attempts; `idle` is the fleet's time that nobody used. `billed` is
    what the invoices ask, per issuer, in their own currency, without credits and taxes.
    """

    simulated: bool = True
    attempts: int
    unpriced: int
    dollars: Decimal
    idle: Decimal
    by_customer: dict[str, Sum]
    by_feature: dict[str, Sum]
    by_owner: dict[str, Sum]
    by_backend: dict[str, Sum]
    by_day: dict[str, Sum]
    billed: dict[str, Decimal]
    unknown: dict[str, Decimal]


def truth_of(made: Iterable[Call]) -> Truth:
    """Every sum over the calls. An untraced call has nobody: its customer is not recorded."""
    sums: dict[str, defaultdict[str, Sum]] = {
        name: defaultdict(Sum) for name in ("customer", "feature", "owner", "backend", "day")
    }
    whole = Sum()
    billed: defaultdict[str, Decimal] = defaultdict(Decimal)
    unknown: defaultdict[str, Decimal] = defaultdict(Decimal)
    fleet_ns = 0
    for call in made:
        cost = cost_of(call)
        for name, value in _dimensions(call).items():
            _add(sums[name][value], cost)
        _add(whole, cost)
        if call.service == "fleet":
            fleet_ns += call.ended_ns - call.started_ns
        for part in parts_of(call):
            billed[BY_NAME[call.service].issuer] += part.amount
            if cost is None:
                unknown[BY_NAME[call.service].issuer] += part.amount
    leased = FLEET_HOUR * FLEET_SIZE * Decimal(END_NS - START_NS) / SECOND_NS / 3600
    used = FLEET_HOUR * FLEET_SIZE * Decimal(fleet_ns) / SECOND_NS / 3600
    return Truth(
        attempts=whole.attempts,
        unpriced=whole.unpriced,
        dollars=whole.dollars,
        idle=leased - used,
        by_customer=dict(sums["customer"]),
        by_feature=dict(sums["feature"]),
        by_owner=dict(sums["owner"]),
        by_backend=dict(sums["backend"]),
        by_day=dict(sums["day"]),
        billed=dict(billed),
        unknown=dict(unknown),
    )


def _dimensions(call: Call) -> dict[str, str]:
    seen = "untraced" not in call.faults
    return {
        "customer": call.customer if seen else "",
        "feature": call.feature if seen else "",
        "owner": call.owner if seen else "",
        "backend": call.service,
        "day": day_of(call.started_ns).isoformat(),
    }


def _add(row: Sum, cost: Decimal | None) -> None:
    row.attempts += 1
    if cost is None:
        row.unpriced += 1
    else:
        row.dollars += cost
