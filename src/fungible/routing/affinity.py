"""Keeps a conversation where its key/value cache is, without overloading anybody.

Weighted rendezvous hashing (each backend draws a number from the key's hash, the highest wins):
when a backend comes, goes or changes its weight, only sessions of that backend move. The
bound on load is that of consistent hashing with bounded loads (Mirrokni, Thorup and
Zadimoghaddam, 2016): who has more than its share of what is under way is passed over.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

from fungible.contract.inference import InferenceRequest

# Below this many attempts under way nobody is overloaded, whatever the shares are.
FREE_LOAD = 4
_PREFIX_CHARS = 4096


def unit_hash(text: str) -> float:
    """A number in (0, 1) that depends on `text` alone."""
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=6).digest()
    return (int.from_bytes(digest, "big") + 0.5) / 2**48


def rendezvous(key: str, weights: Mapping[str, float]) -> list[str]:
    """The backends with weight in the order in which `key` prefers them.

    Over many keys each is first in proportion to its weight.
    """
    scores = {
        name: weight / -math.log(unit_hash(f"{key}/{name}"))
        for name, weight in weights.items()
        if weight > 0
    }
    return sorted(scores, key=lambda name: (-scores[name], name))


def fits(
    name: str, weights: Mapping[str, float], outstanding: Mapping[str, int], factor: float
) -> bool:
    """Whether one more attempt keeps a backend within `factor` times its share of all."""
    load = outstanding[name] + 1
    if load <= FREE_LOAD:
        return True
    total = sum(outstanding[one] for one in weights) + 1
    share = weights[name] / sum(weights.values())
    return load <= math.ceil(factor * share * total)


def affinity_key(request: InferenceRequest, affinity: str) -> str:
    """What keeps a conversation together: its session, else its stable prefix, else nothing."""
    if affinity == "none":
        return ""
    if request.attribution.session:
        return f"{request.attribution.customer}/{request.attribution.session}"
    return stable_prefix(request.body) if affinity == "prefix" else ""


def stable_prefix(body: Mapping[str, Any]) -> str:
    """A hash of what the turns of one conversation begin with: system text and first turn.

    Reads `messages` (chat, Anthropic), `instructions` and `input` (responses) or `prompt`, the
    first 4,096 characters of each text; empty when there is nothing of the kind.
    """
    parts = [str(body.get("system") or ""), str(body.get("instructions") or "")]
    turns = body.get("messages") or body.get("input") or body.get("prompt")
    if isinstance(turns, str):
        parts.append(turns)
    elif isinstance(turns, Sequence):
        for turn in turns:
            parts.append(_text(turn))
            if not isinstance(turn, dict) or turn.get("role") == "user":
                break
    if not any(parts):
        return ""
    text = "\x00".join(part[:_PREFIX_CHARS] for part in parts)
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()


def _text(turn: object) -> str:
    content = turn.get("content") if isinstance(turn, dict) else turn
    if isinstance(content, list):  # parts: text, images by URL or value
        return "".join(str(part)[:_PREFIX_CHARS] for part in content[:8])
    return str(content)
