"""Asks the limiter for a request's grant, in the terms of routes and requests."""

from collections.abc import Sequence

from fungible.contract.inference import InferenceRequest
from fungible.limits.grant import Grant
from fungible.limits.limiter import Limiter
from fungible.routing.table import Route


async def granted(limiter: Limiter, request: InferenceRequest, route: Route) -> Grant | None:
    """A grant for the request; `None` where no limit applies, or none can be counted.

    Raises:
        LimitError: A limit is reached.
        LimitStoreError: The store failed, and a limit says `closed`.
        UnpricedError: A budget applies, and a backend that may serve has no price.
    """
    limits = limiter.of(request.attribution)
    if not limits:
        return None
    backends = may_serve(route)
    return await limiter.admit(
        limits,
        body=request.body,
        endpoint=request.endpoint,
        backends=backends,
        tries=max(0, route.retries) + len(backends),
    )


def may_serve(route: Route) -> Sequence[str]:
    """Every backend that the route may send a request to."""
    shares = [name for name, weight in route.weights.items() if weight > 0]
    return sorted({*(shares or [route.reference]), *route.fallback})
