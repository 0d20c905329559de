"""What will be judged and how, fixed and hashed before the first request."""

import hashlib

import msgspec

from fungible.evals.stats import detectable_loss, items_needed
from fungible.evals.suite import Suite

PROTOCOL = "chat temperature=0 seed=7 top_logprobs=20"
DAY_NS = 86_400 * 10**9


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """Suite, margin and every threshold.

    The margin is 5 points because that is what a suite of a few hundred items can see: with
    240 items the test passes an equal candidate with 80 % probability as long as at most
    8 % of the answers change their score; a margin of 2 points would take 1 300 items.
    Teams with larger suites should lower it.

    The distance limits bound what exceeds the reference's distance from itself (A/A), except
    for the length ratio. SmolLM2-135M-Instruct on the suite `everyday`, against f32 in ONNX
    Runtime, measured:

    ==================  =====  =======  ======  ======
    candidate           flips  KL mean  KL p99  length
    ==================  =====  =======  ======  ======
    f32 again (A/A)     0.0 %  0        0       1.00
    f32 in XLA          0.0 %  2e-11    1e-10   1.00
    int8                3.3 %  0.0045   0.03    1.02
    int4, careful       3.3 %  0.0030   0.02    1.01
    int4, naive         36 %   0.47     2.2     1.18
    ==================  =====  =======  ======  ======

    So the mean KL limit of 0.05 is ten times what faithful builds show and a tenth of what a
    broken one does; flips may reach 8 %, where 240 items still have the power said above.

    Attributes:
        margin: Largest loss that still counts as held, in score points.
        alpha: Error probability of the one-sided test.
        min_items: Fewer answered pairs than this are not judged.
        max_error_rate: Share of failed requests, on either side, beyond which a run is not judged.
        floor: A reference that scores lower cannot lose enough to be noticed.
        ceiling: A reference that scores higher answers too easy a suite.
        random_clusters: With at least so many clusters (and fewer clusters than items) they
            are a sample and are drawn whole by the bootstrap; fewer are the suite's fixed
            parts, and items are the unit.
        max_excess_flips: Of right to wrong or back.
        max_excess_kl: Mean KL of top-20 distributions, nats per token, a lower bound.
        max_excess_kl_p99: Its 99th percentile.
        length_low: Lowest ratio of emitted tokens, candidate / reference (as MLPerf Inference).
        length_high: Highest.
        max_excess_empty: Share of empty answers.
        max_excess_truncated: Share of answers cut by `max_tokens`.
        need_logprobs: Whether a run without log-probabilities is refused.
        valid_days: How long the verdict admits the candidate.
    """

    suite: str
    suite_hash: str
    items: int
    protocol: str = PROTOCOL
    margin: float = 0.05
    alpha: float = 0.05
    min_items: int = 30
    max_error_rate: float = 0.01
    floor: float = 0.10
    ceiling: float = 0.98
    random_clusters: int = 30
    max_excess_flips: float = 0.08
    max_excess_kl: float = 0.05
    max_excess_kl_p99: float = 1.0
    length_low: float = 0.9
    length_high: float = 1.1
    max_excess_empty: float = 0.02
    max_excess_truncated: float = 0.10
    need_logprobs: bool = True
    valid_days: float = 30.0

    def plan_hash(self) -> str:
        """16 hex digits over every field: two verdicts with one hash were judged alike."""
        data = msgspec.json.encode(self, order="deterministic")
        return hashlib.sha256(data).hexdigest()[:16]


def plan_for(suite: Suite, *, margin: float = 0.05) -> Plan:
    """The default plan for a suite."""
    return Plan(
        suite=suite.name, suite_hash=suite.suite_hash, items=len(suite.items), margin=margin
    )


class Foresight(msgspec.Struct, frozen=True, kw_only=True):
    """What a run can show, at an assumed share of answers that change their score.

    Attributes:
        items_needed: To pass an equal candidate with 80 % probability.
        detectable_loss: Smallest true loss told from none with 80 % probability.
    """

    discordance: float
    items_needed: int
    detectable_loss: float


def foresee(
    plan: Plan, discordances: tuple[float, ...] = (0.02, 0.04, 0.08, 0.12)
) -> list[Foresight]:
    """Items needed and detectable loss before anything is run."""
    return [
        Foresight(
            discordance=share,
            items_needed=items_needed(plan.margin, share, alpha=plan.alpha),
            detectable_loss=detectable_loss(plan.items, share, alpha=plan.alpha),
        )
        for share in discordances
    ]
