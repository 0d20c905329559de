"""What a backend honours, found out by asking it; drift between two such reports."""
