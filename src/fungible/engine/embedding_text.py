"""The inputs of `/v1/embeddings` as tokens: special ones added, long ones refused or cut."""

from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer

from fungible.errors import ArtifactError, ContextLengthError, RequestError


class EmbeddingTokenizer:
    """The text side of an embedding model.

    Args:
        artifact: A directory with `tokenizer.json`.
        vocab: Tokens that the model has.
        context: Most tokens of one input, start and end tokens included.

    Raises:
        ArtifactError: The file is missing or malformed.
    """

    def __init__(self, artifact: Path, *, vocab: int, context: int) -> None:
        path = artifact / "tokenizer.json"
        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # tokenizers raises nothing narrower
            raise ArtifactError(
                f"{path}: not a tokenizer: {error}",
                hint="build the artifact again with `fungible artifact build`",
            ) from error
        self._vocab = vocab
        self._context = context

    def read(
        self, inputs: list[str] | list[list[int]], *, truncate: int | None = None
    ) -> list[list[int]]:
        """The tokens of each input; texts get the model's start and end tokens, tokens do not.

        Args:
            inputs: As `contract.embeddings.read_inputs` returns them.
            truncate: Cut inputs to so many tokens; -1 for the context; `None` refuses long ones.

        Raises:
            ContextLengthError: An input is longer than the context; names it.
            RequestError: A token is not the model's, or `truncate` is out of range.
        """
        limit = self._limit(truncate)
        if isinstance(inputs[0], str):
            encodings = self._tokenizer.encode_batch(inputs, add_special_tokens=True)
            rows = [
                _shortened(encoding.ids, encoding.special_tokens_mask, limit)
                for encoding in encodings
            ]
        else:
            rows = [list(one[:limit]) for one in inputs]
        for at, row in enumerate(rows):
            self._check(at, row)
        return rows

    def _limit(self, truncate: int | None) -> int | None:
        if truncate is None or truncate == -1:
            return truncate and self._context
        if truncate > self._context:
            raise RequestError(
                f"truncate_prompt_tokens is {truncate}; the model takes {self._context} tokens",
                param="truncate_prompt_tokens",
            )
        return truncate

    def _check(self, at: int, row: Sequence[int]) -> None:
        where = f"input[{at}]"
        if len(row) > self._context:
            raise ContextLengthError(
                f"{where} is {len(row)} tokens long; this model takes {self._context}",
                hint="shorten it, or set truncate_prompt_tokens to -1 to cut long inputs",
                param=where,
            )
        strange = [token for token in row if not 0 <= token < self._vocab]
        if strange or not row:
            raise RequestError(
                f"{where} names token {strange[0]}; this model's tokens are 0 to {self._vocab - 1}"
                if strange
                else f"{where} has no tokens",
                param=where,
            )


def _shortened(ids: list[int], special: list[int], limit: int | None) -> list[int]:
    """At most `limit` tokens: the first ones, and what the tokenizer puts at the end."""
    if limit is None or len(ids) <= limit:
        return ids
    after = next((at for at, one in enumerate(reversed(special)) if not one), 0)
    after = min(after, limit)
    return ids[: limit - after] + ids[len(ids) - after :]
