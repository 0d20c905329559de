import asyncio
import threading
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
from starlette.applications import Starlette

from fungible.engine.tokenizer import ChatTokenizer
from support.asgi import Call
from support.completions import completions_engine
from support.engine_setup import EOS, byte_tokens, write_tokenizer
from support.sentence_piece import sentence_piece
from support.tiny_model import CONFIG, TOKENS

RANDOM: dict[str, Any] = {"temperature": 1.5, "seed": 40, "max_tokens": 6, "ignore_eos": True}


async def until(condition: Any) -> None:
    limit = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < limit, "it never happened"
        await asyncio.sleep(0.002)


def texts(call: Call) -> list[str]:
    """The text of each choice, in order of index, whole or streamed."""
    if call.headers["content-type"] == "application/json":
        choices = call.json()["choices"]
        assert [one["index"] for one in choices] == list(range(len(choices)))
        return [one["text"] for one in choices]
    found: dict[int, str] = {}
    for event in call.events()[:-1]:
        for one in event["choices"]:
            found[one["index"]] = found.get(one["index"], "") + one["text"]
    return [found[index] for index in sorted(found)]


async def test_a_whole_answer(tokenizer: ChatTokenizer) -> None:
    async with completions_engine(tokenizer) as engine:
        call = await engine.ask().done()
    body = call.json()
    assert call.status == 200
    assert (body["object"], body["model"], body["id"][:5]) == ("text_completion", "tiny", "cmpl-")
    choice = {"index": 0, "text": "Hello é", "logprobs": None, "finish_reason": "stop"}
    assert body["choices"] == [choice]
    assert body["usage"] == {
        "prompt_tokens": 4,
        "completion_tokens": 9,
        "total_tokens": 13,
        "prompt_tokens_details": {"cached_tokens": 0},
    }


async def test_a_stream(tokenizer: ChatTokenizer) -> None:
    async with completions_engine(tokenizer) as engine:
        call = await engine.ask(stream=True, stream_options={"include_usage": True}).done()
        plain = await engine.ask(stream=True).done()
    *chunks, usage, done = call.events()
    assert done == "[DONE]"
    assert len(chunks) > 5, "it came in pieces"
    assert (usage["choices"], usage["usage"]["completion_tokens"]) == ([], 9)
    assert {chunk["id"] for chunk in chunks} == {usage["id"]}
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == "Hello é"
    reasons = [chunk["choices"][0]["finish_reason"] for chunk in chunks]
    assert reasons == [None] * (len(chunks) - 1) + ["stop"]
    assert all(event["usage"] is None and event["choices"] for event in plain.events()[:-1])


async def test_sixteen_tokens_unless_told_otherwise(tokenizer: ChatTokenizer) -> None:
    async with completions_engine(tokenizer, "x" * 100) as engine:
        short = (await engine.ask().done()).json()
        null = (await engine.ask(max_tokens=None).done()).json()
        long = (await engine.ask(max_tokens=30).done()).json()
    for body, size in ((short, 16), (null, 16), (long, 30)):
        assert body["choices"][0]["text"] == "x" * size
        assert body["choices"][0]["finish_reason"] == "length"


@pytest.mark.parametrize(
    "prompt",
    ["hi ~", ["hi ~"], byte_tokens("hi ~"), [byte_tokens("hi ~")]],
    ids=["text", "texts", "tokens", "lists of tokens"],
)
async def test_every_form_of_prompt(tokenizer: ChatTokenizer, prompt: object) -> None:
    async with completions_engine(tokenizer) as engine:
        assert texts(await engine.ask(prompt=prompt).done()) == ["Hello é"]


@pytest.mark.parametrize("stream", [False, True])
async def test_several_answers_to_several_prompts(tokenizer: ChatTokenizer, stream: bool) -> None:
    async with completions_engine(tokenizer, None) as engine:
        usage = {"stream_options": {"include_usage": True}} if stream else {}
        together = await engine.ask(
            prompt=["one", "other one"], n=3, stream=stream, **usage, **RANDOM
        ).done()
        alone = [
            texts(await engine.ask(prompt=prompt, **{**RANDOM, "seed": 40 + at}).done())[0]
            for prompt in ("one", "other one")
            for at in range(3)
        ]
    assert texts(together) == alone, "a seed grows by one from answer to answer"
    assert len(set(alone)) == 6
    body = together.events()[-2] if stream else together.json()
    tokens = len(tokenizer.encode("one")) + len(tokenizer.encode("other one"))
    assert body["usage"]["prompt_tokens"] == tokens, "each prompt counts once"
    assert body["usage"]["completion_tokens"] == 36


async def test_more_answers_than_slots(tokenizer: ChatTokenizer) -> None:
    async with completions_engine(tokenizer, "abc", slots=2) as engine:
        call = await engine.ask(n=7, stream=True).done()
    assert texts(call) == ["abc"] * 7
    ends = [one for event in call.events()[:-1] for one in event["choices"] if one["finish_reason"]]
    assert sorted(one["index"] for one in ends) == list(range(7))


@pytest.mark.parametrize("stream", [False, True])
async def test_echo(tokenizer: ChatTokenizer, stream: bool) -> None:
    async with completions_engine(tokenizer) as engine:
        text = await engine.ask(echo=True, n=2, stream=stream).done()
        tokens = await engine.ask(prompt=[1, *byte_tokens("hi ~")], echo=True, stream=stream).done()
    assert texts(text) == ["hi ~Hello é"] * 2
    assert texts(tokens) == ["<|im_start|>hi ~Hello é"]


@pytest.mark.parametrize("stream", [False, True])
async def test_log_probabilities(tokenizer: ChatTokenizer, stream: bool) -> None:
    async with completions_engine(tokenizer) as engine:
        call = await engine.ask(logprobs=2, stream=stream).done()
        bare = await engine.ask(logprobs=0).done()
    if stream:
        parts = [one["choices"][0]["logprobs"] for one in call.events()[:-1]]
        found = {name: [one for part in parts for one in part[name]] for name in parts[0]}
    else:
        found = call.json()["choices"][0]["logprobs"]
    assert found["tokens"] == [*"Hello ", "bytes:\\xc3", "bytes:\\xa9", "<|im_end|>"]
    assert found["text_offset"] == [0, 1, 2, 3, 4, 5, 6, 6, 7]
    assert all(value <= 0 for value in found["token_logprobs"])
    for name, value, top in zip(
        found["tokens"], found["token_logprobs"], found["top_logprobs"], strict=True
    ):
        assert len(top) == 2
        assert next(iter(top.items())) == (name, value)
    assert bare.json()["choices"][0]["logprobs"]["top_logprobs"] is None


async def test_the_token_itself_is_among_its_alternatives(tokenizer: ChatTokenizer) -> None:
    async with completions_engine(tokenizer, None) as engine:
        call = await engine.ask(logprobs=1, **RANDOM).done()
    found = call.json()["choices"][0]["logprobs"]
    sizes = set()
    for name, value, top in zip(
        found["tokens"], found["token_logprobs"], found["top_logprobs"], strict=True
    ):
        assert top[name] == value
        sizes.add(len(top))
    assert sizes == {1, 2}, "some draws were not the likeliest token"


@pytest.mark.parametrize(
    "fields",
    [
        {"logit_bias": {str(TOKENS.index("Z")): 100}},
        {"temperature": 5e-6, "logit_bias": {str(TOKENS.index("Z")): 100}},
        {"top_k": 1, "logit_bias": {str(TOKENS.index("Z")): 100}},
    ],
)
async def test_logit_bias(tokenizer: ChatTokenizer, fields: dict[str, Any]) -> None:
    async with completions_engine(tokenizer) as engine:
        assert texts(await engine.ask(max_tokens=4, **fields).done()) == ["ZZZZ"]


@pytest.mark.parametrize(("token", "text"), [(EOS, ""), (TOKENS.index("Z"), "Z")])
@pytest.mark.parametrize("stream", [False, True])
async def test_a_scored_prompt_always_has_one_more_token(
    tokenizer: ChatTokenizer, token: int, text: str, stream: bool
) -> None:
    """Evaluation harnesses drop the one token after the prompt, so it has to be there."""
    async with completions_engine(tokenizer, None) as engine:
        call = await engine.ask(
            prompt="abc",
            echo=True,
            max_tokens=1,
            logprobs=1,
            stream=stream,
            logit_bias={token: 100},
        ).done()
    events = call.events()[:-1] if stream else [call.json()]
    found = [one["choices"][0] for one in events]
    columns = {
        name: [value for one in found for value in one["logprobs"][name]]
        for name in ("tokens", "token_logprobs", "text_offset", "top_logprobs")
    }
    assert columns["tokens"] == ["a", "b", "c", text or "<|im_end|>"]
    assert columns["token_logprobs"][0] is None
    assert all(value < 0 for value in columns["token_logprobs"][1:])
    assert columns["text_offset"] == [0, 1, 2, 3]
    assert len(columns["top_logprobs"]) == 4
    assert found[-1]["finish_reason"] == ("length" if text else "stop")
    assert texts(call) == ["abc" + text], "the end token has no text"


@pytest.mark.parametrize(
    ("prompt", "echoed", "answer"),
    [([1], "hello", " hello"), ([0, 1, 2], "<s> hello ", " hello"), ([0], "<s>", "hello")],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_only_an_answer_that_starts_a_text_loses_its_first_space(
    tmp_path: Path, prompt: list[int], echoed: str, answer: str, stream: bool
) -> None:
    write_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text(sentence_piece().to_str())
    fields = {"logit_bias": {1: 100}, "max_tokens": 2, "logprobs": 0, "stream": stream}
    async with completions_engine(ChatTokenizer(tmp_path, CONFIG), None) as engine:
        bare = await engine.ask(prompt=prompt, **fields).done()
        whole = await engine.ask(prompt=prompt, echo=True, **fields).done()
    assert texts(bare) == [answer + " hello"]
    assert texts(whole) == [echoed + answer + " hello"]
    events = whole.events()[:-1] if stream else [whole.json()]
    offsets = [at for one in events for at in one["choices"][0]["logprobs"]["text_offset"]]
    assert offsets[-2:] == [len(echoed), len(echoed + answer)]


async def test_stop_tokens_and_fewest_tokens(tokenizer: ChatTokenizer) -> None:
    space = TOKENS.index("Ġ")
    async with completions_engine(tokenizer, "one two three") as engine:
        cut = (await engine.ask(stop_token_ids=[space]).done()).json()["choices"][0]
        later = (await engine.ask(stop=["o"], min_tokens=5).done()).json()["choices"][0]
    assert (cut["text"], cut["finish_reason"]) == ("one", "stop")
    assert (later["text"], later["finish_reason"]) == ("one tw", "stop")


@pytest.mark.parametrize("stream", [False, True])
async def test_a_stop_string_across_the_fewest_tokens(
    tokenizer: ChatTokenizer, stream: bool
) -> None:
    async with completions_engine(tokenizer, "one two three") as engine:
        across = await engine.ask(stop=["e t"], min_tokens=4, stream=stream).done()
        before = await engine.ask(stop=["e t"], min_tokens=6, stream=stream).done()
    assert texts(across) == ["on"], "it began in the third token and was complete in the fifth"
    assert texts(before) == ["one two three"]


@pytest.mark.parametrize(
    ("fields", "answers"),
    [
        ({"structured_outputs": {"choice": ["yes", "no"]}}, {"yes", "no"}),
        ({"guided_choice": ["é"]}, {"é"}),
        ({"guided_regex": "[0-7]{3}"}, {f"{one:03o}" for one in range(512)}),
        ({"guided_grammar": 'start: "a" "b"'}, {"ab"}),
        ({"guided_json": {"const": 12}}, {"12"}),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "x", "schema": {"enum": ["u", "v"]}},
                }
            },
            {'"u"', '"v"'},
        ),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_answers_in_a_form(
    tokenizer: ChatTokenizer, fields: dict[str, Any], answers: set[str], stream: bool
) -> None:
    async with completions_engine(tokenizer, None) as engine:
        call = await engine.ask(
            prompt=["one", "two"], n=2, seed=3, temperature=1.5, stream=stream, **fields
        ).done()
        any_text = await engine.ask(response_format={"type": "text"}, n=2, max_tokens=1).done()
    assert call.status == 200, call.json()
    assert len(texts(call)) == 4
    assert set(texts(call)) <= answers
    assert any_text.status == 200


@pytest.mark.parametrize("stream", [False, True])
async def test_a_prompt_is_scored_without_an_answer(tokenizer: ChatTokenizer, stream: bool) -> None:
    async with completions_engine(tokenizer, None) as engine:
        call = await engine.ask(
            prompt=["abc", "d"], max_tokens=0, echo=True, logprobs=1, stream=stream
        ).done()
    assert texts(call) == ["abc", "d"]
    events = call.events()[:-1] if stream else [call.json()]
    choices = sorted(
        (one for event in events for one in event["choices"]), key=lambda one: one["index"]
    )
    long, short = (one["logprobs"] for one in choices)
    assert (long["tokens"], long["text_offset"]) == (["a", "b", "c"], [0, 1, 2])
    assert long["token_logprobs"][0] is None
    assert all(value < 0 for value in long["token_logprobs"][1:])
    assert (short["tokens"], short["token_logprobs"]) == (["d"], [None])


async def test_penalties_reach_the_sampler(tokenizer: ChatTokenizer) -> None:
    async with completions_engine(tokenizer, "aaaaaa") as engine:
        plain = await engine.ask(temperature=0).done()
        fresh = await engine.ask(temperature=0, frequency_penalty=2, logit_bias={"5": 39.5}).done()
    assert texts(plain) == ["aaaaaa"]
    assert texts(fresh)[0][:2] == "a" + TOKENS[5]


@pytest.mark.parametrize(
    ("fields", "status", "param"),
    [
        ({"model": "gpt-4o"}, 404, "model"),
        ({"prompt": None}, 400, "prompt"),
        ({"prompt": ""}, 400, "prompt"),
        ({"prompt": []}, 400, "prompt"),
        ({"prompt": ["a", ""]}, 400, "prompt"),
        ({"prompt": 5}, 400, "prompt"),
        ({"prompt": ["a", 5]}, 400, "prompt[1]"),
        ({"prompt": [5, "a"]}, 400, "prompt[0]"),
        ({"prompt": [[5], []]}, 400, "prompt[1]"),
        ({"prompt": [[5], [True]]}, 400, "prompt[1]"),
        ({"prompt": [1 << 70]}, 400, "prompt"),
        ({"prompt": [-1]}, 400, "prompt"),
        ({"prompt": "long " * 200}, 400, "prompt"),
        ({"prompt": ["a"] * 129}, 400, "prompt"),
        ({"prompt": ["a"] * 20, "n": 7}, 400, "n"),
        ({"min_tokens": 17}, 400, "min_tokens"),
        ({"min_tokens": 5, "max_tokens": 4}, 400, "min_tokens"),
        ({"n": 0}, 400, "n"),
        ({"n": 2.5}, 400, "n"),
        ({"max_tokens": -1}, 400, "max_tokens"),
        ({"max_tokens": 0}, 400, "max_tokens"),
        ({"logprobs": 21}, 400, "logprobs"),
        ({"logprobs": True}, 400, "logprobs"),
        ({"best_of": 3}, 400, "best_of"),
        ({"best_of": 1, "n": 2}, 400, "best_of"),
        ({"suffix": "end"}, 400, "suffix"),
        ({"stream_options": {}}, 400, "stream_options"),
        ({"echo": "yes"}, 400, "echo"),
        ({"temperature": 3}, 400, "temperature"),
        ({"stop": ["a", ""]}, 400, "stop"),
        ({"logit_bias": {"x": 1}}, 400, "logit_bias"),
        ({"guided_json": {"not": {}}}, 400, "guided_json"),
        ({"guided_regex": "("}, 400, "guided_regex"),
        ({"response_format": {"type": "xml"}}, 400, "response_format.type"),
        ({"response_format": 5}, 400, "response_format"),
        ({"structured_outputs": {}, "guided_regex": 5}, 400, "guided_regex"),
        (
            {"structured_outputs": {"regex": "a"}, "response_format": {"type": "json_object"}},
            400,
            "structured_outputs.regex",
        ),
        ({"prompt_logprobs": 1, "stream": True}, 400, "prompt_logprobs"),
    ],
)
async def test_bad_requests_name_the_field(
    tokenizer: ChatTokenizer, fields: dict[str, Any], status: int, param: str
) -> None:
    async with completions_engine(tokenizer) as engine:
        call = await engine.ask(**fields).done()
    error = call.json()["error"]
    assert (call.status, error["param"]) == (status, param)
    assert error["type"] == "invalid_request_error"
    assert engine.runtime.calls == [], "nothing was run for it"


@pytest.mark.parametrize(
    ("body", "param"),
    [(b"{", None), (b"[]", None), (b"\xff", None), (b'{"model": "tiny"}', "prompt")],
)
async def test_a_body_that_is_no_request(
    tokenizer: ChatTokenizer, body: bytes, param: str | None
) -> None:
    async with completions_engine(tokenizer) as engine:
        call = await engine.post("/v1/completions", body).done()
    assert (call.status, call.json()["error"]["param"]) == (400, param)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_frees_every_slot(
    tokenizer: ChatTokenizer, stream: bool
) -> None:
    gate = threading.Semaphore(0)
    async with completions_engine(tokenizer, "x" * 90, gate=gate, slots=3) as engine:
        left = engine.ask(n=5, max_tokens=90, stream=stream)
        gate.release(6)
        await until(lambda: len(engine.runtime.calls) == 6)
        left.leave()
        await asyncio.sleep(0.01)
        gate.release(4)
        await left.done()
        await until(lambda: engine.scheduler._slots.free == 3 and not engine.scheduler._waiting)
        assert "[DONE]" not in left.body.decode()
        gate.release(1000)
        assert texts(await engine.ask(max_tokens=2).done()) == ["xx"]


async def test_when_one_answer_is_refused_the_others_are_given_up(
    tokenizer: ChatTokenizer,
) -> None:
    gate = threading.Semaphore(0)
    async with completions_engine(tokenizer, gate=gate, slots=1, max_waiting=2) as engine:
        first = engine.ask()
        await until(lambda: engine.scheduler._active)
        refused = await engine.ask(n=3).done()
        assert (refused.status, refused.headers["retry-after"]) == (429, "1")
        assert refused.json()["error"]["code"] == "upstream_busy"
        gate.release(2)
        await until(lambda: not engine.scheduler._waiting)
        gate.release(100)
        assert texts(await first.done()) == ["Hello é"]
        assert texts(await engine.ask().done()) == ["Hello é"]


@pytest.mark.parametrize(
    ("path", "fields", "param"),
    [
        ("/v1/completions", {"prompt": "~", "n": 4}, "n"),
        ("/v1/completions", {"prompt": ["~"] * 4}, "prompt"),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "~"}], "n": 4}, "n"),
    ],
)
async def test_what_could_never_start_is_refused_for_good(
    tokenizer: ChatTokenizer, path: str, fields: dict[str, Any], param: str
) -> None:
    async with completions_engine(tokenizer, slots=1, max_waiting=2) as engine:
        call = await engine.post(path, {"model": "tiny", **fields}).done()
        filled = await engine.ask(n=3).done()
    assert (call.status, call.json()["error"]["param"]) == (400, param)
    assert "hold 3 together" in call.json()["error"]["message"]
    assert "retry-after" not in call.headers
    assert texts(filled) == ["Hello é"] * 3, "an idle engine takes all that it can hold"


async def test_a_failure_breaks_the_stream_of_all(tokenizer: ChatTokenizer) -> None:
    def fault(name: str, number: int) -> None:
        if name == "decode" and number > 5:
            raise RuntimeError("device lost")

    async with completions_engine(tokenizer, fault=fault) as engine:
        call = await engine.ask(n=3, stream=True).done()
    *_, last = call.events()
    assert "device lost" in last["error"]["message"]
    assert "[DONE]" not in call.events()


async def test_a_stopped_engine_is_unavailable(tokenizer: ChatTokenizer) -> None:
    async with completions_engine(tokenizer) as engine:
        await engine.scheduler.close()
        call = await engine.ask().done()
    assert (call.status, call.headers["retry-after"]) == (503, "1")
    assert "shutting down" in call.json()["error"]["message"]


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions", "/health", "/nothing"])
async def test_every_response_names_its_request(tokenizer: ChatTokenizer, path: str) -> None:
    async with completions_engine(tokenizer) as engine:
        made = await engine.post(path, {}).done()
        kept = await with_id(engine.app, path, b"client-7").done()
        odd = await with_id(engine.app, path, b"two words").done()
    assert made.headers["x-request-id"].startswith("req_")
    assert kept.headers["x-request-id"] == "client-7"
    assert odd.headers["x-request-id"].startswith("req_")


async def test_a_bug_names_its_request_too(
    tokenizer: ChatTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def submit(_: object) -> None:
        raise ZeroDivisionError("a bug")

    async with completions_engine(tokenizer) as engine:
        monkeypatch.setattr(engine.scheduler, "submit", submit)
        body = {"model": "tiny", "prompt": "hi ~"}
        call = with_id(engine.app, "/v1/completions", b"client-8", body)
        with pytest.raises(ZeroDivisionError):
            await call.done()
    assert (call.status, call.headers["x-request-id"]) == (500, "client-8")
    assert "a bug" in call.json()["error"]["message"]


def with_id(app: Starlette, path: str, name: bytes, body: object = None) -> Call:
    async def named(scope: Any, receive: Any, send: Any) -> None:
        scope = {**scope, "headers": [*scope["headers"], (b"x-request-id", name)]}
        await app(scope, receive, send)

    return Call(named, "POST", path, body or {})


async def test_tokens_of_a_text_and_back(tokenizer: ChatTokenizer) -> None:
    text = "the sea and the é <|im_end|>"
    async with completions_engine(tokenizer) as engine:
        asked = {"model": "tiny", "prompt": text, "return_token_strs": True}
        there = (await engine.post("/tokenize", asked).done()).json()
        back = await engine.post("/detokenize", {"tokens": there["tokens"]}).done()
        turns = [{"role": "user", "content": "hi"}]
        chat = (await engine.post("/tokenize", {"messages": turns}).done()).json()
    assert there["tokens"] == tokenizer.encode(text)
    assert there["tokens"][-1] == EOS
    assert (there["count"], there["max_model_len"]) == (len(there["tokens"]), 128)
    assert there["token_strs"][-1] == "<|im_end|>"
    assert back.json() == {"prompt": text}
    assert chat["tokens"][0] == 1
    assert chat["token_strs"] is None


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/tokenize", {}, "prompt"),
        ("/tokenize", {"prompt": "a", "messages": []}, "prompt"),
        ("/tokenize", {"prompt": 5}, "prompt"),
        ("/detokenize", {}, "tokens"),
        ("/detokenize", {"tokens": [1, 10**9]}, "tokens[1]"),
        ("/detokenize", {"tokens": [], "model": "gpt-4o"}, "model"),
    ],
)
async def test_bad_tokenize_requests(
    tokenizer: ChatTokenizer, path: str, body: object, param: str
) -> None:
    async with completions_engine(tokenizer) as engine:
        call = await engine.post(path, msgspec.json.encode(body)).done()
    assert call.status in (400, 404)
    assert call.json()["error"]["param"] == param


async def test_answers_carry_the_requests_name(tokenizer: ChatTokenizer) -> None:
    gate = threading.Semaphore(0)
    async with completions_engine(tokenizer, gate=gate) as engine:
        body = {"model": "tiny", "prompt": "hi ~"}
        call = with_id(engine.app, "/v1/completions", b"client-7", body)
        await until(lambda: engine.scheduler._active)
        (sequence,) = engine.scheduler._active.values()
        assert sequence.generation.request.request_id == "client-7"
        gate.release(100)
        await call.done()
