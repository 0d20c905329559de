"""An embedding model's tokenizer, from `tokenizer.json` or from the `vocab.txt` of older ones."""

from pathlib import Path

from tokenizers import Tokenizer
from tokenizers.implementations import BertWordPieceTokenizer

from fungible.artifacts.encoder_config import read_object
from fungible.errors import ArtifactError


def encoder_tokenizer(directory: Path, vocab: int) -> tuple[bytes, list[Path]]:
    """The bytes of a `tokenizer.json` that neither pads nor truncates, and the files read.

    Args:
        directory: Of the model.
        vocab: Rows of the model's embedding table.

    Raises:
        ArtifactError: There is none, it is malformed, or it knows more tokens than the model.
    """
    path = directory / "tokenizer.json"
    if path.exists():
        tokenizer, used = _read(path), [path]
    else:
        tokenizer, used = _from_vocabulary(directory)
    largest = max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)
    if not 0 <= largest < vocab:
        raise ArtifactError(
            f"{used[0]}: the tokenizer's tokens reach {largest}, the model has {vocab} embeddings",
            hint="tokenizer and weights are of different models",
        )
    tokenizer.no_truncation()
    tokenizer.no_padding()
    text: str = tokenizer.to_str()
    return text.encode(), used


def _read(path: Path) -> Tokenizer:
    try:
        return Tokenizer.from_str(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read: {error.strerror}") from error
    except Exception as error:  # tokenizers raises nothing narrower
        raise ArtifactError(f"{path}: the tokenizer is malformed: {error}") from error


def _from_vocabulary(directory: Path) -> tuple[Tokenizer, list[Path]]:
    """WordPiece over `vocab.txt`, with BERT's own splitting of text into words."""
    path = directory / "vocab.txt"
    if not path.exists():
        raise ArtifactError(
            f"{directory}: there is neither tokenizer.json nor vocab.txt",
            hint="the directory must hold the model's tokenizer",
        )
    settings = directory / "tokenizer_config.json"
    raw = read_object(settings) if settings.exists() else {}
    try:
        tokenizer = BertWordPieceTokenizer(
            str(path),
            lowercase=bool(raw.get("do_lower_case", True)),
            strip_accents=raw.get("strip_accents"),
            handle_chinese_chars=bool(raw.get("tokenize_chinese_chars", True)),
        )
    except Exception as error:  # tokenizers raises nothing narrower
        raise ArtifactError(f"{path}: the vocabulary is malformed: {error}") from error
    return Tokenizer.from_str(tokenizer.to_str()), [path, *([settings] if raw else [])]
