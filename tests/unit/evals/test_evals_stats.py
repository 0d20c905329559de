import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from fungible.evals import stats


@st.composite
def tables(draw: st.DrawFn) -> tuple[int, int, int]:
    """(lost, gained, n)."""
    n = draw(st.integers(5, 400))
    lost = draw(st.integers(0, n))
    return lost, draw(st.integers(0, n - lost)), n


class TestPublishedExample:
    """Airway hyper-responsiveness before and after: 1 and 7 changed of 21.

    Fagerland, Lydersen, Laake, Statistics in Medicine 33 (2014) 2850, tables 7 and 8.
    """

    def test_tango(self) -> None:
        low, high = stats.tango_interval(1, 7, 21, 0.025)
        assert (round(low, 3), round(high, 3)) == (-0.517, -0.026)

    def test_newcombe(self) -> None:
        low, high = stats.newcombe_interval(1, 1, 7, 12)
        assert (round(low, 3), round(high, 3)) == (-0.507, -0.026)

    def test_mcnemar(self) -> None:
        assert round(stats.mcnemar_exact(1, 7), 4) == 0.0703
        assert round(stats.mcnemar_midp(1, 7), 4) == 0.0391


class TestTango:
    @given(n=st.integers(5, 2000))
    def test_without_a_change_the_bound_has_a_closed_form(self, n: int) -> None:
        z2 = scipy_stats.norm.ppf(0.95) ** 2
        assert stats.tango_interval(0, 0, n)[1] == pytest.approx(z2 / (n + z2), abs=1e-9)

    @given(table=tables())
    def test_swapping_the_sides_mirrors_the_interval(self, table: tuple[int, int, int]) -> None:
        lost, gained, n = table
        low, high = stats.tango_interval(lost, gained, n)
        mirrored = stats.tango_interval(gained, lost, n)
        assert mirrored == (pytest.approx(-high, abs=1e-9), pytest.approx(-low, abs=1e-9))
        assert -1 <= low <= (lost - gained) / n <= high <= 1

    @given(table=tables(), margin=st.floats(0.005, 0.4))
    def test_interval_and_test_agree(self, table: tuple[int, int, int], margin: float) -> None:
        lost, gained, n = table
        high = stats.tango_interval(lost, gained, n)[1]
        if abs(high - margin) > 1e-6:
            assert (high < margin) == (stats.tango_p(lost, gained, n, margin) < 0.05)

    @given(lost=st.integers(0, 30), gained=st.integers(0, 30))
    def test_one_more_loss_never_looks_better(self, lost: int, gained: int) -> None:
        before = stats.tango_interval(lost, gained, 200)[1]
        assert stats.tango_interval(lost + 1, gained, 200)[1] > before

    @pytest.mark.parametrize("n", [100, 240, 600])
    @pytest.mark.parametrize("discordance", [0.06, 0.1, 0.2])
    def test_size_at_the_margin(self, n: int, discordance: float) -> None:
        """At a true loss of exactly the margin it passes at most about 5 % of the time."""
        size = stats.power(n, discordance, 0.05, 0.05)
        assert 0.02 < size < 0.0525


class TestMcNemar:
    @given(lost=st.integers(0, 60), gained=st.integers(0, 60))
    def test_against_the_binomial_test(self, lost: int, gained: int) -> None:
        expected = scipy_stats.binomtest(lost, lost + gained).pvalue if lost + gained else 1.0
        assert stats.mcnemar_exact(lost, gained) == pytest.approx(expected)

    @given(lost=st.integers(0, 60), gained=st.integers(0, 60))
    def test_mid_p_is_smaller_and_symmetric(self, lost: int, gained: int) -> None:
        p = stats.mcnemar_midp(lost, gained)
        assert 0 < p <= stats.mcnemar_exact(lost, gained) + 1e-12
        assert p == pytest.approx(stats.mcnemar_midp(gained, lost))


class TestNewcombe:
    @given(table=tables(), both_share=st.floats(0, 1))
    def test_holds_the_estimate(self, table: tuple[int, int, int], both_share: float) -> None:
        lost, gained, n = table
        both = int((n - lost - gained) * both_share)
        low, high = stats.newcombe_interval(both, lost, gained, n - lost - gained - both)
        assert -1 <= low <= (lost - gained) / n + 1e-12
        assert (lost - gained) / n - 1e-12 <= high <= 1

    @given(successes=st.integers(0, 80), more=st.integers(0, 80))
    def test_wilson_against_scipy(self, successes: int, more: int) -> None:
        n = successes + more + 1
        expected = scipy_stats.binomtest(successes, n).proportion_ci(method="wilson")
        assert stats.wilson_interval(successes, n) == (
            pytest.approx(expected.low, abs=1e-9),
            pytest.approx(expected.high, abs=1e-9),
        )


class TestBootstrap:
    def test_close_to_the_normal_interval_for_many_units(self) -> None:
        losses = np.random.default_rng(3).normal(0.02, 0.1, 500)
        low, high = stats.bootstrap_interval(list(losses), [str(at) for at in range(500)])
        half = 1.645 * losses.std() / math.sqrt(500)
        assert low == pytest.approx(losses.mean() - half, abs=0.0015)
        assert high == pytest.approx(losses.mean() + half, abs=0.0015)

    def test_items_of_a_cluster_that_move_together_widen_it(self) -> None:
        rng = np.random.default_rng(5)
        losses = np.repeat(rng.normal(0, 0.3, 40), 10)
        clusters = [str(at // 10) for at in range(400)]
        each = [str(at) for at in range(400)]
        clustered = stats.bootstrap_interval(list(losses), clusters)
        single = stats.bootstrap_interval(list(losses), each)
        assert clustered[1] - clustered[0] > 2 * (single[1] - single[0])

    def test_equal_values_leave_doubt(self) -> None:
        low, high = stats.bootstrap_interval([0.0] * 50, [str(at) for at in range(50)])
        assert high == pytest.approx(stats.tango_interval(0, 0, 50)[1])
        assert low == pytest.approx(-high)

    def test_same_seed_same_bounds(self) -> None:
        losses = list(np.random.default_rng(2).normal(0, 1, 40))
        units = [str(at) for at in range(40)]
        first = stats.bootstrap_interval(losses, units)
        assert stats.bootstrap_interval(losses, units) == first
        assert stats.bootstrap_interval(losses, units, seed=1) != first

    def test_coverage(self) -> None:
        rng = np.random.default_rng(11)
        units = [str(at) for at in range(60)]
        missed = sum(
            stats.bootstrap_interval(
                list(rng.choice([0.0, 0.5, 1.0], 60) - 0.5), units, resamples=300
            )[1]
            < 0
            for _ in range(300)
        )
        assert missed / 300 < 0.09


class TestPlanning:
    def test_power_agrees_with_simulation(self) -> None:
        rng = np.random.default_rng(7)
        drawn = rng.multinomial(200, [0.05, 0.03, 0.92], size=4000)
        passed = [
            stats.tango_p(int(lost), int(gained), 200, 0.05) < 0.05 for lost, gained, _ in drawn
        ]
        assert stats.power(200, 0.08, 0.02, 0.05) == pytest.approx(np.mean(passed), abs=0.025)

    @pytest.mark.parametrize("discordance", [0.02, 0.08])
    def test_needed_items_have_the_power_and_fewer_do_not(self, discordance: float) -> None:
        n = stats.items_needed(0.05, discordance)
        assert stats.power(n, discordance, 0.0, 0.05) >= 0.8
        assert stats.power(int(n * 0.8), discordance, 0.0, 0.05) < 0.8

    def test_a_loss_beyond_the_margin_never_passes(self) -> None:
        with pytest.raises(ValueError, match="never passes"):
            stats.items_needed(0.05, 0.1, loss=0.05)

    @given(n=st.integers(10, 5000), discordance=st.floats(0.001, 0.5))
    def test_more_items_see_smaller_losses(self, n: int, discordance: float) -> None:
        here = stats.detectable_loss(n, discordance)
        assert 0 < stats.detectable_loss(4 * n, discordance) <= here <= 1
