"""The embedded ledger as a ClickHouse server: the HTTP interface that its clients speak."""
