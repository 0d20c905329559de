"""The cells of a table in a CSV, YAML or XLSX file, as text, each with the place it came from."""

import csv
import io
from collections.abc import Iterator
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import msgspec
import yaml

from fungible.errors import ConfigError, InputError, MissingExtraError

XLSX = (".xlsx", ".xlsm")


class RawRow(msgspec.Struct, frozen=True, kw_only=True):
    """One row as text by column; `letters` are the spreadsheet's names of the columns."""

    cells: dict[str, str]
    line: int
    full: str
    short: str
    letters: dict[str, str] = {}

    def at(self, column: str = "") -> str:
        """Where a cell (or the row) is: `path:3`, or `path!Prices!D7`."""
        return f"{self.full}{self.letters.get(column, '')}{self.line}"

    def place(self, column: str) -> str:
        """The same with the file's name instead of its path."""
        return f"{self.short}{self.letters.get(column, '')}{self.line}"

    def get(self, column: str) -> str:
        """The cell's text; empty where the column is not there."""
        return self.cells.get(column, "")


class Columns(msgspec.Struct, frozen=True, kw_only=True):
    """Which columns a table may and must have."""

    known: tuple[str, ...]
    required: tuple[str, ...]

    def check(self, at: str, names: list[str]) -> None:
        """Raise for a column that is unknown, missing, or there twice."""
        for name in names:
            if name not in self.known:
                hint = f"known: {', '.join(self.known)}"
                raise ConfigError(f"{at}: unknown column {name!r}", hint=hint)
            if names.count(name) > 1:
                raise ConfigError(f"{at}: column {name!r} is there twice")
        for name in self.required:
            if name not in names:
                raise ConfigError(f"{at}: column {name!r} is missing")


def read_rows(path: Path, columns: Columns, worksheet: str = "") -> Iterator[RawRow]:
    """The rows of a file, in order.

    Args:
        path: Its ending decides: `.xlsx`, `.yaml` (or `.yml`), else CSV.
        columns: What the header may say.
        worksheet: Of a workbook, see `worksheet_of`.

    Raises:
        ConfigError: It is not such a file; names the line or the cell.
        MissingExtraError: A workbook, and the `sheets` extra is not installed.
    """
    if path.suffix.lower() in XLSX:
        yield from _workbook_rows(path, columns, worksheet)
        return
    text = read_text(path)
    yaml_file = path.suffix.lower() in (".yaml", ".yml")
    yield from (_yaml_rows if yaml_file else csv_rows)(path, text, columns)


def read_text(path: Path) -> str:
    """A text file, UTF-8 with or without a mark."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such file", hint="check the path") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error


def csv_rows(path: Path, text: str, columns: Columns) -> Iterator[RawRow]:
    """Rows of CSV with a header; lines that are empty or begin with `#` are left out."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    header: list[str] = []
    full, short = f"{path}:", f"{path.name}:"
    try:
        for cells in reader:
            line = reader.line_num
            if not any(cell.strip() for cell in cells) or cells[0].lstrip().startswith("#"):
                continue
            if not header:
                header = [cell.strip() for cell in cells]
                columns.check(f"{path}:{line}", header)
                continue
            if len(cells) > len(header):
                raise ConfigError(
                    f"{path}:{line}: {len(cells)} cells, but the header has {len(header)}",
                    hint='put a cell that holds a comma in "double quotes"',
                )
            raw = dict(zip(header, map(str.strip, cells), strict=False))
            yield RawRow(cells=raw, line=line, full=full, short=short)
    except csv.Error as error:
        raise ConfigError(f"{path}:{reader.line_num}: not valid CSV: {error}") from error
    if not header:
        hint = f"the first line is {','.join(columns.known)}"
        raise ConfigError(f"{path}:1: no header", hint=hint)


def _yaml_rows(path: Path, text: str, columns: Columns) -> Iterator[RawRow]:
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from error
    if not isinstance(root, yaml.SequenceNode):
        raise ConfigError(f"{path}:1: a price sheet in YAML is a list of mappings")
    for node in root.value:
        line = node.start_mark.line + 1
        if not isinstance(node, yaml.MappingNode):
            raise ConfigError(f"{path}:{line}: not a mapping of column to value")
        raw = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode) or not isinstance(value, yaml.ScalarNode):
                raise ConfigError(f"{path}:{key.start_mark.line + 1}: values must be single")
            null = value.tag == "tag:yaml.org,2002:null"
            raw[key.value] = "" if null else value.value.strip()
        columns.check(f"{path}:{line}", list(raw))
        yield RawRow(cells=raw, line=line, full=f"{path}:", short=f"{path.name}:")


def worksheet_of(path: Path, asked: str) -> str:
    """The worksheet to read: the one asked for, the only one, or the one named Prices.

    Raises:
        InputError: There is none of that name, or it is not clear which.
    """
    if path.suffix.lower() not in XLSX:
        return ""
    book = _open(path)
    try:
        names = list(book.sheetnames)
    finally:
        book.close()
    if asked in names:
        return asked
    likely = names if len(names) == 1 else [name for name in names if name.lower() == "prices"]
    if asked or len(likely) != 1:
        what = f"no worksheet {asked!r}" if asked else "several worksheets"
        raise InputError(f"{path}: {what}", hint=f"--sheet is one of: {', '.join(names)}")
    return str(likely[0])


def _workbook_rows(path: Path, columns: Columns, worksheet: str) -> Iterator[RawRow]:
    name = worksheet_of(path, worksheet)
    full, short = f"{path}!{name}!", f"{path.name}!{name}!"
    book = _open(path)
    header: dict[str, str] = {}
    try:
        for cells in book[name].iter_rows():
            texts = {cell.column_letter: _cell_text(full, cell) for cell in cells if _holds(cell)}
            if not texts or next(iter(texts.values())).startswith("#"):
                continue
            line = next(cell.row for cell in cells if _holds(cell))
            if not header:
                header = texts
                columns.check(f"{full}{line}", list(texts.values()))
                continue
            if beside := [letter for letter in texts if letter not in header]:
                raise ConfigError(f"{full}{beside[0]}{line}: a cell without a column name above")
            yield RawRow(
                cells={column: texts.get(letter, "") for letter, column in header.items()},
                line=line,
                full=full,
                short=short,
                letters={column: letter for letter, column in header.items()},
            )
    finally:
        book.close()
    if not header:
        raise ConfigError(f"{full}A1: no header", hint=f"columns: {', '.join(columns.known)}")


def _holds(cell: Any) -> bool:  # noqa: ANN401  # openpyxl has no types
    return cell.value is not None and str(cell.value).strip() != ""


def _cell_text(full: str, cell: Any) -> str:  # noqa: ANN401
    """A cell as a person typed it. A spreadsheet keeps 15 digits of a number, no more."""
    value = cell.value
    if cell.data_type == "e":
        raise ConfigError(f"{full}{cell.coordinate}: the cell holds the error {value}")
    if isinstance(value, bool):
        return str(value).upper()
    if isinstance(value, float):
        return f"{Decimal(f'{value:.15g}'):f}"
    if isinstance(value, datetime):
        midnight = value.time() == datetime.min.time()
        return value.date().isoformat() if midnight else value.isoformat()
    return str(value).strip()


def _open(path: Path) -> Any:  # noqa: ANN401
    try:
        from openpyxl import load_workbook  # noqa: PLC0415  # an extra
        from openpyxl.utils.exceptions import InvalidFileException  # noqa: PLC0415
    except ImportError as error:
        raise MissingExtraError(
            f"{path}: XLSX files need openpyxl",
            hint="run: pip install 'fungible[sheets]', or save the sheet as CSV",
        ) from error
    try:
        return load_workbook(path, read_only=True, data_only=True)
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such file", hint="check the path") from error
    except (OSError, KeyError, ValueError, BadZipFile, InvalidFileException) as error:
        raise ConfigError(f"{path}: not an XLSX workbook: {error}") from error
