"""Clients that speak chat, on backends that speak Anthropic's format."""
