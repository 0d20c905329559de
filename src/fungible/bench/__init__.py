"""Is it fast and cheap: recorded traffic shapes, replayed."""
