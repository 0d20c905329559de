"""What happened elsewhere, brought into the ledger."""
