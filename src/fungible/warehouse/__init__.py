"""Builds the marts: the packaged dbt project, in dbt's own environment, against the ledger."""
