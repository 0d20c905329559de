"""What the page's routes answer, and that the page needs nothing from elsewhere."""

import re
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from fungible.dashboard.app import STATIC, routes_from
from fungible.dashboard.snapshot import Snapshot, Totals
from fungible.errors import QueryError

OWN = sorted(
    path
    for path in STATIC.rglob("*")
    if path.suffix in {".html", ".css", ".js"} and path.parent.name != "echarts"
)


def good() -> Snapshot:
    return Snapshot(at_ms=1, totals=Totals(cost="0.000000000000000001"))


def bad() -> Snapshot:
    raise QueryError("no such column", hint="upgrade the ledger")


@pytest.fixture
def client() -> TestClient:
    return TestClient(Starlette(routes=routes_from(good)))


def test_the_page_runs_only_its_own_scripts(client: TestClient) -> None:
    answer = client.get("/")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/html")
    policy = answer.headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "script-src" not in policy, "scripts fall under default-src 'self'"
    assert "unsafe-eval" not in policy


def test_everything_the_page_names_is_served(client: TestClient) -> None:
    page = client.get("/").text
    links = re.findall(r'(?:src|href)="(static/[^"]+)"', page)
    modules = re.findall(r'from "\./([^"]+)"', "".join(p.read_text() for p in OWN))
    assert {"static/page.js", "static/page.css"} <= set(links)
    for link in {*links, *(f"static/{name}" for name in modules)}:
        answer = client.get(f"/{link}")
        assert answer.status_code == 200, link
        assert answer.headers["content-security-policy"]
    assert client.get("/static/../app.py").status_code == 404


@pytest.mark.parametrize("path", OWN, ids=lambda path: path.name)
def test_no_file_reaches_out_or_builds_markup(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"https?://(?!…)", text), "no CDN"
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", text)
    if path.suffix == ".html":
        assert not re.search(r"<script(?![^>]*\bsrc=)|\son\w+=", text), "no inline script"


def test_the_chart_library_is_whole_and_licensed() -> None:
    folder = STATIC / "echarts"
    assert (folder / "echarts.common.min.js").stat().st_size < 800_000
    for name in ("LICENSE", "NOTICE", "LICENSE-d3", "LICENSE-zrender"):
        assert (folder / name).stat().st_size > 100


def test_money_leaves_as_text(client: TestClient) -> None:
    answer = client.get("/api/live")
    assert answer.headers["cache-control"] == "no-store"
    assert answer.json()["totals"]["cost"] == "0.000000000000000001"


def test_a_ledger_that_does_not_answer_is_a_503_that_says_why() -> None:
    client = TestClient(Starlette(routes=routes_from(bad)))
    answer = client.get("/api/live")
    assert answer.status_code == 503
    assert answer.json() == {"message": "no such column", "hint": "upgrade the ledger"}
