"""Why time that nobody used was paid for, and who answers for it.

Idle time of a window is split in this order, each part at most what is left:

1. **reserved_unused**: what a tenant reserved of the window and did not use; it is the tenant's.
2. **headroom**: what is kept free on purpose, so that peaks meet their deadlines. It is shared
   by the owners in proportion to what they used in the coincident peak: the busiest window of
   the clock hour before, of the same lease. What nobody can be named for is the platform's.
3. **stranded**: the rest; it is the platform's.
"""

from collections.abc import Mapping
from decimal import Decimal
from fractions import Fraction

from fungible.ledger.costing import split
from fungible.ledger.prices import IdlePolicy

PLATFORM = "platform"
RESERVED, HEADROOM, STRANDED = "reserved_unused", "headroom", "stranded"
# Not idle: steps of requests that no attempt stands for, such as a probe's. It must not vanish.
UNATTRIBUTED = "unattributed"


def split_idle(
    units: int,
    idle: int,
    policy: IdlePolicy,
    used: Mapping[str, int],
    peak: Mapping[str, int],
) -> dict[tuple[str, str], int]:
    """Idle units by (class, owner); they add up to `idle`. Stranded is there even when it is 0.

    Args:
        units: The whole window's.
        idle: What of them nobody used.
        policy: The backend's.
        used: Units by owner in this window.
        peak: Units by owner in the coincident peak.
    """
    parts: dict[tuple[str, str], int] = {}
    left = idle
    if policy.reserved_by:
        own = _part(units, policy.reserved_share) - used.get(policy.reserved_by, 0)
        unused = min(left, max(0, own))
        parts[RESERVED, policy.reserved_by] = unused
        left -= unused
    spare = min(left, _part(units, policy.headroom))
    owners = sorted(peak) if sum(peak.values()) else [PLATFORM]
    weights = [peak.get(owner, 0) for owner in owners]
    for owner, share in zip(owners, split(spare, weights), strict=True):
        key = (HEADROOM, owner or PLATFORM)
        parts[key] = parts.get(key, 0) + share
    parts = {key: share for key, share in parts.items() if share}
    parts[STRANDED, PLATFORM] = left - spare
    return parts


def _part(units: int, share: float) -> int:
    """That share of the units, rounded down; `0.1` is a tenth, whatever its binary form is."""
    exact = units * Fraction(Decimal(str(share)))
    return exact.numerator // exact.denominator
