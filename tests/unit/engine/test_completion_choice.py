"""Echoed prompts with their scores, from outputs made by hand."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fungible.engine.bare_prompt import BarePrompt, read_prompt, spell
from fungible.engine.completion_choice import ChoiceWriter, Shown
from fungible.engine.generation import Output
from fungible.engine.sampler import Sampled
from fungible.engine.tokenizer import ChatTokenizer
from fungible.errors import EngineError, RequestError
from support.engine_setup import byte_tokens
from support.tiny_model import TOKENS


def sampled(text: str, logprob: float, *others: tuple[str, float]) -> Sampled:
    """A one-byte token with its alternatives."""
    top = tuple((byte_tokens(other)[0], value) for other, value in others)
    return Sampled(byte_tokens(text)[0], logprob, top)


def test_an_echoed_prompt_is_scored_from_its_second_token_on(tokenizer: ChatTokenizer) -> None:
    prompt = BarePrompt(tokens=tuple(byte_tokens("abc")), text="abc")
    writer = ChoiceWriter(0, prompt, Shown(echo=True, logprobs=2), tokenizer)
    first = writer.choice(
        Output(
            text="d",
            prompt=[
                sampled("b", -0.5, ("b", -0.5), ("x", -2.0)),
                sampled("c", -3.0, ("y", -0.1), ("z", -2.5)),
            ],
            tokens=[sampled("d", -0.2, ("d", -0.2), ("q", -4.0))],
        )
    )
    last = writer.choice(
        Output(
            text="e", tokens=[sampled("e", -0.3, ("e", -0.3), ("r", -4.0))], finish_reason="stop"
        )
    )
    assert first.text == "abcd"
    assert first.logprobs is not None
    assert first.logprobs.tokens == ["a", "b", "c", "d"]
    assert first.logprobs.token_logprobs == [None, -0.5, -3.0, -0.2]
    assert first.logprobs.text_offset == [0, 1, 2, 3]
    assert first.logprobs.top_logprobs == [
        None,
        {"b": -0.5, "x": -2.0},
        {"y": -0.1, "z": -2.5, "c": -3.0},
        {"d": -0.2, "q": -4.0},
    ]
    assert last.logprobs is not None
    assert (last.text, last.logprobs.text_offset, last.finish_reason) == ("e", [4], "stop")


def test_scoring_shows_nothing_but_the_prompt(tokenizer: ChatTokenizer) -> None:
    prompt = BarePrompt(tokens=tuple(byte_tokens("ab")), text="ab")
    shown = Shown(echo=True, answer=False, logprobs=0)
    choice = ChoiceWriter(3, prompt, shown, tokenizer).choice(
        Output(
            text="Z",
            prompt=[sampled("b", -1.0)],
            tokens=[sampled("Z", -0.1)],
            finish_reason="stop",
            completion_tokens=1,
        )
    )
    assert (choice.index, choice.text, choice.finish_reason) == (3, "ab", "length")
    assert choice.logprobs is not None
    assert choice.logprobs.token_logprobs == [None, -1.0]
    assert choice.logprobs.top_logprobs is None


@pytest.mark.parametrize(
    "shown", [Shown(echo=True, logprobs=1), Shown(prompt_logprobs=1)], ids=["echo", "vllm"]
)
def test_a_prompt_that_was_not_scored_is_an_error(tokenizer: ChatTokenizer, shown: Shown) -> None:
    prompt = BarePrompt(tokens=tuple(byte_tokens("abc")), text="abc")
    writer = ChoiceWriter(0, prompt, shown, tokenizer)
    with pytest.raises(EngineError, match="1 tokens of the prompt were scored, not 2"):
        writer.choice(Output(text="d", prompt=[sampled("b", -0.5)]))


def test_prompt_logprobs_by_token_id(tokenizer: ChatTokenizer) -> None:
    prompt = BarePrompt(tokens=tuple(byte_tokens("ab")), text="ab")
    writer = ChoiceWriter(0, prompt, Shown(prompt_logprobs=1), tokenizer)
    choice = writer.choice(
        Output(text="", prompt=[sampled("b", -3.0, ("y", -0.1), ("b", -3.0))], finish_reason="stop")
    )
    (nothing, entries) = choice.prompt_logprobs
    own, best = byte_tokens("b")[0], byte_tokens("y")[0]
    assert nothing is None
    assert {token: (one.logprob, one.rank) for token, one in entries.items()} == {
        own: (-3.0, 2),
        best: (-0.1, 1),
    }
    assert entries[best].decoded_token == "y"


def test_alternatives_that_read_the_same_keep_the_likelier(tokenizer: ChatTokenizer) -> None:
    prompt = BarePrompt(tokens=(1,), text="")
    the = TOKENS.index("the")
    top = ((the, -0.1), (the, -9.0))
    writer = ChoiceWriter(0, prompt, Shown(logprobs=2), tokenizer)
    choice = writer.choice(Output(text="the", tokens=[Sampled(the, -0.1, top)]))
    assert choice.logprobs is not None
    assert choice.logprobs.top_logprobs == [{"the": -0.1}]


@settings(max_examples=200, deadline=None)
@given(text=st.text(min_size=1, max_size=30))
def test_tokens_start_where_their_text_is(tokenizer: ChatTokenizer, text: str) -> None:
    prompt = read_prompt(text, tokenizer, len(TOKENS))
    starts = prompt.starts(tokenizer.pieces)
    assert prompt.text == text
    assert len(starts) == len(prompt.tokens)
    data = [tokenizer.pieces.spelled(token) for token in prompt.tokens]
    for at, start in enumerate(starts):
        before = b"".join(data[:at])
        assert text[:start].encode() == before.decode(errors="ignore").encode()


@settings(max_examples=100, deadline=None)
@given(tokens=st.lists(st.integers(0, len(TOKENS) - 1), min_size=1, max_size=20))
def test_tokens_as_a_prompt_spell_their_text(tokenizer: ChatTokenizer, tokens: list[int]) -> None:
    prompt = read_prompt(tokens, tokenizer, len(TOKENS))
    data = b"".join(tokenizer.pieces.spelled(token) for token in tokens)
    assert prompt.text == data.decode(errors="replace")
    assert prompt.starts(tokenizer.pieces) == spell(tokenizer.pieces, tokens)[1]


def test_a_token_that_the_tokenizer_adds_takes_no_room(tokenizer: ChatTokenizer) -> None:
    prompt = BarePrompt(tokens=(1, *byte_tokens("ab")), text="ab", added=1)
    assert prompt.starts(tokenizer.pieces) == [0, 0, 1]


@pytest.mark.parametrize("value", ["", [len(TOKENS)], [-1]])
def test_prompts_that_cannot_be_read(tokenizer: ChatTokenizer, value: str | list[int]) -> None:
    with pytest.raises(RequestError) as caught:
        read_prompt(value, tokenizer, len(TOKENS))
    assert caught.value.param == "prompt"
