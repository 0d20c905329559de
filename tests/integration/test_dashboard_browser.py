"""The page as a person sees it, in Chromium over a real ledger."""

import json
import re
import time
import urllib.request
from collections.abc import Iterator
from decimal import ROUND_HALF_EVEN, Decimal
from pathlib import Path
from typing import Any

import pytest

from support.dashboard_events import CANDIDATE, REFERENCE
from support.dashboard_server import running

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

pytest.importorskip("chdb", reason="needs the ledger extra: pip install 'fungible[ledger]'")
api = pytest.importorskip(
    "playwright.sync_api", reason="needs the browser group: uv run --group browser pytest"
)
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not CHROMIUM.exists(), reason=f"needs {CHROMIUM}: apt install chromium"),
]

WATCH_SHIFTS = """
window.shifted = 0;
new PerformanceObserver((list) => {
  for (const entry of list.getEntries()) window.shifted += entry.value;
}).observe({ type: "layout-shift", buffered: true });
"""


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=str(CHROMIUM), args=FLAGS, headless=True
        )
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running(tmp_path_factory.mktemp("page"), time.time_ns()) as (address, _):
        yield address


class Visit:
    """One open page and everything it complained about."""

    def __init__(self, browser: Any, url: str, **context: Any) -> None:
        self.context = browser.new_context(**context)
        self.page = self.context.new_page()
        self.complaints: list[str] = []
        self.page.on("console", self._console)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.add_init_script(WATCH_SHIFTS)
        self.page.goto(url)
        self.page.wait_for_selector("body[data-ready]", timeout=60_000)

    def _console(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)

    def text(self, selector: str) -> str:
        return str(self.page.locator(selector).first.inner_text())

    def wait(self, selector: str, text: str | re.Pattern[str]) -> None:
        api.expect(self.page.locator(selector).first).to_have_text(text, timeout=60_000)


@pytest.fixture
def visit(chromium: Any, url: str) -> Iterator[Visit]:
    opened = Visit(chromium, url, viewport={"width": 1440, "height": 900})
    yield opened
    opened.context.close()
    assert opened.complaints == []


def live(url: str) -> dict[str, Any]:
    with urllib.request.urlopen(url + "/api/live", timeout=60) as answer:
        snapshot: dict[str, Any] = json.load(answer)
        return snapshot


def send(url: str, *, backend: str, feature: str, count: int) -> None:
    body = json.dumps({"backend": backend, "feature": feature, "count": count}).encode()
    with urllib.request.urlopen(url + "/test/attempts", data=body, timeout=60):
        pass


def dollars(text: str) -> str:
    """Cents from 1 up, three significant digits below, half to even."""
    amount = Decimal(text)
    places = 2 if amount >= 1 or not amount else 2 - amount.adjusted()
    return f"${amount.quantize(Decimal(1).scaleb(-places), ROUND_HALF_EVEN):,f}"


def cells(visit: Visit, body: str) -> list[list[str]]:
    rows = visit.page.locator(f"#{body} tr").all()
    return [
        [cell.inner_text().strip() for cell in row.locator("th, td").all()]
        for row in rows
    ]  # fmt: skip


def test_tiles_show_the_interface_to_the_last_digit(visit: Visit, url: str) -> None:
    totals = live(url)["totals"]
    assert visit.text("#tile-requests") == f"{totals['requests']:,}"
    assert visit.text("#tile-errors") == f"{totals['error_share'] * 100:.2f} %"
    assert visit.text("#tile-cost") == dollars(totals["cost"])
    assert dollars(totals["proving_cost"]) in visit.text("#tile-cost-sub")
    assert dollars(totals["idle_cost"]) in visit.text("#tile-cost-sub")
    assert visit.text("#tile-mtok") == dollars(totals["cost_per_mtok"])
    assert f"{totals['unpriced']} attempts unpriced" in visit.text("#tile-unattributed-sub")
    assert visit.page.locator(".tiles [data-simulated]").first.is_visible()


def test_tables_show_the_interface_to_the_last_digit(visit: Visit, url: str) -> None:
    snapshot = live(url)
    shown = {row[0].split()[0]: row for row in cells(visit, "backends")}
    for row in snapshot["backends"]:
        cost, idle, per_million = shown[row["name"]][-3:]
        assert (cost, idle) == (dollars(row["cost"]), dollars(row["idle_cost"]))
        assert per_million == dollars(row["cost_per_mtok"])
        assert shown[row["name"]][5] == f"{row['attempts']:,}"
        assert shown[row["name"]][2] == (row["verdict"] or "")
    spend = [
        (cost, f"{sent:,}")
        for cost, sent in ((dollars(r["cost"]), r["tokens"]) for r in snapshot["spend"])
    ]
    assert [(row[2], row[4]) for row in cells(visit, "spend")] == spend
    assert sum(row.count("unattributed") for row in cells(visit, "spend")) == 3
    assert cells(visit, "spend-total")[0][2] == dollars(snapshot["totals"]["cost"])


def test_rounding_is_on_digits_not_on_floats(visit: Visit) -> None:
    cases = ["0", "1.005", "2.675", "0.045", "0.00012345", "999.995", "0.0999999"]
    cases += ["123456789.125", "12345678901234567890.005", "0.000000000000000001"]
    script = """async (all) => {
        const { money } = await import("/static/format.js");
        return all.map((text) => money(text, "USD"));
    }"""
    shown = visit.page.evaluate(script, cases)
    assert shown == [dollars(case) for case in cases]


def test_a_step_of_the_migration_shows_its_evidence_by_keyboard(visit: Visit) -> None:
    assert "promoted" in visit.text(".migration .badge")
    step = visit.page.locator(".steps button").nth(2)
    step.focus()
    visit.page.keyboard.press("Enter")
    assert "canary" in visit.text(".steps button[aria-pressed=true] b")
    assert "60 pairs: held with an e-value of 24.1" in visit.text(".detail")
    assert "190" in visit.text(".detail .facts")
    visit.page.wait_for_timeout(2500)
    assert "60 pairs" in visit.text(".detail"), "the next snapshot must not take the choice away"


def test_a_verdict_shows_the_numbers_that_refused(visit: Visit) -> None:
    card = visit.page.locator(".verdict", has_text="ort-int4-naive")
    assert "the 95 % bound 64.8 is above the margin of 5.0" in card.inner_text()
    assert "loss at most 64.8 pt (95 %), allowed 5.0 pt" in card.inner_text()
    assert card.locator(".track i.lost").count() == 1


def test_new_rows_appear_by_themselves(visit: Visit, url: str) -> None:
    before = live(url)["totals"]
    send(url, backend=CANDIDATE, feature="chat", count=7)
    visit.wait("#tile-requests", f"{before['requests'] + 7:,}")
    spent = Decimal(live(url)["totals"]["cost"])
    assert spent > Decimal(before["cost"])
    visit.wait("#tile-cost", dollars(str(spent)))
    visit.wait("#loop-ledger", f"{live(url)['totals']['attempts']:,} attempts")


def test_names_are_text_never_markup(visit: Visit, url: str) -> None:
    send(url, backend=REFERENCE, feature="<img src=x onerror=alert(1)>", count=1)
    visit.wait("#spend tr:has-text('onerror') td", "<img src=x onerror=alert(1)>")
    assert visit.page.locator("#spend img").count() == 0


def test_nothing_jumps_and_nothing_overflows(chromium: Any, url: str, tmp_path: Path) -> None:
    for name, width, scheme in (
        ("light", 1440, "light"),
        ("dark", 1440, "dark"),
        ("narrow", 400, "light"),
    ):
        opened = Visit(chromium, url, viewport={"width": width, "height": 900}, color_scheme=scheme)
        opened.page.evaluate("window.shifted = 0")
        opened.page.wait_for_timeout(2500)
        assert opened.page.evaluate("window.shifted") < 0.01
        assert opened.page.evaluate("document.documentElement.scrollWidth") <= width
        opened.page.screenshot(path=tmp_path / f"{name}.png", full_page=True)
        assert (tmp_path / f"{name}.png").stat().st_size > 20_000
        assert opened.complaints == []
        opened.context.close()


def test_from_empty_to_first_answer_to_a_lost_server(chromium: Any, tmp_path: Path) -> None:
    with running(tmp_path) as (url, process):
        opened = Visit(chromium, url)
        assert "No traffic yet" in opened.text("#empty-traffic")
        assert opened.text("#empty-traffic code").startswith("curl http://127.0.0.1:8080/v1/chat/")
        assert "fungible eval run" in opened.text("#empty-verdicts")
        assert opened.text("#tile-cost") == "–", "no price is not a price of 0"
        send(url, backend="ort-int4-naive", feature="chat", count=3)
        opened.wait("#tile-requests", "3")
        api.expect(opened.page.locator("#empty-traffic")).to_be_hidden(timeout=60_000)
        assert opened.complaints == []
        process.terminate()
        opened.wait("#state-word", "offline")
        assert "fungible up" in opened.text("#trouble")
        assert opened.text("#tile-requests") == "3", "the last numbers stay"
        opened.context.close()
