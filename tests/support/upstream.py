"""The fault suite's scriptable model server, for tests."""

from faults.upstream import Script, Seen, Upstream

__all__ = ["Script", "Seen", "Upstream"]
