"""A limiter admits, refuses with the right words, and settles to what attempts used."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fungible.config import Config, GatewaySettings, KeySettings, LimitSettings, LimitsSettings
from fungible.config import SharedLimitSettings as Shared
from fungible.contract.events import AttemptEvent
from fungible.contract.inference import Attribution
from fungible.errors import BudgetError, LimitError, LimitStoreError, UnpricedError
from fungible.ledger.prices import FOREVER, PriceBook, PriceRow
from fungible.limits.buckets import Bucket, Charge, Decision, Hold, Settlement
from fungible.limits.estimate import DATA_URL_TOKENS, Estimator
from fungible.limits.grant import Grant
from fungible.limits.limiter import Limiter
from fungible.limits.memory import MemoryStore
from fungible.limits.rules import Rules, amount_text, counted, nanos_of

START = 1_795_000_000 * 10**9  # 2026-11-18 11:06:40 UTC
HI = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 100}
WHO = Attribution(key="k", owner="o", customer="acme")


def price(key: str, leaf: str, amount: str) -> PriceRow:
    return PriceRow(
        key=key,
        unit="1M_tokens",
        leaf=leaf,
        price=Decimal(amount),
        currency="EUR",
        from_ns=0,
        to_ns=FOREVER,
    )


BOOK = PriceBook(
    (
        price("cheap", "input", "1"),
        price("cheap", "output", "2"),
        price("dear", "input", "10"),
        price("dear", "output", "30"),
    )
)


class Clock:
    now = START

    def __call__(self) -> int:
        return self.now


class Broken(MemoryStore):
    """A store that fails on demand, or hangs."""

    broken = False
    hangs = False

    async def reserve(self, hold: Hold, charges: Sequence[Charge]) -> Decision:
        if self.hangs:
            await asyncio.sleep(3600)
        if self.broken:
            raise LimitStoreError("gone")
        return await super().reserve(hold, charges)

    async def settle(self, hold: Hold, settlements: Sequence[Settlement], now_us: int) -> None:
        if self.broken:
            raise LimitStoreError("gone")
        await super().settle(hold, settlements, now_us)


class World:
    def __init__(self, of_key: LimitSettings, **fields: Any) -> None:
        self.clock, self.store = Clock(), Broken()
        key = KeySettings(hash="0" * 64, limits=of_key)
        self.config = Config(key={"k": key}, **fields)
        self.limiter = Limiter(self.config, BOOK, store=self.store, clock=self.clock)

    async def admit(self, backends: Sequence[str] = ("cheap",), **body: Any) -> Grant | None:
        return await self.limiter.admit(
            self.limiter.of(WHO),
            body={**HI, **body},
            endpoint="chat/completions",
            backends=backends,
            tries=2,
        )

    async def granted(self, **fields: Any) -> Grant:
        grant = await self.admit(**fields)
        assert grant is not None
        return grant

    async def levels(self) -> dict[str, int]:
        await asyncio.gather(*self.limiter._settling)
        (limit,) = self.limiter.of(WHO)
        now = self.clock.now // 1000
        items = counted(limit, now)
        levels = await self.store.levels([item.bucket for item in items], now)
        scale = [1 if item.money else 60_000_000 for item in items]
        return {item.meter: n // s for item, n, s in zip(items, levels, scale, strict=True)}


@pytest.fixture
async def world() -> AsyncIterator[Callable[..., World]]:
    made: list[World] = []

    def make(config: dict[str, Any] | None = None, **limits: Any) -> World:
        made.append(World(LimitSettings(**limits), **(config or {})))
        return made[-1]

    yield make
    for one in made:
        await one.limiter.close()


def attempt(status: str = "ok", into: int | None = 20, out: int | None = 5, **fields: Any) -> Any:
    known = into is not None
    row = {
        "attempt_id": "a",
        "request_id": "r",
        "attempt_no": 0,
        "kind": "serve",
        "endpoint": "chat/completions",
        "model": "m",
        "backend": "cheap",
        "backend_kind": "null",
        "started_ns": START,
        "ended_ns": START,
        "status": status,
        "in_uncached": into,
        "in_cache_read": 0 if known else None,
        "in_cache_write": 0 if known else None,
        "out_visible": out,
        "out_reasoning": 0 if known else None,
    }
    return msgspec.convert(row | fields, AttemptEvent)


async def test_requests_per_minute(world: Callable[..., World]) -> None:
    here = world(requests_per_minute=2)
    grant = await here.granted()
    assert grant.headers == {
        "x-ratelimit-limit-requests": "2",
        "x-ratelimit-remaining-requests": "1",
        "x-ratelimit-reset-requests": "30s",
    }
    await here.granted()
    with pytest.raises(LimitError, match=r"key=k: limit of 2 requests per minute") as caught:
        await here.admit()
    assert (caught.value.code, caught.value.status) == ("rate_limit_exceeded", 429)
    assert caught.value.retry_after_s == 30
    assert caught.value.headers["retry-after"] == "30"
    assert caught.value.headers["x-ratelimit-remaining-requests"] == "0"
    here.clock.now += 30 * 10**9
    await here.granted()


async def test_tokens_per_minute_settle_to_what_was_used(world: Callable[..., World]) -> None:
    here = world(tokens_per_minute=200)
    grant = await here.granted()
    reserved = (await here.levels())["tokens"]
    assert 117 <= reserved <= 130
    with pytest.raises(LimitError, match="tokens per minute"):
        await here.admit()
    grant.began()
    grant.ended(attempt())
    grant.finish()
    assert await here.levels() == {"tokens": 25}


async def test_a_request_that_can_never_pass_is_told_so(world: Callable[..., World]) -> None:
    here = world(tokens_per_minute=200)
    with pytest.raises(LimitError, match="ever allows") as caught:
        await here.admit(max_tokens=5000)
    assert caught.value.retry_after_s is None
    assert caught.value.headers["x-should-retry"] == "false"
    assert "retry-after" not in caught.value.headers


async def test_budget_counts_every_attempt(world: Callable[..., World]) -> None:
    here = world(budget_per_day="1", budget_total="2")
    grant = await here.granted()
    grant.began()
    grant.ended(attempt("error", None, None, error_code="upstream_timeout"))  # may be billed
    grant.began()
    grant.ended(attempt())
    grant.finish()
    need = Estimator(LimitsSettings(), BOOK).before(HI, "chat/completions", ["cheap"], START)
    assert need.nanos is not None
    used = need.nanos + 20 * 1000 + 5 * 2000
    assert await here.levels() == {"day": used, "total": used}


@pytest.mark.parametrize(
    ("code", "http", "billed"),
    [
        ("upstream_rejected", 400, False),
        ("upstream_busy", 429, False),
        ("upstream_misconfigured", 401, False),
        ("upstream_unreachable", 502, False),
        ("upstream_unreachable", 200, True),
        ("upstream_lost", 502, True),
        ("upstream_timeout", 504, True),
    ],
)
async def test_unknown_use_is_free_only_where_nobody_bills(
    world: Callable[..., World], code: str, http: int, billed: bool
) -> None:
    here = world(budget_total="1", requests_per_minute=10)
    grant = await here.granted()
    before = (await here.levels())["total"]
    grant.began()
    grant.ended(attempt("error", None, None, error_code=code, http_status=http))
    grant.finish()
    assert await here.levels() == {"requests": 1, "total": before if billed else 0}


@pytest.mark.parametrize("status", ["cancelled", "interrupted"])
async def test_a_cut_attempt_is_never_free(world: Callable[..., World], status: str) -> None:
    here = world(budget_total="1")
    known, unknown = await here.granted(), await here.granted()
    reserved = (await here.levels())["total"] // 2
    for grant in (known, unknown):
        grant.began()
    known.finish()
    known.ended(attempt(status, 20, 1, usage_source="counted"))  # later than the request
    unknown.ended(attempt(status, None, None))
    unknown.finish()
    assert await here.levels() == {"total": reserved + 22_000}


async def test_nothing_sent_is_all_released(world: Callable[..., World]) -> None:
    here = world(budget_total="1", requests_per_minute=5, tokens_per_minute=500)
    (await here.granted()).finish()
    assert await here.levels() == {"requests": 0, "tokens": 0, "total": 0}


async def test_budget_exceeded_is_an_error_of_its_own(world: Callable[..., World]) -> None:
    here = world(budget_per_month="0.0003")
    await here.granted()
    with pytest.raises(BudgetError, match=r"this month's budget of 0.0003 EUR has") as caught:
        await here.admit()
    body = caught.value.to_openai()["error"]
    assert (body["type"], body["code"]) == ("insufficient_quota", "budget_exceeded")
    # From 18 November 11:06:40 to December.
    assert caught.value.retry_after_s == 12 * 86_400 + 12 * 3600 + 53 * 60 + 20
    assert caught.value.headers["x-should-retry"] == "false"
    here.clock.now = 1_796_083_200 * 10**9
    await here.granted()


async def test_the_dearest_backend_decides(world: Callable[..., World]) -> None:
    here = world(budget_total="1")
    one = await here.granted(backends=("cheap",))
    cheap = (await here.levels())["total"]
    one.finish()
    await here.levels()
    await here.granted(backends=("cheap", "dear"))
    assert (await here.levels())["total"] > 10 * cheap


async def test_without_a_price_a_budget_admits_nothing(world: Callable[..., World]) -> None:
    with pytest.raises(UnpricedError, match="cheap, local"):
        await world(budget_total="1").admit(backends=("cheap", "local"))
    declared = {"limits": LimitsSettings(estimates={"local": "0.5"})}
    here = world(declared, budget_total="1")
    grant = await here.granted(backends=("local",))
    grant.began()
    grant.ended(attempt(backend="local"))
    grant.finish()
    assert await here.levels() == {"total": 25 * 500}
    await world(tokens_per_minute=1000).granted(backends=("local",))


@pytest.mark.parametrize("hangs", [True, False])
async def test_a_store_that_fails_closes_or_opens(world: Callable[..., World], hangs: bool) -> None:
    quick = {"limits": LimitsSettings(store_timeout_s=0.05)}
    for mode in ("open", "closed"):
        here = world(quick, requests_per_minute=1, on_store_failure=mode)
        here.store.broken, here.store.hangs = not hangs, hangs
        if mode == "open":
            assert await here.admit() is None
            assert await here.admit() is None  # at once: the store rests
            assert here.limiter.passed_unchecked == 2
        else:
            with pytest.raises(LimitStoreError) as caught:
                await here.admit()
            assert caught.value.status == 503
        here.store.broken = here.store.hangs = False
        assert here.limiter.opened is not None
        here.limiter.opened.rest_until = 0
        await here.granted()


async def test_one_closed_limit_closes_all(world: Callable[..., World]) -> None:
    shared = {"all": Shared(owner="o", requests_per_minute=5, on_store_failure="closed")}
    here = world({"limit": shared}, requests_per_minute=5, on_store_failure="open")
    here.store.broken = True
    with pytest.raises(LimitStoreError):
        await here.admit()


async def test_money_is_settled_when_the_store_is_back(world: Callable[..., World]) -> None:
    here = world(budget_total="1", tokens_per_minute=1000)
    grant = await here.granted()
    here.store.broken = True
    grant.began()
    grant.ended(attempt())
    grant.finish()
    await asyncio.sleep(0.05)
    here.store.broken = False
    assert (await here.levels())["total"] == 30_000


async def test_without_limits_there_is_no_store() -> None:
    config = Config(gateway=GatewaySettings(), limits=LimitsSettings(store="redis://nowhere:1"))
    limiter = Limiter(config, BOOK)
    await limiter.start()
    assert limiter.of(WHO) == ()
    await limiter.close()


def test_who_falls_under_which_limit() -> None:
    one = {"requests_per_minute": 1}
    config = Config(
        key={"k": KeySettings(hash="0" * 64, limits=LimitSettings(**one))},
        limit={
            "a": Shared(customer="acme", **one),
            "b": Shared(customer="*", **one),
            "c": Shared(owner="o", **one),
            "d": Shared(key="other", **one),
        },
    )
    rules = Rules(config)
    assert [limit.name for limit in rules.of(WHO)] == [
        "key.k.limits/key=k",
        "limit.a/customer=acme",
        "limit.b/customer=acme",
        "limit.c/owner=o",
    ]
    assert [limit.name for limit in rules.of(Attribution(customer="z"))] == ["limit.b/customer=z"]
    assert rules.of(Attribution()) == ()


@given(st.decimals("0", "999999999.999999999", places=9))
def test_amounts_are_exact(amount: Decimal) -> None:
    nanos = nanos_of(f"{amount:f}")
    assert Decimal(nanos) == amount * 10**9
    assert Decimal(amount_text(nanos)) == amount


TEXT = st.text(max_size=300)


@given(TEXT, st.integers(1, 4), st.integers(1, 10_000), st.integers(1, 4))
def test_the_estimate_bounds_byte_level_tokens(text: str, n: int, most: int, per: int) -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": text}], "n": n}
    estimator = Estimator(LimitsSettings(bytes_per_token=per), BOOK)
    need = estimator.before(body | {"max_tokens": most}, "chat/completions", ["cheap"], START)
    text_tokens = -(-len(text.encode()) // per)
    assert need.tokens >= text_tokens + n * most
    assert need.nanos is not None
    assert need.nanos >= text_tokens * 1000 + n * most * 2000
    assert estimator.before(body, "embeddings", ["cheap"], START).tokens < need.tokens


def test_a_picture_is_not_text() -> None:
    url = "data:image/png;base64," + "A" * 1_000_000
    body = {"messages": [{"role": "user", "content": [{"image_url": {"url": url}}]}]}
    need = Estimator(LimitsSettings(), BOOK).before(body, "embeddings", ["cheap"], START)
    assert DATA_URL_TOKENS < need.tokens < DATA_URL_TOKENS + 100


def test_buckets_of_a_limit_are_named_after_their_period() -> None:
    (limit,) = Rules(
        Config(limit={"a": Shared(owner="o", budget_per_day="1", budget_per_month="2")})
    ).of(WHO)
    names = [item.bucket.name for item in counted(limit, START // 1000)]
    assert names == ["limit.a/owner=o/2026-11-18", "limit.a/owner=o/2026-11"]
    assert all(isinstance(item.bucket, Bucket) for item in counted(limit, START // 1000))
