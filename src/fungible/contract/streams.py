"""Facts that arrive from elsewhere: what other gateways, tracers, clouds and invoices recorded.

They travel through the spool like the records of `events.py`. Each has a natural key, so that
the same fact may arrive twice, in any order, and from more than one file. Counts that the source
did not state are `None`; text that it did not state is empty. Times are nanoseconds since the
Unix epoch, UTC; 0 is unknown.
"""

from datetime import date
from decimal import Decimal
from typing import Literal

import msgspec

ChargeCategory = Literal["usage", "purchase", "credit", "tax", "adjustment"]


class Observed(msgspec.Struct, frozen=True, kw_only=True):
    """What one source knows about one upstream call. Fields as in `AttemptEvent`.

    Attributes:
        digest: SHA-256 prefix over the normalised fact; breaks ties the same way everywhere.
        source: Where it was read: a file's name and line, or the receiver.
        issuer: Who serves and bills it (`openai`, `anthropic`, `aws.bedrock` …).
        response_id: The provider's own id of the answer; the strongest key.
        trace_id, span_id: Hexadecimal, lower case (W3C Trace Context); the other key.
        server: Host (and port) that was called, or the deployment that the source names.
        tier: Service tier that the answer states (`default`, `flex`, `priority`, `batch` …).
        rank: Worth of the usage: 4 final, from the provider itself; 3 the same at second hand,
            as another tool or a span recorded it; 2 partial; 1 counted or estimated; 0 none.
        stated_cost: What the source says that the call cost; shown, never summed with ours.
    """

    digest: str
    source: str
    issuer: str = ""
    response_id: str = ""
    trace_id: str = ""
    span_id: str = ""
    request_id: str = ""
    attempt_no: int = 0
    operation: str = ""
    model: str = ""
    response_model: str = ""
    backend: str = ""
    server: str = ""
    resource: str = ""
    region: str = ""
    tier: str = ""
    owner: str = ""
    key: str = ""
    customer: str = ""
    feature: str = ""
    session: str = ""
    tags: dict[str, str] = {}
    streamed: bool = False
    started_ns: int = 0
    first_token_ns: int | None = None
    ended_ns: int = 0
    status: str = ""
    http_status: int = 0
    error_code: str = ""
    finish_reason: str = ""
    in_uncached: int | None = None
    in_cache_read: int | None = None
    in_cache_write: int | None = None
    out_visible: int | None = None
    out_reasoning: int | None = None
    usage_source: str = "none"
    rank: int = 0
    stated_cost: Decimal | None = None
    stated_currency: str = ""


class ResponseFact(Observed, frozen=True, kw_only=True, tag_field="record", tag="response"):
    """An API response, as a log of bodies or another gateway's export holds it."""


class SpanFact(Observed, frozen=True, kw_only=True, tag_field="record", tag="span"):
    """A client span of a model call; `parent_span_id` and `service` are of the span."""

    parent_span_id: str = ""
    service: str = ""


class InfraFact(msgspec.Struct, frozen=True, kw_only=True, tag_field="record", tag="infra"):
    """A machine, pod or deployment at one moment. Key: (provider, resource, observed_ns).

    Attributes:
        resource: The provider's id: an instance, `namespace/pod`, a deployment.
        parent: What it runs on: the node of a pod, the instance of a node.
        addresses: Hosts and IP addresses that calls to it name (`Observed.server`).
        capacity: `on-demand`, `spot`, `reserved` or `owned`; empty when not stated.
        started_ns, ended_ns: Its life, as far as stated; 0 while it runs.
    """

    provider: str
    resource: str
    observed_ns: int
    digest: str
    source: str
    kind: Literal["instance", "node", "pod", "deployment"]
    parent: str = ""
    backend: str = ""
    accelerator: str = ""
    accelerators: int = 0
    instance_type: str = ""
    region: str = ""
    zone: str = ""
    capacity: str = ""
    addresses: list[str] = []
    labels: dict[str, str] = {}
    started_ns: int = 0
    ended_ns: int = 0


class PriceFact(msgspec.Struct, frozen=True, kw_only=True, tag_field="record", tag="price"):
    """One row of a price sheet, as it was imported. Key: (sheet, known_ns, row).

    An import of a sheet replaces that sheet's earlier import from `known_ns` on; what was known
    before stays known as of then.

    Attributes:
        sheet: Name of the sheet; one import holds all its rows.
        digest: SHA-256 prefix over the sheet's name and rows.
        basis: `list` or `contracted`.
        issuer, sku: As the invoice names them; empty: the key, and the leaf.
        tier: Which the call must state; empty: the standard one, `*`: any.
        region: Where the call must be served; empty: anywhere.
        context_from, context_to: Prompt tokens of the call, `[from, to)`; to 0: no bound.
        place: Cell or line that it was read from.
    """

    sheet: str
    known_ns: int
    row: int
    digest: str
    key: str
    unit: str
    leaf: str
    price: Decimal
    currency: str
    basis: Literal["list", "contracted"] = "contracted"
    issuer: str = ""
    sku: str = ""
    tier: str = ""
    region: str = ""
    context_from: int = 0
    context_to: int = 0
    contract: str = ""
    valid_from_ns: int = 0
    valid_to_ns: int = 0
    note: str = ""
    place: str = ""


class RateFact(msgspec.Struct, frozen=True, kw_only=True, tag_field="record", tag="rate"):
    """An exchange rate: 1 `base` is `rate` `quote` on `day` and until the next one."""

    base: str
    quote: str
    day: date
    rate: Decimal
    known_ns: int
    source: str


class InvoiceFact(msgspec.Struct, frozen=True, kw_only=True, tag_field="record", tag="invoice"):
    """One line of an invoice (FOCUS 1.2 Cost and Usage). Key: (issuer, invoice, line).

    Attributes:
        correction: It restates an earlier period (`ChargeClass` Correction).
        billed, effective, contracted, list_cost: FOCUS' four costs; `None`: not stated.
        start_ns, end_ns: The charge period, `[start, end)`.
    """

    issuer: str
    invoice: str
    line: str
    digest: str
    source: str
    known_ns: int
    category: ChargeCategory = "usage"
    correction: bool = False
    sku: str = ""
    meter: str = ""
    description: str = ""
    backend: str = ""
    resource: str = ""
    start_ns: int
    end_ns: int
    quantity: Decimal | None = None
    unit: str = ""
    billed: Decimal
    effective: Decimal | None = None
    contracted: Decimal | None = None
    list_cost: Decimal | None = None
    currency: str
    commitment: str = ""
    tags: dict[str, str] = {}


class RejectFact(msgspec.Struct, frozen=True, kw_only=True, tag_field="record", tag="reject"):
    """A row that an import did not take, and why. Key: (stream, digest)."""

    stream: str
    digest: str
    source: str
    place: str
    reason: str
    sample: str
    at_ns: int


class ImportFact(msgspec.Struct, frozen=True, kw_only=True, tag_field="record", tag="import"):
    """One file or batch that was taken. Key: (stream, digest)."""

    stream: str
    digest: str
    source: str
    rows: int
    rejected: int
    at_ns: int


Fact = (
    ResponseFact
    | SpanFact
    | InfraFact
    | PriceFact
    | RateFact
    | InvoiceFact
    | RejectFact
    | ImportFact
)
FACTS: tuple[type[Fact], ...] = (
    ResponseFact,
    SpanFact,
    InfraFact,
    PriceFact,
    RateFact,
    InvoiceFact,
    RejectFact,
    ImportFact,
)
