"""What crosses the boundary: data only, no I/O."""
