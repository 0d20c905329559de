"""What a read-only user's SQL may not do although it only reads.

ClickHouse's `readonly` keeps data from being changed. It does not keep the embedded engine from
reading files: by `file()`, by a table function, by a path as the name of a table in the database
`default`. A server refuses such things by grants, which the embedded engine lacks. So the
engine's own parser is asked what a statement consists of (`EXPLAIN AST`), and every source of
rows that is not known to be harmless is refused.
"""

import re

# The embedded engine's own database, where any name of a table is the path of a file.
FILES_DATABASE = "default"
# Functions that make rows out of nothing, or of the statement itself.
_ROWS_FROM = frozenset(
    {
        *("numbers", "numbers_mt", "zeros", "zeros_mt", "generateseries", "generate_series"),
        *("generaterandom", "primes", "values", "sqlstandardvalues", "null", "format", "view"),
    }
)
# Ordinary functions that read files, or ask somebody else.
_NEVER = re.compile(r"(?i:file|catboostEvaluate|reverseDNSQuery)$|(?:ai|AI)[A-Z]")
_LIMITS = frozenset(
    {
        *("readonly", "profile", "log_comment", "max_execution_time", "timeout_overflow_mode"),
        *("max_memory_usage", "max_memory_usage_for_user", "max_result_rows", "max_result_bytes"),
        *("result_overflow_mode", "max_estimated_execution_time", "max_query_size"),
        # The older analyzer looks table functions up in more places than the newer one.
        *("enable_analyzer", "allow_experimental_analyzer", "compatibility"),
    }
)
# These name files.
_PREFIXES = ("format_template", "format_schema", "format_avro_schema", "max_execution_time_")
_NODE = re.compile(r"^( *)(\w+)(?: (.*?))?(?: \(alias .*\))?(?: \(children \d+\))?$")


def is_fixed(setting: str) -> bool:
    """Whether readers may not change this setting."""
    return setting in _LIMITS or setting.startswith(_PREFIXES)


def fixed_setting(formatted: str) -> str:
    """The first such setting that a statement with settings names; empty where there is none.

    Args:
        formatted: The statement as `formatQuery` writes it: without escapes in names.
    """
    words = re.findall(r"\w+", formatted)
    return next((word for word in words if is_fixed(word)), "")


class Parts:
    """What a statement consists of.

    Args:
        ast: The lines of `EXPLAIN AST` for it.
    """

    def __init__(self, ast: str) -> None:
        self.has_settings = False
        self._sources: list[str] = []
        self._functions: list[str] = []
        self._names: list[str] = []
        parents: list[tuple[int, str]] = []
        for line in ast.splitlines():
            match = _NODE.match(line)
            if match is None:
                continue
            depth, kind, name = len(match[1]), match[2], match[3] or ""
            while parents and parents[-1][0] >= depth:
                parents.pop()
            self._add(kind, name, parents[-1][1] if parents else "")
            parents.append((depth, kind))

    def _add(self, kind: str, name: str, parent: str) -> None:
        if kind == "Set":
            self.has_settings = True
        elif kind == "Function":
            where = self._sources if parent == "TableExpression" else self._functions
            where.append(name)
        elif kind in ("TableIdentifier", "Identifier"):
            self._names.append(name)

    def refused(self) -> str:
        """What a reader may not do, as a clause; empty where everything is allowed."""
        for name in self._sources:
            if name.lower() not in _ROWS_FROM:
                return f"the table function {name}() is not for read-only users"
        for name in self._functions:
            if _NEVER.match(name):
                return f"the function {name}() is not for read-only users"
        for name in self._names:
            if name == FILES_DATABASE or name.startswith(f"{FILES_DATABASE}."):
                return f"the database {FILES_DATABASE} reads files: it is not for read-only users"
        return ""
