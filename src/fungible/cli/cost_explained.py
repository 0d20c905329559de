"""An explained request, as text."""

from typing import Any

import click

from fungible.cli.tables import cell, moment, plain
from fungible.ledger.explain import ExplainedAttempt, ExplainedPart, Explanation
from fungible.ledger.prices import PriceRow

_SECOND_NS = 1_000_000_000


def print_explanation(why: Explanation) -> None:
    """On stdout."""
    for attempt in why.attempts:
        tokens = ", ".join(
            f"{leaf} {'unknown' if count is None else count}"
            for leaf, count in attempt.usage.items()
        )
        took = (attempt.ended_ns - attempt.started_ns) / _SECOND_NS
        click.echo(f"attempt {attempt.attempt_no} on {attempt.backend}: {attempt.status}")
        click.echo(f"  {attempt.attempt_id}, {moment(attempt.started_ns)} UTC, {took:.3f} s")
        click.echo(f"  tokens: {tokens} ({attempt.usage_source})")
        click.echo(f"  cost: {cell(attempt.cost)} {attempt.currency}".rstrip())
        for line in attempt.lines:
            state = "" if line.current else "superseded"
            state = "withdrawn" if line.withdrawn else state
            lease = f"lease {line.lease_id}" if line.lease_id else "tokens"
            parts: list[Any] = [
                moment(line.window_start_ns),
                plain(line.amount),
                line.currency,
                line.basis,
                line.rule,
                lease,
                line.price_source,
                f"fit {line.fit}" if line.fit else "",
                state,
            ]
            click.echo(f"    {'  '.join(str(part) for part in parts if part != '')}")
        _print_steps(attempt)
        for price in attempt.prices:
            per = f"{price.unit} {price.leaf}".strip()
            click.echo(f"  price {price.where}: {price.price:f} {price.currency} per {per}")
            click.echo(f"    {_price_facts(price)}")
        for part in attempt.parts:
            click.echo(f"  {_part_line(part)}")
        click.echo(f"  rule: {attempt.rule}")
        if attempt.unpriced:
            click.echo(f"  unpriced: {attempt.unpriced}")
    click.echo(f"request {why.request_id}: {cell(why.cost)}, unpriced attempts: {why.unpriced}")


def _print_steps(attempt: ExplainedAttempt) -> None:
    if (steps := attempt.steps) is not None:
        click.echo(
            f"  steps: {steps.steps} of {steps.seconds:.6f} s together, {steps.share_seconds:.6f} s"
            f" of it this attempt's (prefill {steps.prefill}, decode {steps.decode}, kv {steps.kv})"
        )
        for one in steps.fits:
            fit = one.fit
            click.echo(
                f"  fit of {one.run}: {_us(fit.step_fs)} µs a step, {_us(fit.prefill_fs)} a prompt"
                f" token, {_us(fit.decode_fs)} a decoded one, {_us(fit.kv_fs)} a token of kv;"
                f" R² {fit.r2:.3f} over {fit.samples} steps"
                f"{'' if one.accepted else ', too low to be used'}"
            )
    if (credit := attempt.cache_credit) is not None:
        click.echo(
            f"  cache: {credit.tokens} tokens were read and not run, which spared"
            f" {credit.seconds:.6f} s ({credit.source})"
        )


def _us(femtoseconds: int) -> str:
    return f"{femtoseconds / 1e9:.4g}"


def _price_facts(price: PriceRow) -> str:
    """What chose the row, and since when it is known."""
    known = f"known from {moment(price.known_ns)} UTC" if price.known_ns else "configured sheet"
    context = f"{price.context_from} to {price.context_to or 'any'}" if _banded(price) else ""
    named = {
        "basis": price.basis,
        "sheet": price.sheet,
        "issuer": price.issuer,
        "sku": price.sku,
        "tier": price.tier,
        "region": price.region,
        "input tokens": context,
        "contract": price.contract,
        "source": price.source or price.note,
    }
    said = [f"{name} {value}" for name, value in named.items() if value]
    return ", ".join([*said, known])


def _banded(price: PriceRow) -> bool:
    return bool(price.context_from or price.context_to)


def _part_line(part: ExplainedPart) -> str:
    text = f"{part.tokens} {part.leaf} at {part.price:f} ({part.where}) = {part.amount:f}"
    text = f"{text} {part.currency}"
    if part.rates:
        rates = ", ".join(
            f"{rate.base}/{rate.quote} {rate.rate.normalize():f} of {rate.day} ({rate.source})"
            for rate in part.rates
        )
        text += f" from {part.original:f} {part.original_currency} by {rates}"
    return text
