"""Size budgets: a file at most 500 lines, a function at most 60, test files at most 800.

Budgets only shrink. Prints every offender and exits 1 if there is one.
"""

import ast
import sys
from pathlib import Path

FILE_LINES, FUNCTION_LINES, TEST_FILE_LINES = 500, 60, 800
ROOT = Path(__file__).resolve().parents[1]


def offenders(path: Path, file_cap: int) -> list[str]:
    """What in one file is over its budget."""
    text = path.read_text(encoding="utf-8")
    lines = text.count("\n")
    found = (
        [f"{path.relative_to(ROOT)}: {lines} lines (cap {file_cap})"] if lines > file_cap else []
    )
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            size = (node.end_lineno or node.lineno) - node.lineno + 1
            if size > FUNCTION_LINES:
                where = f"{path.relative_to(ROOT)}:{node.lineno}"
                found.append(f"{where}: {node.name} has {size} lines (cap {FUNCTION_LINES})")
    return found


def main() -> int:
    """Exit status."""
    found = [
        line for path in sorted(ROOT.glob("src/**/*.py")) for line in offenders(path, FILE_LINES)
    ]
    for path in sorted(ROOT.glob("tests/**/*.py")):
        found += offenders(path, TEST_FILE_LINES)
    print("\n".join(found) or "sizes: all within budget")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
