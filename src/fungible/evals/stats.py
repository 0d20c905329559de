"""Paired statistics for "quality held", as small functions of counts.

`lost` are items that the reference had right and the candidate wrong, `gained` the reverse;
the loss is (lost − gained) / n, positive when the candidate is worse. References: Tango,
Statistics in Medicine 17 (1998) 891; Newcombe, ibid. 2635, method 10; Fagerland, Lydersen,
Laake, BMC Medical Research Methodology 13 (2013) 91 for the mid-p test; Miller,
arXiv 2411.00640, for clusters.
"""

import math
from collections.abc import Sequence
from statistics import NormalDist

from fungible.errors import MissingExtraError

try:
    import numpy as np
    from numpy.typing import NDArray
except ModuleNotFoundError as error:
    raise MissingExtraError(
        "judging results needs numpy, which is not installed",
        hint="pip install 'fungible[evals]'",
    ) from error

Floats = NDArray[np.float64]
_NORMAL = NormalDist()
RESAMPLES = 4000


def _score(lost: Floats, gained: Floats, n: int, loss: float) -> Floats:
    """Tango's score statistic of H0: the true loss is `loss`; standard normal under H0."""
    a = 2.0 * n
    b = -lost - gained + (2.0 * n - lost + gained) * loss
    c = -gained * loss * (1.0 - loss)
    q = (np.sqrt(np.maximum(b * b - 4.0 * a * c, 0.0)) - b) / (2.0 * a)
    variance = n * (2.0 * q + loss * (1.0 - loss))
    distance = lost - gained - n * loss
    with np.errstate(divide="ignore", invalid="ignore"):
        z = distance / np.sqrt(np.maximum(variance, 0.0))
    return np.where(np.abs(distance) < 1e-12, 0.0, z)


def tango_score(lost: int, gained: int, n: int, loss: float) -> float:
    """Tango's score statistic; negative when the data lose less than `loss`."""
    return float(_score(np.array(lost, float), np.array(gained, float), n, loss))


def tango_p(lost: int, gained: int, n: int, margin: float) -> float:
    """One-sided p-value of H0: the loss is at least `margin`. Small means quality held."""
    return _NORMAL.cdf(tango_score(lost, gained, n, margin))


def tango_interval(lost: int, gained: int, n: int, alpha: float = 0.05) -> tuple[float, float]:
    """Score interval of the loss; each end is a one-sided bound at level 1 − `alpha`."""
    z = _NORMAL.inv_cdf(1.0 - alpha)
    observed = (lost - gained) / n

    def solve(inside: float, outside: float, sign: float) -> float:
        for _ in range(60):
            middle = (inside + outside) / 2
            if sign * tango_score(lost, gained, n, middle) < z:
                inside = middle
            else:
                outside = middle
        return (inside + outside) / 2

    return solve(observed, -1.0, 1.0), solve(observed, 1.0, -1.0)


def mcnemar_exact(lost: int, gained: int) -> float:
    """Two-sided exact p-value of H0: a change is as likely to lose as to gain."""
    n = lost + gained
    return min(1.0, 2.0 * _binomial_cdf(min(lost, gained), n))


def mcnemar_midp(lost: int, gained: int) -> float:
    """Two-sided mid-p version: half the weight of the observed table; less conservative."""
    n, k = lost + gained, min(lost, gained)
    if n == 0:
        return 1.0
    if lost == gained:
        return 1.0 - _binomial_pmf(k, n) / 2.0
    return min(1.0, 2.0 * _binomial_cdf(k, n) - _binomial_pmf(k, n))


def newcombe_interval(
    both: int, lost: int, gained: int, neither: int, alpha: float = 0.05
) -> tuple[float, float]:
    """Two-sided interval of the loss at 1 − `alpha`, from the whole table.

    Square-and-add of Wilson intervals with the continuity-corrected correlation.
    """
    n = both + lost + gained + neither
    p1, p2 = (both + lost) / n, (both + gained) / n
    low1, high1 = wilson_interval(both + lost, n, alpha)
    low2, high2 = wilson_interval(both + gained, n, alpha)
    product = math.prod(map(float, (both + lost, gained + neither, both + gained, lost + neither)))
    cross = both * neither - lost * gained
    corrected = cross - n / 2 if cross > n / 2 else min(cross, 0.0)
    phi = corrected / math.sqrt(product) if product else 0.0
    loss = p1 - p2
    dl = _square_add(p1 - low1, high2 - p2, phi)
    du = _square_add(high1 - p1, p2 - low2, phi)
    return max(-1.0, loss - dl), min(1.0, loss + du)


def _square_add(a: float, b: float, phi: float) -> float:
    return math.sqrt(max(0.0, a * a - 2.0 * phi * a * b + b * b))


def wilson_interval(successes: int, n: int, alpha: float = 0.05) -> tuple[float, float]:
    """Two-sided score interval of one proportion at 1 − `alpha`."""
    z = _NORMAL.inv_cdf(1.0 - alpha / 2)
    p = successes / n
    centre = p + z * z / (2 * n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)


def bootstrap_interval(
    losses: Sequence[float],
    units: Sequence[str],
    alpha: float = 0.05,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> tuple[float, float]:
    """Percentile interval of the mean loss, drawing whole `units` with replacement.

    Each end is a one-sided bound at 1 − `alpha`. Neither end is closer to the mean than a
    run of as many units without any change would allow, since a bootstrap of equal values
    knows no doubt.
    """
    names = {name: at for at, name in enumerate(dict.fromkeys(units))}
    index = np.array([names[unit] for unit in units])
    sums = np.bincount(index, weights=np.asarray(losses, dtype=np.float64))
    counts = np.bincount(index).astype(np.float64)
    k = len(names)
    rng = np.random.default_rng(seed)
    means = np.empty(resamples)
    for at in range(resamples):
        drawn = rng.integers(0, k, k)
        means[at] = sums[drawn].sum() / counts[drawn].sum()
    low, high = np.quantile(means, [alpha, 1 - alpha])
    z2 = _NORMAL.inv_cdf(1.0 - alpha) ** 2
    mean, doubt = float(np.mean(losses)), z2 / (k + z2)
    return min(float(low), mean - doubt), max(float(high), mean + doubt)


def power(n: int, discordance: float, loss: float, margin: float, alpha: float = 0.05) -> float:
    """Exact probability that Tango's test with `n` items shows a loss below `margin`.

    `discordance` is the true share of items whose score changes, `loss` the true loss
    (at most `discordance`). Sums the multinomial over every (lost, gained).
    """
    p_lost, p_gained = (discordance + loss) / 2, (discordance - loss) / 2
    if not 0 <= p_gained <= p_lost + p_gained <= 1:
        raise ValueError(f"loss {loss} is not possible with discordance {discordance}")
    lost, gained = np.meshgrid(_likely(n, p_lost), _likely(n, p_gained), indexing="ij")
    possible = lost + gained <= n
    lost, gained = lost[possible], gained[possible]
    logs = _log_factorial(n)
    rest = n - lost - gained
    with np.errstate(divide="ignore", invalid="ignore"):
        log_p = logs[n] - logs[lost] - logs[gained] - logs[rest]
        for count, p in ((lost, p_lost), (gained, p_gained), (rest, 1 - discordance)):
            log_p = log_p + np.where(count > 0, count * np.log(p), 0.0)
    z = _score(lost.astype(float), gained.astype(float), n, margin)
    held = z <= -_NORMAL.inv_cdf(1.0 - alpha)
    return float(np.exp(log_p)[held].sum())


def items_needed(
    margin: float,
    discordance: float,
    *,
    loss: float = 0.0,
    alpha: float = 0.05,
    target: float = 0.8,
) -> int:
    """Items with which the test passes a candidate of true `loss` with probability `target`.

    Starts at n = (z_alpha + z_power)² · discordance / (margin − loss)² and grows by 5 %
    until the exact power is there; that formula alone is too small below 2 % discordance.

    Raises:
        ValueError: `loss` is not below `margin`: no number of items is enough.
    """
    if loss >= margin:
        raise ValueError(f"a loss of {loss} never passes a margin of {margin}")
    z = _NORMAL.inv_cdf(1 - alpha) + _NORMAL.inv_cdf(target)
    n = max(10, math.ceil(z * z * discordance / (margin - loss) ** 2))
    while n < 5000 and power(n, discordance, max(loss, -discordance), margin, alpha) < target:
        n = math.ceil(n * 1.05)
    return n


def detectable_loss(
    n: int, discordance: float, *, alpha: float = 0.05, target: float = 0.8
) -> float:
    """Smallest true loss that `n` items tell from none with probability `target`.

    (z_alpha + z_power) · sqrt(discordance / n); no loss is larger than the discordance that
    it causes, hence the floor at the solution of loss = that with discordance = loss.
    """
    z = _NORMAL.inv_cdf(1 - alpha) + _NORMAL.inv_cdf(target)
    return min(1.0, max(z * math.sqrt(discordance / n), z * z / n))


def _likely(n: int, p: float) -> NDArray[np.int64]:
    """Counts that Binomial(n, p) takes with all but about 1e-12 of its mass."""
    spread = 8 * math.sqrt(n * p * (1 - p)) + 12
    return np.arange(max(0, int(n * p - spread)), min(n, int(n * p + spread)) + 1)


def _log_factorial(n: int) -> Floats:
    return np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1)))])


def _binomial_pmf(k: int, n: int) -> float:
    log_p = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) - n * math.log(2)
    return math.exp(log_p)


def _binomial_cdf(k: int, n: int) -> float:
    return math.fsum(_binomial_pmf(at, n) for at in range(k + 1))
