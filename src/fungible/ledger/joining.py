"""Puts facts about the same upstream call together: a pure function of the set of facts.

Two facts are about the same attempt when they state the same response id; those without one
are known by trace and span id, and belong to the response that a fact of that span states.
A span whose model call was made by spans below it is their operation, not an attempt; and what
is about a call of our own gateway is none either, because that is in the ledger already.
"""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

Fact = Mapping[str, Any]
Row = dict[str, Any]
# ("", "", response id) or (trace id, span id, "")
Key = tuple[str, str, str]

LEAVES = ("in_uncached", "in_cache_read", "in_cache_write", "out_visible", "out_reasoning")
_IDENTITY = ("owner", "key", "customer", "feature", "session")
_ENDPOINTS = {
    "chat": "chat/completions",
    "generate_content": "chat/completions",
    "text_completion": "completions",
    "embeddings": "embeddings",
    "responses": "responses",
    "messages": "messages",
}


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Where a call went, as far as infrastructure tells."""

    backend: str = ""
    accelerator: str = ""
    region: str = ""
    target: str = ""


# (resource, server, moment) -> place
Locate = Callable[[str, str, int], Place]
# Fact -> the attempt of our own that it is about, or ""
Own = Callable[[Fact], str]


class Joined(msgspec.Struct, frozen=True):
    """What facts come to.

    Attributes:
        rows: Rows of `imported_attempts`.
        candidates: Every id that some key of the facts could have: rows under the others are
            withdrawn.
        own: Facts about attempts of our own, and which; none of `rows` is made of them.
    """

    rows: list[Row]
    candidates: set[str]
    own: list[tuple[Fact, str]]


def keys_of(fact: Fact) -> list[Key]:
    """What a fact may be known by."""
    found: list[Key] = []
    if fact["response_id"]:
        found.append(("", "", fact["response_id"]))
    if fact["span_id"]:
        found.append((fact["trace_id"], fact["span_id"], ""))
    return found


def attempt_id_of(key: Key) -> str:
    """The id of the attempt that is known by a key."""
    return f"imp_{_short(key)}"


def join(facts: Sequence[Fact], locate: Locate, own: Own) -> Joined:
    """Attempts of `facts`, which hold everything that shares a key or a parent with them."""
    distinct = {(fact["is_span"], -fact["rank"], fact["digest"]): fact for fact in facts}
    groups = _grouped([distinct[name] for name in sorted(distinct)])
    ours = {key: name for key in groups if (name := _own_of(groups[key], own))}
    family = _Family(groups, set(ours))
    rows, known = [], []
    for key in sorted(groups):
        if key in family.absorbed or (key in family.dropped and key not in ours):
            continue
        said = groups[key] + [one for below in family.absorbs[key] for one in groups[below]]
        if key in ours:
            known += [(fact, ours[key]) for fact in said]
            continue
        above = [one for other in family.above(key) for one in groups[other]]
        row = _attempt(key, said, above, locate)
        if row is not None:
            top = family.top(key)
            if top is not None and not row["request_id"]:
                row["request_id"] = f"op_{_short(top)}"
            rows.append(row)
    _number(rows)
    candidates = {attempt_id_of(key) for fact in distinct.values() for key in keys_of(fact)}
    return Joined(rows, candidates | {row["attempt_id"] for row in rows}, known)


def _own_of(facts: Sequence[Fact], own: Own) -> str:
    return next((name for fact in facts if (name := own(fact))), "")


def _short(key: Key) -> str:
    return hashlib.sha256("\0".join(key).encode()).hexdigest()[:28]


def _grouped(facts: Sequence[Fact]) -> dict[Key, list[Fact]]:
    """Facts by the key of their attempt, each in the order of `facts`."""
    owners: dict[Key, tuple[bool, str]] = {}
    for fact in facts:
        if fact["response_id"] and fact["span_id"]:
            key = (fact["trace_id"], fact["span_id"], "")
            says = (not fact["is_span"], fact["response_id"])
            owners[key] = min(owners.get(key, says), says)
    groups: dict[Key, list[Fact]] = defaultdict(list)
    for fact in facts:
        key = keys_of(fact)[0]
        if key in owners:
            key = ("", "", owners[key][1])
        groups[key].append(fact)
    return dict(groups)


class _Family:
    """Which groups are operations above others.

    Attributes:
        dropped: Operations: what they used is counted below them.
        absorbs: Groups below one that alone states what was used.
        absorbed: All of those.
    """

    def __init__(self, groups: Mapping[Key, list[Fact]], ours: set[Key]) -> None:
        self._parents = _parents(groups)
        below: dict[Key, set[Key]] = defaultdict(set)
        for key in self._parents:
            for other in self.above(key):
                below[other].add(key)
        # What a call of our own used is in the ledger, whether or not the facts state it.
        used = {key for key, facts in groups.items() if any(fact["rank"] > 0 for fact in facts)}
        used |= ours
        self.dropped: set[Key] = set()
        self.absorbs: dict[Key, list[Key]] = defaultdict(list)
        self.absorbed: set[Key] = set()
        for key in sorted(below):
            under = below[key] - {key}
            if not under or key in below[key]:
                continue
            if key in used and not under & used:
                self.absorbs[key] = sorted(under - self.absorbed)
                self.absorbed |= under
            else:
                self.dropped.add(key)

    def above(self, key: Key) -> list[Key]:
        """Groups above one, nearest first."""
        found: dict[Key, None] = {}
        level = sorted(self._parents.get(key, ()))
        while level:
            found |= dict.fromkeys(level)
            level = sorted({up for one in level for up in self._parents.get(one, ())} - set(found))
        return list(found)

    def top(self, key: Key) -> Key | None:
        """The operation that a group is an attempt of."""
        dropped = [one for one in self.above(key) if one in self.dropped]
        return dropped[-1] if dropped else None


def _parents(groups: Mapping[Key, list[Fact]]) -> dict[Key, set[Key]]:
    group_of = {
        (fact["trace_id"], fact["span_id"]): key
        for key, facts in groups.items()
        for fact in facts
        if fact["is_span"]
    }
    found: dict[Key, set[Key]] = {}
    for key, facts in groups.items():
        ups = {
            up
            for fact in facts
            if fact["is_span"] and fact["parent_span_id"]
            if (up := group_of.get((fact["trace_id"], fact["parent_span_id"]))) not in (None, key)
        }
        if ups:
            found[key] = ups
    return found


def _attempt(key: Key, facts: list[Fact], above: list[Fact], locate: Locate) -> Row | None:
    """One attempt; `None` while nothing says when it was."""
    said = sorted(facts, key=lambda fact: (fact["is_span"], -fact["rank"], fact["digest"]))
    times = _times(said)
    if times is None:
        return None
    started, first, ended = times

    def of(name: str, *, spans_first: bool = False) -> Any:  # noqa: ANN401
        ordered = sorted(said, key=lambda fact: not fact["is_span"]) if spans_first else said
        return next((value for fact in ordered if (value := fact[name])), said[0][name])

    usage = max(said, key=lambda fact: (fact["rank"], not fact["is_span"], fact["digest"]))
    server, resource = of("server", spans_first=True), of("resource", spans_first=True)
    operation, issuer = of("operation"), of("issuer")
    if not issuer and any(fact["operation"] == "messages" for fact in said):
        issuer = "anthropic"
    place = locate(resource, server, ended)
    known = [*said, *above]
    spans = sorted((not one["is_span"], one["trace_id"], one["span_id"]) for one in said)
    span = next((each[1:] for each in spans if each[2]), ("", ""))
    row: Row = {
        "attempt_id": attempt_id_of(key),
        "request_id": next((fact["request_id"] for fact in known if fact["request_id"]), ""),
        "attempt_no": of("attempt_no"),
        "kind": "serve",
        "endpoint": _ENDPOINTS.get(operation, operation),
        "model": of("model") or of("response_model"),
        "backend": of("backend") or place.backend or server or issuer,
        "backend_kind": "imported",
        "target": place.target,
        "accelerator": place.accelerator,
        "region": of("region") or place.region,
        "tags": _tags(known),
        "streamed": any(fact["streamed"] for fact in said),
        "started_ns": started,
        "first_token_ns": first,
        "ended_ns": ended,
        "status": _status(said),
        "http_status": of("http_status"),
        "error_code": of("error_code"),
        "finish_reason": of("finish_reason"),
        "usage_source": usage["usage_source"],
        "issuer": issuer,
        "response_id": of("response_id"),
        "trace_id": span[0],
        "span_id": span[1],
        "tier": of("tier"),
        "withdrawn": False,
    }
    for name in _IDENTITY:
        row[name] = next((value for fact in known if (value := fact[name])), "")
    return row | {leaf: usage[leaf] for leaf in LEAVES}


def _times(said: Sequence[Fact]) -> tuple[int, int | None, int] | None:
    """Start, first token and end by one clock: the outermost span's, else a response's."""
    spans_first = sorted(said, key=lambda fact: not fact["is_span"])
    whole = [fact for fact in spans_first if fact["started_ns"] and fact["ended_ns"]]
    whole = [fact for fact in whole if fact["is_span"] == whole[0]["is_span"]]
    if whole:
        best = min(whole, key=lambda one: (one["started_ns"], -one["ended_ns"], one["digest"]))
        started, ended = best["started_ns"], best["ended_ns"]
    else:
        best = next((one for one in spans_first if one["started_ns"] or one["ended_ns"]), {})
        if not best:
            return None
        started = ended = best["started_ns"] or best["ended_ns"]
    first = best["first_token_ns"]
    if first is None:
        firsts = [one["first_token_ns"] for one in spans_first if one["first_token_ns"] is not None]
        first = next((at for at in firsts if started <= at <= ended), None)
    return started, first, ended


def _status(said: Sequence[Fact]) -> str:
    states = [fact["status"] for fact in said if fact["status"]]
    return next((state for state in states if state != "ok"), "ok")


def _tags(known: Sequence[Fact]) -> dict[str, str]:
    merged: dict[str, str] = {}
    for fact in reversed(known):
        merged |= fact["tags"]
    return dict(sorted(merged.items()))


def _number(rows: list[Row]) -> None:
    """Say which attempts of an operation were retries: those that follow a failure."""
    requests: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        requests[row["request_id"]].append(row)
    for request_id, several in requests.items():
        failures = 0
        for row in sorted(several, key=lambda row: (row["started_ns"], row["attempt_id"])):
            if request_id.startswith("op_") and not row["attempt_no"]:
                row["attempt_no"] = failures
            failures = failures + 1 if row["status"] != "ok" else 0
            row["role"] = "retry" if row["attempt_no"] else "first"
            row["request_id"] = request_id or row["attempt_id"]
