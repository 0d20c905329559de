"""The HTTP edge: the contract that product code sees."""
