"""What the month's contracts, clouds and issuers sent: prices, rates, machines, invoices."""

from collections import defaultdict
from collections.abc import Iterable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from fungible.world.calls import (
    BY_NAME,
    DAY_NS,
    DAYS,
    END_NS,
    SECOND_NS,
    SERVICES,
    START_NS,
    Call,
)
from fungible.world.truth import (
    FLEET_HOUR,
    RATES,
    banking_days,
    day_of,
    euro_in_dollars,
    parts_of,
)

PRICE_COLUMNS = (
    "key",
    "unit",
    "leaf",
    "price",
    "currency",
    "valid_from",
    "valid_to",
    "issuer",
    "sku",
    "tier",
    "contract",
    "note",
)
INVOICE_COLUMNS = (
    "InvoiceIssuerName",
    "InvoiceId",
    "InvoiceDetailId",
    "ChargeCategory",
    "ChargeClass",
    "ChargeDescription",
    "ChargePeriodStart",
    "ChargePeriodEnd",
    "SkuId",
    "ConsumedQuantity",
    "ConsumedUnit",
    "BilledCost",
    "EffectiveCost",
    "BillingCurrency",
    "CommitmentDiscountId",
)
COMMITTED_A_DAY = Decimal(48)  # dollars; paid in advance, and half of it is used


def price_rows() -> list[list[str]]:
    """The contract's spreadsheet, with a header."""
    rows = [list(PRICE_COLUMNS)]
    for rate in RATES:
        row = {
            "key": rate.service,
            "unit": "1M_tokens",
            "leaf": rate.leaf,
            "price": f"{rate.price:f}",
            "currency": rate.currency,
            "valid_from": _moment(rate.from_ns),
            "valid_to": _moment(rate.to_ns),
            "issuer": BY_NAME[rate.service].issuer,
            "sku": rate.sku,
            "tier": rate.tier,
            "contract": f"{rate.service}-2026",
            "note": "simulated",
        }
        rows.append([row[column] for column in PRICE_COLUMNS])
    fleet = {"key": "fleet", "unit": "hour", "price": f"{FLEET_HOUR:f}", "currency": "USD"}
    fleet |= {"issuer": "own-fleet", "sku": "accelerator-hour", "note": "simulated"}
    rows.append([fleet.get(column, "") for column in PRICE_COLUMNS])
    return rows


def rate_rows() -> list[list[str]]:
    """Exchange rates of banking days, with a header."""
    days = [[day.isoformat(), "EUR", "USD", f"{euro_in_dollars(day):f}"] for day in banking_days()]
    return [["day", "base", "quote", "rate"], *days]


def machines() -> dict[str, Any]:
    """The fleet as EC2's DescribeInstances shows it just after the month."""
    service = BY_NAME["fleet"]
    instance = {
        "InstanceId": "i-0f1ee70000000001a",
        "InstanceType": "p5.4xlarge",
        "PrivateIpAddress": service.server.partition(":")[0],
        "PrivateDnsName": "ip-10-20-0-11.ec2.internal",
        "LaunchTime": _moment(START_NS),
        "State": {"Code": 48, "Name": "terminated"},
        "StateTransitionReason": f"User initiated ({_words(END_NS)} GMT)",
        "Placement": {"AvailabilityZone": "us-east-1a"},
        "Tags": [{"Key": "fungible.dev/backend", "Value": service.name}],
    }
    return {"Reservations": [{"ReservationId": "r-1", "Instances": [instance]}]}


def deployment_rows() -> list[list[str]]:
    """What the hosted services run as, by the hosts that calls name; with a header."""
    header = ["resource", "kind", "provider", "backend", "addresses", "observed_at"]
    rows = [
        [service.name, "deployment", service.issuer, service.name, service.server, "2026-10-01"]
        for service in SERVICES
        if service.name != "fleet"
    ]
    return [header, *rows]


def invoice_rows(made: Iterable[Call]) -> dict[str, list[list[str]]]:
    """Invoices by file name, as FOCUS 1.2 rows with a header.

    Each bills what its issuer counted, calls that we know nothing of included; beside that a
    credit, a tax, a commitment that is half used, and one day that is billed late.
    """
    usage: defaultdict[tuple[str, str, str, str], list[Decimal]] = defaultdict(list)
    for call in made:
        issuer = BY_NAME[call.service].issuer
        for part in parts_of(call):
            day = day_of(call.started_ns).isoformat()
            usage[issuer, day, part.sku, part.currency].append(part.amount)
    files: defaultdict[str, list[dict[str, str]]] = defaultdict(list)
    for number, ((issuer, day, sku, currency), amounts) in enumerate(sorted(usage.items())):
        late = issuer == "openai" and day.endswith("-31")
        name = f"{issuer}-{'2026-11' if late else '2026-10'}.csv"
        files[name].append(
            _usage_row(issuer, day, sku, currency, sum(amounts, Decimal(0)))
            | {"InvoiceId": name.removesuffix(".csv"), "InvoiceDetailId": str(number)}
        )
    for name, rows in files.items():
        rows.extend(_extras(name))
    files["own-fleet-2026-10.csv"] = _fleet_rows()
    files["capacity-2026-10.csv"] = _capacity_rows()
    return {
        name: [
            list(INVOICE_COLUMNS),
            *([row.get(column, "") for column in INVOICE_COLUMNS] for row in rows),
        ]
        for name, rows in files.items()
    }


def _usage_row(issuer: str, day: str, sku: str, currency: str, billed: Decimal) -> dict[str, str]:
    return {
        "InvoiceIssuerName": issuer,
        "ChargeCategory": "Usage",
        "ChargeDescription": f"{sku} (simulated)",
        **_period(int(day[-2:]) - 1),
        "SkuId": sku,
        "ConsumedUnit": "tokens",
        "BilledCost": f"{billed:f}",
        "BillingCurrency": currency,
    }


def _extras(name: str) -> list[dict[str, str]]:
    """A credit note and a tax on the first issuer's first invoice."""
    if name != "openai-2026-10.csv":
        return []
    common = {
        "InvoiceIssuerName": "openai",
        "InvoiceId": "openai-2026-10",
        **_period(0, DAYS),
        "BillingCurrency": "USD",
    }
    credit = {"ChargeCategory": "Credit", "BilledCost": "-5.00", "InvoiceDetailId": "credit-1"}
    tax = {"ChargeCategory": "Tax", "BilledCost": "1.25", "InvoiceDetailId": "tax-1"}
    return [common | credit, common | tax]


def _fleet_rows() -> list[dict[str, str]]:
    """The fleet's machine, a line a day, used or not."""
    return [
        {
            "InvoiceIssuerName": "own-fleet",
            "InvoiceId": "own-fleet-2026-10",
            "InvoiceDetailId": f"day-{day}",
            "ChargeCategory": "Usage",
            **_period(day),
            "SkuId": "accelerator-hour",
            "ConsumedQuantity": "24",
            "ConsumedUnit": "Hours",
            "BilledCost": f"{FLEET_HOUR * 24:f}",
            "BillingCurrency": "USD",
        }
        for day in range(DAYS)
    ]


def _capacity_rows() -> list[dict[str, str]]:
    """Capacity bought in advance, as FOCUS has it: what is drawn from it is billed no more."""
    common = {
        "InvoiceIssuerName": "capacity",
        "InvoiceId": "capacity-2026-10",
        "SkuId": "reserved-hour",
        "BillingCurrency": "USD",
        "CommitmentDiscountId": "reservation-1",
    }
    drawn = [
        common
        | {
            "InvoiceDetailId": f"day-{day}",
            "ChargeCategory": "Usage",
            **_period(day),
            "BilledCost": "0",
            "EffectiveCost": f"{COMMITTED_A_DAY / 2:f}",
        }
        for day in range(DAYS)
    ]
    purchase = common | {
        "InvoiceDetailId": "purchase",
        "ChargeCategory": "Purchase",
        "ChargeDescription": "capacity for a month (simulated)",
        **_period(0, DAYS),
        "BilledCost": f"{COMMITTED_A_DAY * DAYS:f}",
        "EffectiveCost": "0",
    }
    return [*drawn, purchase]


def _period(day: int, days: int = 1) -> dict[str, str]:
    """A charge period of whole days, counted from the month's first."""
    start = START_NS + day * DAY_NS
    return {
        "ChargePeriodStart": _moment(start),
        "ChargePeriodEnd": _moment(start + days * DAY_NS),
    }


def _moment(at_ns: int) -> str:
    return f"{_words(at_ns).replace(' ', 'T')}Z" if at_ns else ""


def _words(at_ns: int) -> str:
    return f"{datetime.fromtimestamp(at_ns // SECOND_NS, tz=UTC):%Y-%m-%d %H:%M:%S}"
