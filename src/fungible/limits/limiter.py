"""Admits requests within their limits: the one object that a gateway talks to."""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fungible.config import Config
from fungible.contract.ids import new_id
from fungible.contract.inference import Attribution
from fungible.errors import LimitStoreError, UnpricedError
from fungible.ledger.prices import PriceBook
from fungible.limits.buckets import Decision, Hold, Settlement
from fungible.limits.estimate import Estimator
from fungible.limits.grant import Grant
from fungible.limits.opened import OpenedStore
from fungible.limits.refusals import rate_headers, refusal, strictest
from fungible.limits.rules import Counted, Limit, Need, Rules, counted
from fungible.limits.store import LimitStore, build_store

log = logging.getLogger(__name__)

_REST_S = 1.0
_SPARE_S = 60.0
_MOST_PENDING = 10_000


class Limiter:
    """Reserves before a request, settles after it.

    Requests that no limit speaks of cost one dictionary look-up and never reach the store.

    Args:
        config: Limits and how they are counted.
        book: The price sheet, for budgets and their currency.
        store: Instead of the configured one.
        clock: Nanoseconds since the epoch.
        before: Whose store it goes on counting in, if that is the configured one.

    Attributes:
        passed_unchecked: Requests let through because the store failed and their limits say
            `on_store_failure = "open"`.
        opened: What it counts in; `None` where nothing is limited.
        unsettled: Settlements given up: their holds expire, and what they used is not counted.
    """

    def __init__(
        self,
        config: Config,
        book: PriceBook,
        *,
        store: LimitStore | None = None,
        clock: Callable[[], int] = time.time_ns,
        before: "Limiter | None" = None,
    ) -> None:
        self.passed_unchecked = 0
        self.unsettled = 0
        self._rules = Rules(config)
        self._estimator = Estimator(config.limits, book)
        self._currency = book.rows[0].currency if book.rows else ""
        self._timeout_s = config.limits.store_timeout_s
        totals = [route.total_timeout_s or 0.0 for route in config.route.values()]
        self._attempt_s = max([config.gateway.total_timeout_s, *totals])
        self._clock = clock
        self.opened = self._counting_in(config, store, before)
        self._store = self.opened.store if self.opened else None
        self._grants = 0
        self._settled_all = asyncio.Event()
        self._settled_all.set()
        self._settling: set[asyncio.Task[None]] = set()

    def _counting_in(
        self, config: Config, store: LimitStore | None, before: "Limiter | None"
    ) -> OpenedStore | None:
        if store is None and self._rules.empty:
            return None
        kept = before.opened if before else None
        if store is None and kept is not None and kept.fits(config):
            return kept.shared()
        return OpenedStore(store or build_store(config), config)

    def shares(self, other: "Limiter") -> bool:
        """Whether both count in the same store, or this one in none."""
        return self.opened is None or self.opened is other.opened

    @property
    def patience_s(self) -> float:
        """Longest wait at the end for settlements under way."""
        return self._timeout_s * 2

    async def start(self) -> None:
        """Open the store. If that fails, limits do what they declare for it, and it is retried."""
        try:
            await self.open()
        except LimitStoreError as error:
            log.warning("limits are not counted until the store answers: %s", error.message)

    async def open(self) -> None:
        """Open the store, if it counts in one; `LimitStoreError` when that fails."""
        if self.opened is not None:
            await self.opened.open()

    async def retire(self) -> None:
        """Wait until everything that was granted is over, then `close`."""
        try:
            await self._settled_all.wait()
            while self._settling:
                await asyncio.wait(self._settling)
        finally:
            await self.close()

    async def close(self) -> None:
        """Wait for settlements under way, then close the store, or leave it to who shares it."""
        if self._settling:
            await asyncio.wait(self._settling, timeout=self.patience_s)
        for task in self._settling:
            task.cancel()
        opened, self.opened = self.opened, None
        if opened is not None:
            await opened.close()

    def of(self, who: Attribution) -> tuple[Limit, ...]:
        """The limits that requests of `who` fall under; empty costs nothing more."""
        return self._rules.of(who)

    async def admit(
        self,
        limits: Sequence[Limit],
        *,
        body: Mapping[str, Any],
        endpoint: str,
        backends: Sequence[str],
        tries: int,
    ) -> Grant | None:
        """Reserve what a request may use; `None` when the store failed and limits are open.

        Args:
            limits: What `of` returned; not empty.
            body: The decoded request.
            endpoint: Such as `chat/completions`.
            backends: Who may serve it; the dearest decides.
            tries: Most attempts it may make, for how long its hold must live.

        Raises:
            LimitError: A rate is reached, or (`BudgetError`) a budget.
            LimitStoreError: The store failed, and a limit says `closed`.
            UnpricedError: A budget applies, and a backend that may serve has no price.
        """
        now_ns = self._clock()
        need = self._estimator.before(body, endpoint, backends, now_ns)
        return await self.reserve(limits, need, now_ns=now_ns, tries=tries, backends=backends)

    async def reserve(
        self,
        limits: Sequence[Limit],
        need: Need,
        *,
        now_ns: int,
        tries: int = 1,
        backends: Sequence[str] = (),
    ) -> Grant | None:
        """`admit` for a request whose need is known."""
        now_us = now_ns // 1000
        items = [item for limit in limits for item in counted(limit, now_us)]
        if need.nanos is None and any(item.money for item in items):
            raise UnpricedError(
                f"a budget applies, and not every one of {', '.join(backends)} has a price",
                hint="price its tokens in the price sheet, or declare limits.estimates.NAME",
            )
        lives_us = int((tries * self._attempt_s + _SPARE_S) * 1e6)
        hold = Hold(id=new_id("hold_"), made_us=now_us, expires_us=now_us + lives_us)
        self._grants += 1
        self._settled_all.clear()
        granted = False
        try:
            decision = await self._reserve(hold, items, need)
            granted = decision.admitted
        except LimitStoreError:
            if strictest(limit.settings.on_store_failure for limit in limits) == "closed":
                raise
            self.passed_unchecked += 1
            return None
        finally:
            if not granted:
                self._over()
        if not decision.admitted:
            raise refusal(items, need, decision, now_us, self._currency)
        return Grant(
            hold=hold,
            counted=items,
            need=need,
            headers=rate_headers(items, decision.levels),
            price=self._estimator.after,
            settle=self._settle_grant,
        )

    async def _reserve(self, hold: Hold, items: Sequence[Counted], need: Need) -> Decision:
        opened = self.opened
        assert opened is not None  # noqa: S101  # there are limits, so there is a store
        if time.monotonic() < opened.rest_until:
            raise LimitStoreError("limits: their store failed a moment ago", hint="try again soon")
        try:
            async with asyncio.timeout(self._timeout_s):
                await opened.open()
                return await opened.store.reserve(hold, [item.charge(need) for item in items])
        except (LimitStoreError, TimeoutError) as error:
            log.warning("limits: the store failed: %s", str(error) or "it did not answer in time")
            opened.rest_until = time.monotonic() + _REST_S
            if isinstance(error, TimeoutError):
                # It may have been taken all the same: give it back before it expires.
                self._settle(hold, [Settlement(i.charge(need), 0) for i in items if i.money])
                raise LimitStoreError("limits: their store does not answer in time") from error
            raise

    def _settle_grant(self, hold: Hold, settlements: Sequence[Settlement]) -> None:
        self._settle(hold, settlements)
        self._over()

    def _over(self) -> None:
        self._grants -= 1
        if not self._grants:
            self._settled_all.set()

    def _settle(self, hold: Hold, settlements: Sequence[Settlement]) -> None:
        if not settlements:
            return
        if len(self._settling) >= _MOST_PENDING:
            self._give_up(hold)
            return
        task = asyncio.get_running_loop().create_task(self._settled(hold, settlements))
        self._settling.add(task)
        task.add_done_callback(self._settling.discard)

    async def _settled(self, hold: Hold, settlements: Sequence[Settlement]) -> None:
        """Settle; money is tried again until its hold expires, rates empty by themselves."""
        assert self._store is not None  # noqa: S101  # it reserved
        pause = 0.1
        while settlements:
            now_us = self._clock() // 1000
            try:
                async with asyncio.timeout(self._timeout_s):
                    await self._store.settle(hold, settlements, now_us)
                return
            except (LimitStoreError, TimeoutError):
                settlements = [item for item in settlements if not item.charge.bucket.drain]
                if now_us >= hold.expires_us:
                    break
            await asyncio.sleep(pause)
            pause = min(pause * 2, 5.0)
        if settlements:
            self._give_up(hold)

    def _give_up(self, hold: Hold) -> None:
        self.unsettled += 1
        log.error("limits: hold %s could not be settled; it expires by itself", hold.id)
