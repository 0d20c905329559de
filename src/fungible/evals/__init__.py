"""Is it still right: suites, scores, and a paired verdict."""
