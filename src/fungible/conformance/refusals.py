"""What a backend says to requests that it should refuse, and to fields that it does not know."""

from fungible.conformance.asker import Asker
from fungible.conformance.finding import HONOURED, Told, degraded, ignored
from fungible.errors import UnsupportedError, UpstreamError, UpstreamRejectedError

_BAD: tuple[tuple[str, dict[str, object]], ...] = (
    ("temperature = -5", {"temperature": -5}),
    ("max_tokens = -1", {"max_tokens": -1}),
    ('messages = "hello"', {"messages": "hello"}),
    ("messages = []", {"messages": []}),
    ("stop = 7", {"stop": 7}),
)


async def bad_values(asker: Asker) -> Told:
    """Values that cannot be meant are refused with 400 or 422, not with 500 and not accepted."""
    accepted, broke = [], []
    for name, fields in _BAD:
        try:
            await asker.ask(**fields)  # type: ignore[arg-type]  # on purpose
        except (UpstreamRejectedError, UnsupportedError):
            continue
        except UpstreamError as error:
            broke.append(f"{name} ({error.upstream_status or error.code})")
        else:
            accepted.append(name)
    if not accepted and not broke:
        return HONOURED
    parts = [f"accepted: {', '.join(accepted)}"] if accepted else []
    parts += [f"failed as if it were the server's fault: {', '.join(broke)}"] if broke else []
    every = len(accepted) == len(_BAD)
    return ignored(parts[0]) if every else degraded("; ".join(parts))


async def unknown_field(asker: Asker) -> Told:
    """A field that nobody knows does not break a request."""
    await asker.ask(fungible_probe=True)
    return HONOURED
