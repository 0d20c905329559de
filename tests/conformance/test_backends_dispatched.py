"""Every kind of backend behind the dispatcher: chat and Messages clients, streamed and not."""

from pathlib import Path

import msgspec
import pytest

from fungible.config import Config
from fungible.contract.inference import InferenceRequest
from fungible.contract.sse import split_frames
from support.dispatching import Setup
from support.forms import ChatForm, Form, MessagesForm
from support.places import PLACES


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("form", [ChatForm(), MessagesForm()], ids=["chat", "messages"])
@pytest.mark.parametrize("kind", PLACES)
async def test_each_client_gets_its_own_format_and_the_ledger_its_counts(
    kind: str,
    form: Form,
    stream: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    place = PLACES[kind]
    for name, value in place.environment.items():
        monkeypatch.setenv(name, value)
    async with place.upstream() as upstream:
        settings = place.settings(upstream.url.removesuffix("/v1"))
        settings = msgspec.structs.replace(settings, accelerator="custom:fake")
        setup = Setup(Config(home=str(tmp_path), backend={"b": settings}))
        await setup.dispatcher.start()
        try:
            request = InferenceRequest(
                request_id="req_1",
                model="m",
                body=form.body(stream=stream, usage=True),
                stream=stream,
                endpoint=form.endpoint,
            )
            body = b"".join(await setup.ask(request, backend="b"))
        finally:
            (row,) = await setup.settled()
        assert not upstream.violations
    if stream:
        frames = split_frames(body)
        assert form.ended(frames)
        assert form.stream_text(frames) == "Grüße aus Köln"
    else:
        assert form.text(msgspec.json.decode(body)) == "Grüße aus Köln"
    assert (row.status, row.accelerator, row.endpoint) == ("ok", "custom:fake", form.endpoint)
    assert (row.in_uncached, row.out_visible, row.usage_source) == (7, 3, "provider_final")
