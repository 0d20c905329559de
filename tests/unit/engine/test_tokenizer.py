from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from fungible.contract.openai import ChatMessage
from fungible.engine.bare_prompt import spell
from fungible.engine.detokenizer import Detokenizer, Pieces
from fungible.engine.tokenizer import ChatTokenizer
from fungible.errors import ArtifactError, RequestError, UnsupportedError
from support.engine_setup import write_tokenizer
from support.sentence_piece import sentence_piece
from support.tiny_model import CONFIG, SPECIAL, TOKENS, tiny_tokenizer

tokens = st.lists(st.integers(0, len(TOKENS) - 1), max_size=30)


def user(text: str) -> list[ChatMessage]:
    return [ChatMessage(role="user", content=text)]


@settings(deadline=None)
@given(st.text())
@example("é€😀 👩‍👩‍👧")
def test_every_character_comes_whole(tokenizer: ChatTokenizer, text: str) -> None:
    text = text.encode("utf-8", "replace").decode()
    stream = tokenizer.stream()
    pieces = [stream.push(token) for token in tokenizer.encode(text)]
    assert "".join(pieces) == text
    if "\ufffd" not in text:
        assert not any("\ufffd" in piece for piece in pieces)


@settings(deadline=None)
@given(tokens)
def test_any_tokens_give_the_library_s_own_text(tokenizer: ChatTokenizer, ids: list[int]) -> None:
    whole = tiny_tokenizer().decode(ids, skip_special_tokens=True)
    ours = tokenizer.decode(ids)
    tail = whole[len(ours) :]
    assert whole.startswith(ours)
    assert set(tail) <= {"\ufffd"}, "only an unfinished last character may be left out"


def test_a_cut_character_is_dropped_not_replaced(tokenizer: ChatTokenizer) -> None:
    euro = tokenizer.encode("a€")
    assert len(euro) == 4
    assert tokenizer.decode(euro[:-1]) == "a"


def test_control_tokens_and_unused_ids_never_show(tokenizer: ChatTokenizer) -> None:
    assert tokenizer.decode([0, 1, 2, 10_000]) == ""
    assert tokenizer.pieces.spelled(1) == SPECIAL[1].encode()


def pieces_of(library: Tokenizer, decoder: dict[str, object] | None) -> Pieces:
    vocabulary = [library.id_to_token(token) for token in range(library.get_vocab_size())]
    return Pieces(vocabulary, frozenset({0}), decoder, "tokenizer.json")


LLAMA2 = {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Strip"}]}


@settings(deadline=None)
@given(st.lists(st.sampled_from(["▁hello", "▁", "w", "é", "😀"]), max_size=8))
def test_sentence_piece_vocabularies_stream_too(words: list[str]) -> None:
    library = sentence_piece()
    ids = []
    for word in words:
        known = library.token_to_id(word)
        ids += [known] if known is not None else [4 + byte for byte in word.encode()]
    stream = Detokenizer(pieces_of(library, LLAMA2))
    assert "".join(stream.push(token) for token in [0, *ids]) == library.decode(ids)


@settings(deadline=None)
@given(st.data(), st.booleans())
def test_an_answer_goes_on_in_its_prompt_s_text(data: st.DataObject, control: bool) -> None:
    library = sentence_piece()
    pieces = pieces_of(library, LLAMA2)
    words = st.lists(st.sampled_from(["▁hello", "▁", "w"]), max_size=6)
    prompt, answer = (
        [int(library.token_to_id(word)) for word in data.draw(words)] for _ in range(2)
    )
    stream = Detokenizer(pieces, continues=bool(prompt))
    text = "".join(stream.push(token) for token in answer)
    start = [0] if control else []
    echoed = spell(pieces, [*start, *prompt])[0]
    if control and not prompt:  # the answer starts the text
        assert text == library.decode(answer)
    else:
        whole = [*start, *prompt, *answer]
        assert echoed + text == library.decode(whole, skip_special_tokens=False)


@pytest.mark.parametrize("decoder", [None, {"type": "WordPiece", "prefix": "##"}])
def test_a_decoder_that_cannot_stream_is_refused(decoder: dict[str, object] | None) -> None:
    with pytest.raises(ArtifactError, match=r"tokenizer\.json: cannot stream"):
        pieces_of(sentence_piece(), decoder)


def test_a_conversation_is_rendered_by_the_model_s_template(tokenizer: ChatTokenizer) -> None:
    messages = [
        ChatMessage(role="developer", content="Be brief."),
        ChatMessage(role="user", content=[{"type": "text", "text": "Hi "}, {"type": "text"}]),
        ChatMessage(role="assistant", content=None),
    ]
    assert tokenizer.render(messages) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi <|im_end|>\n"
        "<|im_start|>assistant\n<|im_end|>\n<|im_start|>assistant\n"
    )
    assert tokenizer.encode(tokenizer.render(messages))[0] == 1


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{% for m in messages %}\n    {{ m.content }}\n{% endfor %}\nend", "hi\nend"),
        ("{% generation %}{{ messages[0]['content'] }}{% endgeneration %}", "hi"),
        ("{% for m in messages %}{% break %}{% endfor %}{{ bos_token }}", "<|im_start|>"),
        ("{{ messages | tojson }}", '[{"role": "user", "content": "hi"}]'),
        ("{{ strftime_now('%Y')[:2] }}{{ eos_token }}", "20<|im_end|>"),
        ("{{ add_generation_prompt }}{{ tools is none }}", "TrueTrue"),
    ],
)
def test_templates_behave_as_in_transformers(tmp_path: Path, template: str, text: str) -> None:
    write_tokenizer(tmp_path, template=template)
    rendered = ChatTokenizer(tmp_path, CONFIG).render(user("hi"))
    assert rendered.strip() == text


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ("{{ messages[0].content.__class__.__mro__ }}", "unsafe"),
        ("{{ messages.append(1) }}", "unsafe|access"),
        ("{{ messages[0].content + 1 }}", "str"),
    ],
)
def test_a_template_that_refuses_says_why(tmp_path: Path, template: str, reason: str) -> None:
    write_tokenizer(tmp_path, template=template)
    with pytest.raises(RequestError, match=reason) as caught:
        ChatTokenizer(tmp_path, CONFIG).render(user("hi"))
    assert caught.value.param == "messages"


def test_a_part_that_is_not_text_is_refused(tokenizer: ChatTokenizer) -> None:
    image = {"type": "image_url", "image_url": {"url": "data:,"}}
    with pytest.raises(UnsupportedError) as caught:
        tokenizer.render([ChatMessage(role="user", content=[{"type": "text", "text": "x"}, image])])
    assert caught.value.param == "messages[0].content[1]"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("tokenizer.json", None, "tokenizer.json: cannot be read"),
        ("tokenizer.json", "{}", "tokenizer.json: not a tokenizer"),
        ("chat_template.jinja", None, "chat_template.jinja: cannot be read"),
        ("chat_template.jinja", "a\n{% if %}", "chat_template.jinja:2: "),
    ],
)
def test_a_broken_artifact_names_the_file(
    tmp_path: Path, name: str, content: str | None, message: str
) -> None:
    write_tokenizer(tmp_path)
    if content is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_text(content)
    with pytest.raises(ArtifactError, match=message):
        ChatTokenizer(tmp_path, CONFIG)
