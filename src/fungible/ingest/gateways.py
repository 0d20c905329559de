"""Whether a call went to one of our own gateways, by the server that a record names.

For what carries no id that the gateway knows, such as embeddings and calls that failed.
"""

from collections.abc import Sequence


def is_gateway(server: str, gateways: Sequence[str]) -> bool:
    """Whether `server` (a host, with or without a port) is one of `gateways`.

    A gateway without a port is that host at any port.
    """
    if not server or not gateways:
        return False
    host, colon, port = server.lower().rpartition(":")
    named = {server.lower(), host} if colon and port.isdecimal() else {server.lower()}
    return any(one.lower() in named for one in gateways)
