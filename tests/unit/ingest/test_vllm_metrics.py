"""Weights of token classes are found again in scrapes that were made from known ones."""

from pathlib import Path

import pytest

from fungible.errors import InputError
from fungible.ingest.vllm_metrics import read_scrapes, weigh_classes
from support.vllm_pages import PAGE, pages


def test_the_weights_are_found_again() -> None:
    scrapes = read_scrapes(pages(), "metrics.txt")
    assert len(scrapes) == 40
    weights = weigh_classes(scrapes, "own", "metrics.txt")
    assert (weights.backend, weights.samples, weights.at_ns) == ("own", 39, scrapes[-1].at_ns)
    assert weights.r2 > 0.999999
    assert weights.in_uncached == pytest.approx(0.0001e15, rel=1e-3)
    done = scrapes[-1].generated - scrapes[0].generated
    per_token = 0.010 * (scrapes[-1].steps - scrapes[0].steps) / done
    assert weights.out == pytest.approx((0.001 + per_token) * 1e15, rel=1e-3)
    assert weights.in_cache_read == 0
    assert weigh_classes(scrapes[::-1], "own", "metrics.txt") == weights


def test_tokens_run_are_those_that_the_engine_computed() -> None:
    (one,) = read_scrapes("# scraped 5\n" + PAGE.format(
        running=1, prompt=100, generated=3, steps=2, hits=40
    ), "x")  # fmt: skip
    assert (one.at_ns, one.prompt, one.generated, one.steps) == (5_000_000_000, 65, 3, 2)
    stamped = "\n".join(
        f"{line} 7000" for line in [
            'vllm:prompt_tokens_total{engine="0"} 100',
            'vllm:prompt_tokens_by_source_total{engine="0",source="local_compute"} 61',
            'vllm:prompt_tokens_by_source_total{engine="0",source="local_cache_hit"} 39',
            "vllm:prefix_cache_hits_total 40",
            "vllm:generation_tokens_total 3",
            "vllm:iteration_tokens_total_count 2",
        ]
    )  # fmt: skip
    (two,) = read_scrapes(stamped, "x")
    assert (two.at_ns, two.prompt) == (7_000_000_000, 61)


def test_what_cannot_weigh_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"x:1: nothing says when"):
        read_scrapes(PAGE.format(running=1, prompt=1, generated=1, steps=1, hits=0), "x")
    with pytest.raises(InputError, match=r"x:1: no sample of vllm:iteration"):
        read_scrapes("# scraped 1\nvllm:prompt_tokens_total 1\n", "x")
    with pytest.raises(InputError, match="9 intervals in which the engine was busy"):
        weigh_classes(read_scrapes(pages(10), "x"), "own", "x")
    with pytest.raises(InputError, match="0 intervals"):
        weigh_classes(read_scrapes(pages(running=0), "x"), "own", "x")
    # Every five seconds, whatever the engine did in between.
    even, at = [], 0
    for line in pages(seed=3).splitlines(keepends=True):
        if line.startswith("# scraped"):
            at += 5
        even.append(f"# scraped {1_800_000_000 + at}\n" if line.startswith("# scraped") else line)
    with pytest.raises(InputError, match="explain too little"):
        weigh_classes(read_scrapes("".join(even), "x"), "own", "x")


def test_an_engine_that_started_again_costs_one_interval() -> None:
    text = pages(20) + pages(20).replace("# scraped 18000", "# scraped 18100")
    assert weigh_classes(read_scrapes(text, "x"), "own", "x").samples == 38
