"""`fungible up` with a real engine under load: each request pays its share of the steps."""

import signal
import subprocess
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path

import msgspec
import pytest

from fungible.config import BackendSettings, Config, EngineSettings, RouteSettings, load_config
from fungible.ingest.vllm_metrics import read_scrapes
from fungible.ledger.access import Access, open_access
from fungible.ledger.explain import explain
from fungible.ledger.prices import PriceBook
from support.control_setup import config_in, write_config
from support.processes import FUNGIBLE, ask
from support.tiny_model import build_tiny_artifact
from support.up import up

# 18 decimals leave a digit of rounding per price and lease, and none per window or request.
PRICE = Decimal("0.123456789012")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home whose engine answered a load and was stopped."""
    home = tmp_path_factory.mktemp("home")
    artifact = build_tiny_artifact(tmp_path_factory.mktemp("store"), variants=["f32"])
    engine = EngineSettings(artifact=str(artifact), variant="f32", slots=4, context=128, threads=1)
    own = BackendSettings(
        accelerator="cpu-x86", model="tiny", engine=engine, reserved_by="team-a",
        reserved_share=0.25,
    )  # fmt: skip
    config: Config = msgspec.structs.replace(
        config_in(home), backend={"own": own}, route={"tiny": RouteSettings(reference="own")}
    )
    sheet = f"key,unit,leaf,price,currency\nown,hour,,{PRICE},USD\n"
    (home / "prices.csv").write_text(sheet, encoding="utf-8")
    write_config(config)
    with up(home, config) as running:
        gateway, direct = running.ready["gateway"], running.ready["backends"]["own"]

        def one(number: int) -> int:
            words = "the rain and " * (1 + number * 7 % 6)
            body = {
                "model": "tiny",
                "messages": [{"role": "user", "content": words}],
                "max_tokens": 5 + number % 20,
                "n": 1 + number % 2,
                "temperature": 1.0,
            }
            to = direct if number % 10 == 9 else gateway  # a tenth goes around the gateway
            return ask(to, "POST", "/v1/chat/completions", body)[0]

        with ThreadPoolExecutor(6) as pool:
            assert set(pool.map(one, range(60))) == {200}
        with urllib.request.urlopen(f"{direct.removesuffix('/v1')}/metrics") as page:
            (home / "metrics.txt").write_bytes(b"# scraped 1800000000.5\n" + page.read())
        assert running.end(signal.SIGINT) == 0
    return home


@pytest.fixture(scope="module")
def ledger(home: Path) -> Iterator[Access]:
    opened = open_access(load_config(home / "config.json"))
    yield opened
    opened.close()


def test_attempts_and_idle_are_price_times_time_to_the_last_digit(ledger: Access) -> None:
    (held,) = ledger.query("SELECT max(seen_ns) - min(started_ns) FROM leases").rows[0]
    owed = (PRICE * held / Decimal(3_600_000_000_000)).quantize(Decimal("1e-18"))
    attempts, idle, deltas = ledger.query(
        "SELECT (SELECT sum(cost) FROM attempts), (SELECT sum(amount) FROM idle),"
        " (SELECT sum(delta) FROM cost_lines) + (SELECT sum(delta) FROM idle_lines)",
    ).rows[0]
    assert abs(Decimal(attempts) + Decimal(idle) - owed) <= Decimal("1e-18")
    assert Decimal(deltas) == Decimal(attempts) + Decimal(idle)
    classes = ledger.query("SELECT class, owner FROM idle GROUP BY 1, 2 HAVING sum(amount) > 0")
    assert sorted(map(tuple, classes.rows)) == [
        ("reserved_unused", "team-a"),
        ("stranded", "platform"),
        ("unattributed", "platform"),
    ]


def test_every_attempt_has_exactly_its_own_tokens_in_the_steps(ledger: Access) -> None:
    """What the engine logged under an attempt's name is what the attempt was billed for."""
    rows = ledger.query(
        "SELECT a.attempt_id, in_uncached, out_visible, p, d FROM attempts AS a LEFT JOIN"
        " (SELECT replaceRegexpOne(r, '-[0-9]+$', '') AS id, sum(pre) AS p, sum(dec) AS d,"
        " uniqExact(r) AS answers FROM engine_steps FINAL"
        " ARRAY JOIN requests AS r, prefill AS pre, decode AS dec GROUP BY id) AS s"
        " ON s.id = a.attempt_id",
    ).rows
    assert len(rows) == 54
    for attempt_id, prompt, written, prefill, decoded in rows:
        assert prefill >= prompt, attempt_id  # two answers may run the same prompt twice
        # The prefill gives an answer's first token, each decode one more.
        assert written - 2 <= decoded < written, attempt_id
    rules = ledger.query("SELECT DISTINCT rule FROM costs").rows
    assert rules in ([("steps",)], [("steps_equal",)])
    strangers = ledger.query(
        "SELECT uniqExact(replaceRegexpOne(r, '-[0-9]+$', '')) FROM engine_steps"
        " ARRAY JOIN requests AS r WHERE startsWith(r, 'req_')"
    ).rows
    assert strangers == [(6,)]


def test_the_engines_metrics_count_what_its_steps_hold(home: Path, ledger: Access) -> None:
    (scrape,) = read_scrapes((home / "metrics.txt").read_text(), "metrics.txt")
    steps = ledger.query("SELECT count(), sum(prefill_tokens) FROM engine_steps FINAL").rows
    assert steps == [(scrape.steps, scrape.prompt)]
    assert (scrape.at_ns, scrape.running) == (1_800_000_000_500_000_000, 0)
    assert scrape.generated > 0


def test_the_fit_is_on_record_and_explains_a_request(ledger: Access) -> None:
    fits = ledger.query("SELECT run, samples, r2, accepted FROM step_fits FINAL").rows
    assert fits
    assert all(samples >= 64 and r2 <= 1 for _, samples, r2, _ in fits)
    (name,) = ledger.query("SELECT request_id FROM attempts ORDER BY cost DESC LIMIT 1").rows[0]
    (why,) = explain(ledger, PriceBook(), name).attempts
    steps = why.steps
    assert steps is not None
    assert steps.steps > 4
    assert 0 < steps.share_seconds <= steps.seconds
    # The price of the share; one unit of rounding a step, and the share's own 18 digits.
    assert why.cost is not None
    owed = steps.share_seconds * PRICE / 3600
    assert abs(why.cost - owed) <= Decimal("1e-18") * (2 + steps.steps)
    assert steps.fits[0].fit.samples >= 64
    assert why.lines[-1].rule.startswith("steps")


def test_the_command_shows_the_share(home: Path, ledger: Access) -> None:
    (name,) = ledger.query("SELECT request_id FROM attempts ORDER BY cost DESC LIMIT 1").rows[0]
    ledger.close()  # the command opens it
    command = [*FUNGIBLE, "cost", "explain", name, "--config", str(home / "config.json")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert " s of it this attempt's (prefill " in done.stdout
    assert "fit of run_" in done.stdout
    assert "R² " in done.stdout
