# `just` lists these; each is one plain command, usable without just.

default: lint test

# format in place
format:
    uv run --group lint ruff format .
    uv run --group lint ruff check --fix .

# everything that CI checks before the tests
lint:
    uv run --group lint ruff format --check .
    uv run --group lint ruff check .
    uv run --group lint mypy
    uv run --group lint lint-imports
    uv run python tools/check_sizes.py

# the README's test command
test *ARGS:
    uv run pytest {{ARGS}}

# tests of the page in a real browser (needs Debian's chromium)
browser:
    uv run --group browser pytest -m browser

# the whole loop through the command line
e2e:
    uv run pytest --e2e -m e2e

quickstart *ARGS:
    uv run fungible quickstart {{ARGS}}

# what CI runs, from a fresh environment
ci:
    bash .ci/run
