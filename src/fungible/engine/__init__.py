"""Runs one artifact on one local target and speaks the serving contract."""
