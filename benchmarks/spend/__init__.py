"""Parts of benchmarks/ledger.py: the events, our ledger, and the peer's table in PostgreSQL."""
