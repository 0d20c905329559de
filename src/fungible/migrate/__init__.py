"""Moves traffic by evidence: shadow, canary, promoted, or refused."""
