"""Seeded records of a whole loop: two backends, their traffic, verdicts, a migration, replays."""

import random
from collections.abc import Iterator

from fungible.contract.events import (
    AttemptEvent,
    BenchEvent,
    LeaseEvent,
    MigrationEvent,
    Record,
    VerdictEvent,
)
from fungible.contract.inference import Kind

S = 1_000_000_000
REFERENCE, CANDIDATE, REFUSED = "xla-f32", "ort-int8", "ort-int4-naive"
VARIANTS = {REFERENCE: ("xla:cpu", "f32"), CANDIDATE: ("onnxruntime:cpu", "int8")}
WHO = [
    ("chat", "acme", 40),
    ("search", "acme", 26),
    ("chat", "globex", 22),
    ("drafts", "globex", 8),
    ("drafts", "", 3),
    ("", "", 1),
]
EDGES = [
    ("requested", "gated", 0.0, 0, "the verdict holds: loss at most 3.2 points", 0),
    ("gated", "shadow", 0.0, 1, "copying every request to the candidate", 30),
    ("shadow", "canary", 0.25, 2, "60 pairs: held with an e-value of 24.1", 150),
    ("canary", "canary", 0.5, 3, "41 attempts: held with an e-value of 22.7", 270),
    ("canary", "promoted", 1.0, 4, "58 attempts: held with an e-value of 31.9", 390),
]


def attempt(
    number: int, *, backend: str, ended_ns: int, kind: Kind = "serve", **more: object
) -> AttemptEvent:
    """One attempt; the reference takes twice as long as the others, to its first token too."""
    rng = random.Random(number)
    target, variant = VARIANTS.get(backend, ("onnxruntime:cpu", "int4"))
    slow = 2 if backend == REFERENCE else 1
    took = slow * S // 4
    fields: dict[str, object] = {
        "attempt_id": f"att_{number:08d}",
        "request_id": f"req_{number:08d}",
        "attempt_no": 0,
        "kind": kind,
        "endpoint": "chat/completions",
        "model": "assistant",
        "backend": backend,
        "backend_kind": "openai_http",
        "target": target,
        "accelerator": "cpu-x86",
        "variant": variant,
        "streamed": True,
        "started_ns": ended_ns - took,
        "first_token_ns": ended_ns - took + rng.randrange(20 * slow, 60 * slow) * 1_000_000,
        "ended_ns": ended_ns,
        "status": "ok",
        "http_status": 200,
        "finish_reason": "stop",
        "in_uncached": rng.randrange(20, 60),
        "in_cache_read": 0,
        "in_cache_write": 0,
        "out_visible": rng.randrange(6, 24),
        "out_reasoning": 0,
        "usage_source": "provider_final",
    }
    return AttemptEvent(**(fields | more))  # type: ignore[arg-type]


def _share(at_s: float) -> float:
    """The candidate's share of traffic, `at_s` seconds after the migration began."""
    return max((weight for *_, weight, _, _, start in _WEIGHTS if at_s >= start), default=0.0)


_WEIGHTS = [edge for edge in EDGES if edge[2] > 0]


def traffic(
    now_ns: int, *, seconds: int = 580, rate: float = 3.0, seed: int = 7
) -> Iterator[AttemptEvent]:
    """Client traffic that moves from the reference to the candidate, with some failures."""
    rng = random.Random(seed)
    began = now_ns - 520 * S
    at = now_ns - seconds * S
    number = 0
    while (at := at + int(rng.expovariate(rate) * S)) < now_ns:
        number += 1
        moved = rng.random() < _share((at - began) / S)
        (feature, customer, _), *_ = rng.choices(WHO, [weight for *_, weight in WHO])
        backend = CANDIDATE if moved else REFERENCE
        who = {"feature": feature, "customer": customer, "owner": "platform"}
        if number % 331 == 0:
            failed = {
                "status": "error",
                "http_status": 503,
                "error_code": "upstream_busy",
                "out_visible": None,
            }
            yield attempt(number, backend=backend, ended_ns=at, **who, **failed)
            again = {"attempt_id": f"att_{number:08d}b", "attempt_no": 1}
            yield attempt(number, backend=REFERENCE, ended_ns=at + S // 2, **who, **again)
        else:
            yield attempt(number, backend=backend, ended_ns=at, **who)


def proving(now_ns: int) -> Iterator[AttemptEvent]:
    """Attempts of evals and shadow traffic, before and during the migration."""
    rng = random.Random(11)
    for number in range(240):
        backend = (REFERENCE, CANDIDATE, REFUSED)[number % 3]
        at = now_ns - 590 * S + number * S // 4
        yield attempt(100_000 + number, backend=backend, ended_ns=at, kind="eval", streamed=False)
    for number in range(120):
        at = now_ns - 490 * S + int(rng.random() * 120 * S)
        yield attempt(200_000 + number, backend=CANDIDATE, ended_ns=at, kind="shadow")


def _verdict(name: str, candidate: str, decided_ns: int, **more: object) -> VerdictEvent:
    fields: dict[str, object] = {
        "verdict_id": name,
        "model": "assistant",
        "suite": "everyday",
        "suite_hash": "5f",
        "plan_hash": "9a",
        "candidate": candidate,
        "reference": REFERENCE,
        "binding": candidate,
        "reference_binding": REFERENCE,
        "items": 96,
        "reference_score": 0.8125,
        "margin": 0.05,
        "decided_ns": decided_ns,
        "expires_ns": decided_ns + 30 * 86_400 * S,
    }
    return VerdictEvent(**(fields | more))  # type: ignore[arg-type]


def verdicts(now_ns: int) -> Iterator[VerdictEvent]:
    """One refusal with its reasons, one pass."""
    yield _verdict(
        "ver_1",
        REFUSED,
        now_ns - 560 * S,
        outcome="fail",
        candidate_score=0.2396,
        loss_upper=0.6481,
        reasons=[
            "lost 57.3 points; the 95 % bound 64.8 is above the margin of 5.0",
            "41 of 96 answers ran to the token limit; 2 on the reference",
        ],
        metrics={"lost": 58.0, "gained": 3.0, "flips": 0.6354, "kl_divergence": 2.417},
    )
    yield _verdict(
        "ver_2",
        CANDIDATE,
        now_ns - 530 * S,
        outcome="pass",
        candidate_score=0.8021,
        loss_upper=0.0317,
        metrics={"lost": 2.0, "gained": 1.0, "flips": 0.0313, "kl_divergence": 0.0041},
    )


def migration(now_ns: int) -> Iterator[MigrationEvent]:
    """The edges of one migration, up to its promotion."""
    for before, after, weight, version, reason, at_s in EDGES:
        yield MigrationEvent(
            migration_id="mig_1",
            model="assistant",
            candidate=CANDIDATE,
            reference=REFERENCE,
            from_state=before,
            to_state=after,
            weight=weight,
            route_version=version,
            reason=reason,
            evidence={"requests": 40.0 + at_s, "failed": 0.0, "e_hold": 20.0 + at_s / 100},
            at_ns=now_ns - (520 - at_s) * S,
        )


def replays(now_ns: int) -> Iterator[BenchEvent]:
    """The same trace on two backends."""
    for backend, p50, p99, rate in ((REFERENCE, 61.2, 214.0, 41.25), (CANDIDATE, 23.8, 75.5, 66.5)):
        yield BenchEvent(
            run_id=f"run_{backend}",
            trace="everyday",
            backend=backend,
            binding="b",
            requests=120,
            failed=0,
            valid=True,
            ttft_p50_ms=p50,
            ttft_p99_ms=p99,
            tokens_per_s=rate,
            wall_s=40.0,
            at_ns=now_ns - 545 * S,
        )


def lease(backend: str, began_ns: int, seen_ns: int) -> LeaseEvent:
    """A machine held from `began_ns` to `seen_ns`."""
    return LeaseEvent(
        lease_id=f"lease_{backend}",
        backend=backend,
        accelerator="cpu-x86",
        started_ns=began_ns,
        seen_ns=seen_ns,
    )


def leases(now_ns: int) -> Iterator[LeaseEvent]:
    """Ten minutes of two machines."""
    for backend in (REFERENCE, CANDIDATE):
        yield lease(backend, now_ns - 600 * S, now_ns)


def loop(now_ns: int) -> list[Record]:
    """All of it, as one list."""
    evidence = [*verdicts(now_ns), *migration(now_ns), *replays(now_ns)]
    return [*traffic(now_ns), *proving(now_ns), *evidence, *leases(now_ns)]
