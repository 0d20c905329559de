"""Response logs of any supported format, record by record, as `ResponseFact`."""

from collections.abc import Iterator
from typing import Any, Literal

import msgspec

from fungible.contract.issuers import issuer_named
from fungible.contract.streams import ResponseFact, SpanFact
from fungible.errors import InputError
from fungible.ingest.bodies import Fields, kind_of_body, read_body
from fungible.ingest.envelope import is_envelope, read_envelope
from fungible.ingest.intake import digest_of
from fungible.ingest.langfuse import is_langfuse, read_langfuse
from fungible.ingest.litellm import is_litellm, read_litellm
from fungible.ingest.source import Item
from fungible.ingest.values import mapping, text

Format = Literal["auto", "openai", "anthropic", "litellm", "langfuse"]


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one record: a fact, or why it was refused; neither: it was skipped."""

    place: str
    fact: ResponseFact | SpanFact | None = None
    reason: str = ""
    sample: bytes = b""


def read_responses(item: Item, form: Format, source: str) -> Iterator[Outcome]:
    """Every record of one item, such as a line; never raises.

    Args:
        item: Bytes of JSON, or what is wrong with them.
        form: The format that it must have; `auto` tells it from the fields.
        source: Name of the file.
    """
    if item.fault:
        yield Outcome(place=item.place, reason=item.fault, sample=item.data)
        return
    try:
        row = msgspec.json.decode(item.data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError) as error:
        yield Outcome(place=item.place, reason=f"not JSON: {error}", sample=item.data)
        return
    if not isinstance(row, dict):
        reason = "the record is no JSON object"
        yield Outcome(place=item.place, reason=reason, sample=item.data)
        return
    page = _page(row)
    if page is None:
        yield _outcome(row, item.place, item.data, form, source)
        return
    for at, one in enumerate(page, 1):
        place = f"{item.place}, item {at}"
        data = msgspec.json.encode(one)
        if isinstance(one, dict):
            yield _outcome(one, place, data, form, source)
        else:
            yield Outcome(place=place, reason="the record is no JSON object", sample=data)


def _page(row: Fields) -> list[Any] | None:
    """The records of a page, as APIs hand them out: `{"data": […], "meta": …}`."""
    data = row.get("data")
    if isinstance(data, list) and not kind_of_body(row) and not is_envelope(row):
        return data
    return None


def _outcome(row: Fields, place: str, data: bytes, form: Format, source: str) -> Outcome:
    try:
        found = _read(row, form)
        if found is None:
            return Outcome(place=place)
        fact = _fact(found, f"{source}:{place}")
    except InputError as error:
        return Outcome(place=place, reason=error.message, sample=data)
    return Outcome(place=place, fact=fact)


def _read(row: Fields, form: Format) -> Fields | None:
    if form == "litellm" or (form == "auto" and is_litellm(row)):
        return read_litellm(row)
    if form == "langfuse" or (form == "auto" and is_langfuse(row)):
        return read_langfuse(row)
    unwrapped = _batched(row)
    found = read_envelope(unwrapped) if is_envelope(unwrapped) else read_body(unwrapped)
    operation = found.get("operation")
    if operation and form != "auto" and (operation == "messages") != (form == "anthropic"):
        raise InputError(f"the body is not {form}'s")
    return found


def _batched(row: Fields) -> Fields:
    """An Anthropic batch's result as an envelope; OpenAI's is one already."""
    result = mapping(row.get("result"))
    tier: Fields = {"tier": "batch"}
    if "custom_id" in row and result:
        if text(result.get("type")) == "succeeded":
            return tier | {"response": result.get("message")}
        return tier | {"error": result.get("error") or result.get("type"), "id": row["custom_id"]}
    response = mapping(row.get("response"))
    if "custom_id" in row and "body" in response:
        status = response.get("status_code")
        return tier | row | {"http_status": status, "id": row["custom_id"]}
    return row


def _fact(found: Fields, source: str) -> ResponseFact:
    keyed = found.get("response_id") or (found.get("trace_id") and found.get("span_id"))
    if not keyed:
        raise InputError(
            "no id to know it by: neither a response id nor a trace and span id;"
            " put it into an envelope with `id`"
        )
    found["issuer"] = issuer_named(found.get("issuer", ""))
    return ResponseFact(digest=fact_digest(found), source=source, **found)


def fact_digest(found: Fields) -> str:
    """The same for the same fact, wherever it was read; unstated fields don't count."""
    stated = {
        name: str(value) if name == "stated_cost" else value
        for name, value in found.items()
        if name.startswith(("in_", "out_")) or value not in (None, "", 0, False, {})
    }
    return digest_of(stated)
