"""Preflight: compile an artifact for chips nobody here has, and bound what they could do."""
