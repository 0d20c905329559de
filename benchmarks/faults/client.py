"""One request to a gateway, and what its client saw."""

import dataclasses
import http.client
import json
from urllib.parse import urlsplit

from faults.catalogue import Fault, Verdict

PATIENCE_S = 10.0


@dataclasses.dataclass(kw_only=True)
class Seen:
    """What came back.

    Attributes:
        ended: Whether the HTTP message itself was complete; a cut connection leaves it open.
        hung: Nothing more came for `PATIENCE_S`.
    """

    status: int = 0
    headers: dict[str, str] = dataclasses.field(default_factory=dict)
    body: bytes = b""
    ended: bool = False
    hung: bool = False

    def events(self) -> list[str]:
        """The data of every server-sent event (WHATWG HTML, 9.2)."""
        found = []
        for block in self.body.decode(errors="replace").replace("\r\n", "\n").split("\n\n"):
            lines = [
                line[5:].removeprefix(" ") for line in block.split("\n") if line[:5] == "data:"
            ]
            if lines:
                found.append("\n".join(lines))
        return found

    @property
    def done(self) -> bool:
        """Whether a stream said `[DONE]`."""
        return "[DONE]" in self.events()


def ask(
    url: str,
    model: str,
    *,
    stream: bool,
    headers: dict[str, str] | None = None,
    leave_after: int = 0,
    patience_s: float = PATIENCE_S,
    **fields: object,
) -> Seen:
    """Send a chat request and read all of its answer.

    Args:
        url: Of the endpoint.
        model: The model, which picks the fault.
        stream: Whether to ask for a stream.
        headers: Beside the content type.
        leave_after: Close the connection after so many bytes of a body; 0 stays.
        patience_s: Longest silence.
        fields: Of the request's body, instead of the usual ones.
    """
    where = urlsplit(url)
    body = {"model": model, "messages": [{"role": "user", "content": "Hi"}], "stream": stream}
    seen = Seen()
    connection = http.client.HTTPConnection(
        where.hostname or "", where.port or 80, timeout=patience_s
    )
    try:
        connection.request(
            "POST",
            where.path,
            json.dumps({**body, **fields}),
            {"Content-Type": "application/json", **(headers or {})},
        )
        answer = connection.getresponse()
        seen.status = answer.status
        seen.headers = {name.lower(): value for name, value in answer.getheaders()}
        _read(answer, seen, leave_after)
    except TimeoutError:
        seen.hung = True
    except (OSError, http.client.HTTPException):
        pass  # cut: what came before it is in `seen`
    finally:
        connection.close()
    return seen


def _read(answer: http.client.HTTPResponse, seen: Seen, leave_after: int) -> None:
    while data := answer.read1(65536):
        seen.body += data
        if leave_after and len(seen.body) >= leave_after:
            return
    # http.client raises for a cut chunked body, but not for one shorter than was announced.
    seen.ended = not answer.length


def judge(seen: Seen, fault: Fault, text: str) -> Verdict:
    """In one word, what a client would make of it.

    `silent cut`: an answer with status 200 stops without its end and without an error;
    `false end`: it is said to be complete, but part of the answer is missing.
    """
    if seen.hung:
        return "hang"
    if seen.status >= 400:
        return "error" if b"error" in seen.body or b"message" in seen.body else "silent cut"
    return _stream(seen, text) if fault.stream else _whole(seen, text)


def _stream(seen: Seen, text: str) -> Verdict:
    said = ""
    for data in seen.events():
        if data == "[DONE]":
            continue
        try:
            event = json.loads(data)
        except ValueError:
            return "wrong text"
        if event.get("error"):
            return "false end" if seen.done else "error"
        for choice in event.get("choices") or ():
            said += (choice.get("delta") or {}).get("content") or ""
    if not seen.done:
        return "silent cut"
    if said == text:
        return "whole"
    return "false end" if text.startswith(said) else "wrong text"


def _whole(seen: Seen, text: str) -> Verdict:
    if not seen.ended:
        return "silent cut"
    try:
        answer = json.loads(seen.body)
    except ValueError:
        return "wrong text"
    if not isinstance(answer, dict) or not answer.get("choices"):
        return "error" if "error" in str(answer) else "wrong text"
    said = answer["choices"][0]["message"].get("content") or ""
    return "whole" if said == text else "wrong text"
