"""Says every second which engines hold an accelerator, so that idle time has a price too."""

import asyncio
import time
from collections.abc import Callable

import msgspec

from fungible.contract.events import LeaseEvent
from fungible.contract.ids import new_id
from fungible.errors import DiskError
from fungible.ledger.spool import SpoolWriter

HEARTBEAT_S = 1.0


class Leases:
    """The leases that this supervisor holds. Use from one event loop."""

    def __init__(self, spool: SpoolWriter) -> None:
        self._spool = spool
        self._held: dict[str, LeaseEvent] = {}

    async def begin(self, backend: str, accelerator: str, started_ns: int) -> None:
        """The backend's engine holds its accelerator since `started_ns`."""
        lease = LeaseEvent(
            lease_id=new_id("lea_"),
            backend=backend,
            accelerator=accelerator,
            started_ns=started_ns,
            seen_ns=time.time_ns(),
        )
        await self._spool.commit(lease)
        self._held[backend] = lease

    async def end(self, *backends: str) -> None:
        """Their engines are gone, as of now."""
        now = time.time_ns()
        ended = [
            msgspec.structs.replace(lease, seen_ns=now, ended=True)
            for name in backends
            if (lease := self._held.pop(name, None)) is not None
        ]
        if ended:
            await self._spool.commit(*ended)

    async def keep(self, report: Callable[[str], None]) -> None:
        """Repeat every lease each second, until cancelled.

        A full disk does not end the engines: it is reported, and the next heartbeat that can
        be written makes up for those that were lost.
        """
        while True:
            await asyncio.sleep(HEARTBEAT_S)
            now = time.time_ns()
            for name, lease in self._held.items():
                self._held[name] = msgspec.structs.replace(lease, seen_ns=now)
            if not self._held:
                continue
            try:
                await self._spool.commit(*self._held.values())
            except DiskError as error:
                report(error.message)
