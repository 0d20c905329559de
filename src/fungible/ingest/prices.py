"""Price sheets into the ledger: whole or not at all, known from a moment on.

An import replaces what its sheet said before, from `known_ns` on; what was known earlier stays
known as of then. The same sheet again changes nothing.
"""

from collections.abc import Sequence
from decimal import Decimal

import msgspec

from fungible.config import Config
from fungible.contract.streams import PriceFact
from fungible.errors import ConfigError, InputError
from fungible.ingest.intake import Intake, Receipt, digest_of
from fungible.ledger.known_prices import RECEIPTS, imported_rows
from fungible.ledger.prices import FOREVER, PriceRow
from fungible.ledger.queries import Queryable
from fungible.ledger.sheets import check_rows, configured_rows
from fungible.ledger.spool import SpoolWriter


class PriceImport(msgspec.Struct, frozen=True, kw_only=True):
    """A checked import, ready to be written.

    Attributes:
        unchanged: The sheet says this already; there is nothing to write.
    """

    sheet: str
    known_ns: int
    facts: list[PriceFact]
    unchanged: bool


def plan_import(
    config: Config, source: Queryable, sheet: str, rows: Sequence[PriceRow], known_ns: int
) -> PriceImport:
    """Check a sheet against everything else that is known.

    Args:
        config: Names the configured sheet.
        source: The ledger.
        sheet: Name of the sheet; its earlier imports are replaced.
        rows: All of its rows; none of them withdraws the sheet.
        known_ns: Since when we know it.

    Raises:
        ConfigError: A price contradicts one of another sheet; names both cells.
        InputError: The sheet was imported as known at that very moment with other rows.
    """
    digest = digest_of([sheet, [_says(row) for row in rows]])
    found = source.query(
        "SELECT known_ns, any(digest) FROM price_rows FINAL"
        " WHERE sheet = {sheet:String} AND known_ns <= {known:Int64}"
        " GROUP BY known_ns ORDER BY known_ns DESC LIMIT 1",
        {"sheet": sheet, "known": known_ns},
    ).rows
    newest, before = found[0] if found else (-1, "")
    held = [row for row in imported_rows(source, known_ns) if row.sheet == sheet]
    unchanged = before == digest and len(held) == len(rows)
    if newest == known_ns and before != digest:
        raise InputError(
            f"{sheet} was imported already as known at that moment, with other rows",
            hint="give a later --known-at",
        )
    for moment in {known_ns, FOREVER}:
        others = [row for row in imported_rows(source, moment) if row.sheet != sheet]
        check_rows([*configured_rows(config), *others, *rows])
    # What a crash left half-written at this moment is written again, under the same keys.
    facts = _facts(sheet, rows, known_ns, digest)
    return PriceImport(sheet=sheet, known_ns=known_ns, facts=facts, unchanged=unchanged)


def write_import(
    spool: SpoolWriter, planned: PriceImport, skipped: Sequence[tuple[str, str]] = ()
) -> Receipt:
    """Put an import into the spool; its receipt goes last, and makes it count.

    `skipped` are places that gave no row, with the reason.
    """
    digest = planned.facts[0].digest
    with Intake(spool, stream=RECEIPTS, source=planned.sheet, digest=digest) as intake:
        for fact in planned.facts:
            intake.take(fact)
        for place, reason in skipped:
            intake.reject(place, reason, reason)
    return intake.receipt()


def refuse_empty(path: str, rows: Sequence[PriceRow]) -> None:
    """Raise where a file holds no price: that is rather a mistake than a withdrawal."""
    if not rows:
        raise ConfigError(
            f"{path}: no price in it",
            hint="end prices by valid_to, or withdraw the whole sheet with --withdraw NAME",
        )


def _says(row: PriceRow) -> list[object]:
    return [*row.decides(), row.contract, row.source, row.note, row.where]


def _facts(sheet: str, rows: Sequence[PriceRow], known_ns: int, digest: str) -> list[PriceFact]:
    if not rows:
        gone = PriceFact(
            sheet=sheet,
            known_ns=known_ns,
            row=0,
            digest=digest,
            key="",
            unit="",
            leaf="",
            price=Decimal(0),
            currency="",
            note="withdrawn",
        )
        return [gone]
    return [
        PriceFact(
            sheet=sheet,
            known_ns=known_ns,
            row=at,
            digest=digest,
            key=row.key,
            unit=row.unit,
            leaf=row.leaf,
            price=row.price,
            currency=row.currency,
            basis=row.basis,
            issuer=row.issuer,
            sku=row.sku,
            tier=row.tier,
            region=row.region,
            context_from=row.context_from,
            context_to=row.context_to,
            contract=row.contract,
            valid_from_ns=row.from_ns,
            valid_to_ns=row.to_ns,
            note="; ".join(filter(None, (row.source, row.note))),
            place=row.where,
        )
        for at, row in enumerate(rows)
    ]
