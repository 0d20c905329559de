"""The items of a response: how each begins, grows and ends (OpenAI API reference, Responses)."""

from typing import Any

Item = dict[str, Any]


class OpenItem:
    """The item that an answer is adding to.

    Attributes:
        kind: `message`, `reasoning` or `function_call`.
        index: Its place in `output`.
        text: What it holds so far: text, or a call's arguments.
        part: Type of the part that is open in it; empty for calls.
        call: Id and name of a call.
        logprobs: Of the tokens so far.
    """

    def __init__(self, kind: str, index: int, item_id: str) -> None:
        self.kind = kind
        self.index = index
        self.id = item_id
        self.text = ""
        self.part = ""
        self.call: Item = {}
        self.done: list[Item] = []
        self.logprobs: list[Item] = []

    @property
    def at(self) -> Item:
        """Where an event belongs: the item, and its part if it has parts."""
        at: Item = {"item_id": self.id, "output_index": self.index}
        return at if self.kind == "function_call" else at | {"content_index": len(self.done)}

    def whole_part(self) -> Item:
        """The open part as it is now."""
        if self.part == "refusal":
            return {"type": "refusal", "refusal": self.text}
        if self.part == "reasoning_text":
            return {"type": "reasoning_text", "text": self.text}
        part: Item = {"type": "output_text", "text": self.text, "annotations": []}
        return part | {"logprobs": self.logprobs}

    def whole(self, status: str) -> Item:
        """The item as it is now."""
        if self.kind == "function_call":
            head = {"id": self.id, "type": self.kind, "status": status}
            return head | self.call | {"arguments": self.text}
        if self.kind == "reasoning":
            return {"id": self.id, "type": self.kind, "summary": [], "content": self.done}
        head = {"id": self.id, "type": "message", "role": "assistant", "status": status}
        return head | {"content": self.done}


def logprobs_of(choice: Item) -> list[Item]:
    """Log-probabilities of a choice's tokens, in the form that Responses has."""
    found = (choice.get("logprobs") or {}).get("content") or ()
    return [
        _logprob(one) | {"top_logprobs": [_logprob(top) for top in one.get("top_logprobs") or ()]}
        for one in found
    ]


def _logprob(one: Item) -> Item:
    token = one.get("token") or ""
    spelled = one.get("bytes") or list(token.encode("utf-8", "surrogatepass"))
    return {"token": token, "logprob": one.get("logprob") or 0.0, "bytes": spelled}
