"""The records that applications leave behind: one line of JSON each, in the spool.

`kind` tags select the ledger table. Times are nanoseconds since the Unix epoch, UTC.
Prompts and answers are never recorded, only counts and hashes.
"""

from typing import Literal

import msgspec

from fungible.contract.inference import Kind
from fungible.contract.steps import ClassWeightsEvent, StepsEvent
from fungible.contract.streams import FACTS, Fact

Status = Literal["ok", "error", "cancelled", "interrupted"]
Role = Literal["first", "retry", "fallback", "hedge", "shadow"]
Outcome = Literal["pass", "fail", "inconclusive", "refused"]


class AttemptEvent(msgspec.Struct, frozen=True, kw_only=True, tag_field="record", tag="attempt"):
    """One upstream call: the only billable grain.

    Attributes:
        attempt_id: Unique; the ledger keeps one row for it however often it is shipped.
        attempt_no: 0 for the first try of a request, then 1, 2 … (fallbacks and retries).
        role: `first`; `retry` on the same backend after a failure; `fallback` on another;
            `hedge`, asked while an earlier one was still silent; `shadow`, a copy.
        status: `ok`, `error` (the backend failed), `cancelled` (the client left, or
            another attempt was faster), `interrupted` (the stream broke after the first token).
        usage_source: Provenance of the leaves, see `Usage.source`.
        output_hash: SHA-256 prefix (16 hex digits) of the answer's text, for pairing; or empty.
        output_chars: Length of the answer's text in characters; `None` when not observed.
        response_id: The upstream's own id of its answer; empty where it gave none.
        trace_id, span_id: Of the client's span, as its `traceparent` header named them; or empty.
    """

    attempt_id: str
    request_id: str
    attempt_no: int
    role: Role = "first"
    kind: Kind
    endpoint: str
    model: str
    backend: str
    backend_kind: str
    target: str = ""
    accelerator: str = ""
    region: str = ""
    artifact: str = ""
    variant: str = ""
    binding: str = ""
    config_hash: str = ""
    route_version: int = 0
    owner: str = ""
    key: str = ""
    customer: str = ""
    feature: str = ""
    session: str = ""
    tags: dict[str, str] = {}
    run_id: str = ""
    item_id: str = ""
    streamed: bool = False
    started_ns: int
    first_token_ns: int | None = None
    ended_ns: int
    status: Status
    http_status: int = 0
    error_code: str = ""
    finish_reason: str = ""
    in_uncached: int | None = None
    in_cache_read: int | None = None
    in_cache_write: int | None = None
    out_visible: int | None = None
    out_reasoning: int | None = None
    usage_source: str = "none"
    output_hash: str = ""
    output_chars: int | None = None
    response_id: str = ""
    trace_id: str = ""
    span_id: str = ""


class LeaseEvent(msgspec.Struct, frozen=True, kw_only=True, tag_field="record", tag="lease"):
    """Accelerator time that is paid for whether or not it is used.

    A holder repeats the event while it holds the lease; the newest `seen_ns` wins. A lease
    whose holder was killed therefore ends at its last heartbeat.
    """

    lease_id: str
    backend: str
    accelerator: str
    started_ns: int
    seen_ns: int
    ended: bool = False


class EvalItemEvent(msgspec.Struct, frozen=True, kw_only=True, tag_field="record", tag="eval_item"):
    """One suite item answered by one backend.

    `score` is in [0, 1]; `None` when the backend gave no answer to score.
    """

    run_id: str
    suite: str
    suite_hash: str
    item_id: str
    cluster: str
    backend: str
    attempt_id: str
    score: float | None
    output_hash: str
    output_tokens: int | None
    finish_reason: str
    at_ns: int


class VerdictEvent(msgspec.Struct, frozen=True, kw_only=True, tag_field="record", tag="verdict"):
    """Whether quality held: a paired comparison of a candidate with the reference.

    Attributes:
        binding: Hash of (artifact digest, variant, target, engine configuration) of the
            candidate; a verdict speaks for exactly that.
        reference_binding: The same of the reference.
        plan_hash: Hash of the suite and of every threshold, fixed before the run.
        margin: Largest loss that still counts as held, in score points (0.05 = 5 points).
        loss_upper: One-sided 95 % upper bound of the loss (reference − candidate).
        reasons: Why it is not `pass`, one sentence each, with the numbers.
        metrics: Every number behind the verdict, by name.
    """

    verdict_id: str
    model: str
    suite: str
    suite_hash: str
    plan_hash: str
    candidate: str
    reference: str
    binding: str
    reference_binding: str
    outcome: Outcome
    items: int
    reference_score: float
    candidate_score: float
    margin: float
    loss_upper: float
    reasons: list[str] = []
    metrics: dict[str, float] = {}
    decided_ns: int
    expires_ns: int


class MigrationEvent(
    msgspec.Struct, frozen=True, kw_only=True, tag_field="record", tag="migration"
):
    """One edge of a migration's state machine, with the evidence that took it."""

    migration_id: str
    model: str
    candidate: str
    reference: str
    from_state: str
    to_state: str
    weight: float = 0.0
    route_version: int = 0
    reason: str = ""
    evidence: dict[str, float] = {}
    at_ns: int


class BenchEvent(msgspec.Struct, frozen=True, kw_only=True, tag_field="record", tag="bench"):
    """Summary of one replay of a trace against one backend; times in ms, rates per second."""

    run_id: str
    trace: str
    backend: str
    binding: str
    requests: int
    failed: int
    valid: bool
    ttft_p50_ms: float
    ttft_p99_ms: float
    tokens_per_s: float
    wall_s: float
    at_ns: int


Record = (
    AttemptEvent
    | LeaseEvent
    | EvalItemEvent
    | VerdictEvent
    | MigrationEvent
    | BenchEvent
    | StepsEvent
    | ClassWeightsEvent
    | Fact
)
RECORDS: tuple[type[Record], ...] = (
    AttemptEvent,
    LeaseEvent,
    EvalItemEvent,
    VerdictEvent,
    MigrationEvent,
    BenchEvent,
    StepsEvent,
    ClassWeightsEvent,
    *FACTS,
)
