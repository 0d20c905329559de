"""The tokeniser that all engine tests share."""

import pytest

from fungible.engine.tokenizer import ChatTokenizer
from support.engine_setup import write_tokenizer
from support.tiny_model import CONFIG


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> ChatTokenizer:
    directory = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(directory)
    return ChatTokenizer(directory, CONFIG)
