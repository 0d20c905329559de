"""`python -m fungible` is the same as `fungible`."""

from fungible.cli.main import main

main()
