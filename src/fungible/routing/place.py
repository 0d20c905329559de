"""A backend as the dispatcher sees it: how many calls it takes, and whether it is at rest."""

import asyncio

from fungible.backends.base import Backend
from fungible.config import binding_of
from fungible.routing.health import Breaker


class Place:
    """One backend with its slots and its breaker.

    Attributes:
        slots: One per call that may be under way at once.
        breaker: Open while the backend keeps failing.
        binding: What a verdict on this backend speaks for.
    """

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.name = backend.name
        self.settings = backend.settings
        self.slots = asyncio.Semaphore(backend.settings.max_concurrency)
        self.breaker = Breaker()
        self.binding = binding_of(backend.name, backend.settings)
