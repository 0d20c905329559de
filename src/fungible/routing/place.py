"""A backend as the dispatcher sees it: its slots, its breaker, and how it has done lately."""

import math
import time
from collections.abc import Callable

from fungible.backends.base import Backend
from fungible.config import binding_of
from fungible.routing.health import Breaker
from fungible.routing.slots import Slots

LATENCY_DECAY_S = 10.0


class PeakEwma:
    """How slow a backend was lately, in seconds: rises at once, falls with time.

    After the peak-sensitive moving average of Finagle's load balancers. It also falls while
    nothing is seen, so that who was slow once is tried again.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._value = 0.0
        self._at = clock()

    def note(self, seconds: float) -> None:
        """One more answer's time to its first token."""
        now = self._clock()
        keep = math.exp((self._at - now) / LATENCY_DECAY_S)
        mixed = self._value * keep + seconds * (1.0 - keep)
        self._value = max(seconds, mixed)
        self._at = now

    def value(self) -> float:
        """Seconds; 0 while nothing is known."""
        return self._value * math.exp((self._at - self._clock()) / LATENCY_DECAY_S)


class Place:
    """One backend with its slots and its breaker.

    Attributes:
        slots: One per call that may be under way at once, and the queue for them.
        breaker: Open while the backend keeps failing.
        latency: Time to the first token of streams.
        whole_latency: Time to answers that are not streamed.
        binding: What a verdict on this backend speaks for.
    """

    def __init__(self, backend: Backend, clock: Callable[[], float] = time.monotonic) -> None:
        settings = backend.settings
        self.backend = backend
        self.name = backend.name
        self.settings = settings
        self.slots = Slots(backend.name, settings.max_concurrency, settings.max_queue, clock)
        self.breaker = Breaker(clock)
        self.latency = PeakEwma(clock)
        self.whole_latency = PeakEwma(clock)
        self.binding = binding_of(backend.name, backend.settings)

    @property
    def outstanding(self) -> int:
        """Attempts under way and waiting."""
        return self.slots.held + self.slots.waiting
