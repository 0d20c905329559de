"""The contract's wire formats: reading answers in passing, errors, and translation between them."""
