"""Clients that speak Anthropic's format, on backends that speak chat."""
