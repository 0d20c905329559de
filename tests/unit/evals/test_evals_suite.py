import collections
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from fungible.errors import ConfigError
from fungible.evals.suite import load_suite, parse_suite

REPO = Path(__file__).resolve().parents[3]
HEADER = b'{"suite": "mine"}\n'
ITEM = {
    "id": "a",
    "cluster": "c",
    "messages": [{"role": "user", "content": "Hi?"}],
    "max_tokens": 4,
    "scorer": {"kind": "exact", "answer": "hi"},
}


def line(**changes: object) -> bytes:
    return msgspec.json.encode(ITEM | changes) + b"\n"


def test_bundled_suite_is_what_its_tables_generate() -> None:
    tool = REPO / "tools/make_everyday_pack.py"
    result = subprocess.run(
        [sys.executable, tool, "--check"], check=False, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout


def test_bundled_suite_has_ten_even_clusters_and_short_prompts() -> None:
    suite = load_suite("everyday")
    clusters = collections.Counter(item.cluster for item in suite.items)
    assert len(suite.items) == 240
    assert set(clusters.values()) == {24}
    words = [sum(len(turn.text().split()) for turn in item.messages) for item in suite.items]
    assert max(words) < 30
    assert max(item.max_tokens for item in suite.items) <= 12


def test_yes_and_no_are_balanced() -> None:
    for cluster in ("facts", "reviews"):
        answers = collections.Counter(
            item.scorer.answer for item in load_suite("everyday").items if item.cluster == cluster
        )
        assert set(answers.values()) == {12}


def test_hash_follows_content_not_layout() -> None:
    one = parse_suite(HEADER + line(), "x")
    spaced = parse_suite(HEADER + b"\n" + line().replace(b":", b": "), "y")
    other = parse_suite(HEADER + line(max_tokens=5), "x")
    assert one.suite_hash == spaced.suite_hash != other.suite_hash


def test_load_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_bytes(HEADER + line() + line(id="b"))
    suite = load_suite(path)
    assert (suite.name, [item.id for item in suite.items]) == ("mine", ["a", "b"])


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "empty"),
        (HEADER, "no items"),
        (line(), "x:1.*suite"),
        (HEADER + b"{not json\n", "x:2"),
        (HEADER + b"\xff\n", "x:2"),
        (HEADER + line() + line(), "x:3.*also on line 2"),
        (HEADER + line(max_tokens="four"), r"x:2.*max_tokens"),
        (HEADER + line(max_tokens=0), r"x:2.*max_tokens"),
        (HEADER + line(messages=[]), r"x:2.*messages"),
        (HEADER + line(extra=1), "x:2.*extra"),
        (HEADER + line(scorer={"kind": "vibes"}), r"x:2.*scorer"),
        (HEADER + line(scorer={"kind": "regex", "pattern": "("}), r"x:2.*pattern"),
        (HEADER + line(scorer={"kind": "contains", "answers": []}), r"x:2.*answers"),
        (
            HEADER + line(scorer={"kind": "one_of", "choices": ["a"], "answer": "b"}),
            r"x:2.*choices",
        ),
    ],
)
def test_malformed_suite_names_line_and_field(data: bytes, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        parse_suite(data, "x")


def test_unknown_suite_names_the_bundled_ones() -> None:
    with pytest.raises(ConfigError) as caught:
        load_suite("nowhere")
    assert "everyday" in caught.value.hint
