"""`fungible ingest`: what other systems recorded, into the ledger; one module per stream."""

import click

from fungible.cli.lazy import LazyGroup, Table

COMMANDS: Table = {
    "responses": ("fungible.cli.ingest_calls", "responses", "Logs of responses, other gateways'."),
    "traces": ("fungible.cli.ingest_calls", "traces", "Spans of model calls, OTLP files."),
    "prices": ("fungible.cli.ingest_prices", "prices", "Price sheets: CSV, YAML or XLSX."),
    "rates": ("fungible.cli.ingest_prices", "rates", "Exchange rates by day."),
    "infra": ("fungible.cli.ingest_files", "infra", "Machines, pods and deployments."),
    "invoice": ("fungible.cli.ingest_files", "invoice", "What was billed: FOCUS, AWS, CSV."),
    "steps": ("fungible.cli.ingest_steps", "steps", "What a self-hosted engine did, for its cost."),
}


@click.group(cls=LazyGroup, table=COMMANDS)
def ingest() -> None:
    """Take in what other systems recorded: responses, traces, prices, machines, invoices.

    Each import may be repeated: facts have keys of their own. Rows that cannot be used are kept
    in the `rejects` table with the reason.
    """
