"""Where a request can go: one adapter a file, found by entry point."""
