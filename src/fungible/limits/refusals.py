"""What a client is told about its limits: headers, and the error when one is reached."""

from collections.abc import Iterable, Sequence

from fungible.errors import BudgetError, LimitError
from fungible.limits.buckets import SCALE, Decision, wait_us
from fungible.limits.rules import Counted, Need, amount_text

_WORDS = {
    "requests": "requests per minute",
    "tokens": "tokens per minute",
    "day": "today's budget",
    "month": "this month's budget",
    "total": "the total budget",
}


def rate_headers(counted: Sequence[Counted], levels: Sequence[int]) -> dict[str, str]:
    """The OpenAI API's `x-ratelimit-*` headers; of several limits, the tightest."""
    headers = {}
    for meter in ("requests", "tokens"):
        found = [
            (max(0, item.bucket.capacity - level) // SCALE, level, item.bucket)
            for item, level in zip(counted, levels, strict=True)
            if item.meter == meter
        ]
        if found:
            left, level, bucket = min(found, key=lambda row: row[0])
            headers[f"x-ratelimit-limit-{meter}"] = str(bucket.capacity // SCALE)
            headers[f"x-ratelimit-remaining-{meter}"] = str(left)
            headers[f"x-ratelimit-reset-{meter}"] = _duration(level / bucket.drain / 1e6)
    return headers


def refusal(
    counted: Sequence[Counted], need: Need, decision: Decision, now_us: int, currency: str
) -> LimitError:
    """The error for a request that was not admitted; it names the limit that binds longest."""
    reached = [
        (item, level, _wait_s(item, need, level, now_us))
        for item, level in zip(counted, decision.levels, strict=True)
        if level + item.amount(need) > item.bucket.capacity
    ]
    item, level, wait_s = max(reached, key=lambda row: float("inf") if row[2] is None else row[2])
    error = _budget(item, need, level, currency) if item.money else _rate(item, need)
    error.retry_after_s = wait_s
    error.headers = rate_headers(counted, decision.levels) | _retry(wait_s)
    return error


def _wait_s(item: Counted, need: Need, level: int, now_us: int) -> float | None:
    if item.money:
        hopeless = item.amount(need) > item.bucket.capacity or not item.resets_us
        return None if hopeless else (item.resets_us - now_us) / 1e6
    wait = wait_us(item.charge(need), level)
    return None if wait is None else wait / 1e6


def _retry(wait_s: float | None) -> dict[str, str]:
    if wait_s is None:
        # The official clients repeat a 429 by themselves unless they are told that it is vain.
        return {"x-should-retry": "false"}
    headers = {"retry-after": str(max(1, -int(-wait_s // 1)))}
    if wait_s > 60:
        headers["x-should-retry"] = "false"
    return headers


def _rate(item: Counted, need: Need) -> LimitError:
    most = item.bucket.capacity // SCALE
    limit = f"{item.limit.subject}: limit of {most} {_WORDS[item.meter]} ({item.limit.where})"
    if item.amount(need) > item.bucket.capacity:
        return LimitError(
            f"the request may need {need.tokens} tokens, more than the {limit} ever allows.",
            hint="shorten the prompt, or ask for fewer tokens with max_tokens",
        )
    return LimitError(f"{limit} reached.", hint="wait for the time in Retry-After")


def _budget(item: Counted, need: Need, level: int, currency: str) -> BudgetError:
    left = max(0, item.bucket.capacity - level)
    return BudgetError(
        f"{item.limit.subject}: {_WORDS[item.meter]} of {amount_text(item.bucket.capacity)} "
        f"{currency} has {amount_text(left)} left, and the request may cost "
        f"{amount_text(need.nanos or 0)} ({item.limit.where}).",
        hint="a smaller max_tokens lowers what is set aside for a request",
    )


def _duration(seconds: float) -> str:
    """As the OpenAI API writes it: `850ms`, `12.5s`."""
    return f"{round(seconds * 1000)}ms" if seconds < 1 else f"{round(seconds, 3):g}s"


def strictest(modes: Iterable[str]) -> str:
    """`closed` when any of the modes is."""
    return "closed" if "closed" in modes else "open"
