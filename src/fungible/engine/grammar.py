"""Grammars compiled for a tokenizer: what may come next in an answer, as a mask over its tokens.

The work is done by `llguidance`; a compiled grammar is shared, each answer has a copy of its
start state.
"""

import json
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from threading import Lock
from typing import Any

import llguidance
import msgspec
import numpy as np
from numpy.typing import NDArray

from fungible.engine.constraint import Constraint, Matcher
from fungible.errors import EngineError, RequestError

ANY_OBJECT: dict[str, Any] = {"type": "object"}
# Between JSON's tokens a line may end and be indented; without a bound, weak models repeat white
# space until the answer is cut. `lenient` would silently leave parts of a schema out.
JSON_OPTIONS: Any = {"whitespace_pattern": r"\n?[ \t]{0,16}", "lenient": False}
_KEPT = 128  # compiled grammars
_LIMITS = llguidance.LLParserLimits(max_grammar_size=200_000, max_lexer_states=50_000)
_NEGATIVE_INFINITY = np.float32(-np.inf)


class GrammarSource(msgspec.Struct, frozen=True, kw_only=True):
    """A grammar as it was asked for.

    Attributes:
        text: In llguidance's own form.
        param: The request field that it came from, for error messages.
        parts: Grammars of what it is made of; the first that cannot be enforced gets the blame.
    """

    text: str
    param: str
    parts: tuple["GrammarSource", ...] = ()


def schema_grammar(schema: Mapping[str, Any] | bool, param: str) -> GrammarSource:
    """Texts that are JSON and valid against `schema`."""
    if schema is True:
        schema = {}
    elif schema is False:
        schema = {"not": {}}
    text = llguidance.LLMatcher.grammar_from_json_schema(json.dumps(schema), overrides=JSON_OPTIONS)
    return GrammarSource(text=text, param=param)


def regex_grammar(pattern: str, param: str) -> GrammarSource:
    """Texts that match `pattern` from end to end."""
    return GrammarSource(text=llguidance.LLMatcher.grammar_from_regex(pattern), param=param)


def lark_grammar(grammar: str, param: str) -> GrammarSource:
    """Texts of a context-free grammar in Lark's notation, from its rule `start`."""
    return GrammarSource(text=llguidance.LLMatcher.grammar_from_lark(grammar), param=param)


def choice_grammar(choices: Sequence[str], param: str) -> GrammarSource:
    """Exactly one of the texts."""
    alternatives = " | ".join(json.dumps(one, ensure_ascii=False) for one in choices)
    return lark_grammar(f"start: {alternatives}", param)


class GrammarCompiler:
    """Compiles grammars for one tokenizer and keeps the latest; any thread may call it.

    Args:
        tokenizer: The content of `tokenizer.json`.
        eos_ids: Tokens that end an answer: allowed where the grammar is complete.
    """

    def __init__(self, tokenizer: str, eos_ids: Sequence[int]) -> None:
        self._source = tokenizer
        self._eos_ids = list(eos_ids)
        self._tokens: llguidance.LLTokenizer | None = None
        self._compiled: OrderedDict[str, Constraint] = OrderedDict()
        self._lock = Lock()

    def compile(self, source: GrammarSource) -> Constraint:
        """The constraint for a grammar.

        Raises:
            RequestError: It is malformed, or says something that cannot be enforced; names the
                field and what is wrong.
        """
        with self._lock:
            found = self._compiled.get(source.text)
            if found is not None:
                self._compiled.move_to_end(source.text)
                return found
            made = self._compile(source)
            self._compiled[source.text] = made
            if len(self._compiled) > _KEPT:
                self._compiled.popitem(last=False)
            return made

    def _compile(self, source: GrammarSource) -> Constraint:
        if self._tokens is None:
            self._tokens = llguidance.LLTokenizer(self._source, eos_token=self._eos_ids)
        start = llguidance.LLMatcher(self._tokens, source.text, log_level=0, limits=_LIMITS)
        if start.is_error():
            for part in source.parts:
                self._compile(part)
            reason = " ".join(start.get_error().split())
            raise RequestError(
                f"{source.param} cannot be enforced: {reason[:500]}",
                hint="leave out what is named",
                param=source.param,
            )
        return _Compiled(start, self._tokens.vocab_size)


class _Compiled:
    """A grammar in its start state, which no answer touches."""

    def __init__(self, start: llguidance.LLMatcher, vocab: int) -> None:
        self._start = start
        self._vocab = vocab

    def start(self) -> Matcher:
        """The state before an answer's first token."""
        return _State(self._start.deep_copy(), self._vocab)


class _State:
    """One answer's place in a grammar."""

    def __init__(self, matcher: llguidance.LLMatcher, vocab: int) -> None:
        self._matcher = matcher
        self._vocab = vocab
        self._bits: NDArray[np.uint8] = np.zeros((vocab + 31) // 32 * 4, dtype=np.uint8)

    def mask(self, logits: NDArray[np.float32]) -> None:
        """Set the logits `(vocab,)` of tokens that may not come next to minus infinity.

        A model may have more logits than its tokenizer has tokens; those are never allowed.

        Raises:
            EngineError: The grammar became too costly to follow.
        """
        self._matcher.unsafe_compute_mask_ptr(self._bits.ctypes.data, self._bits.nbytes)
        if self._matcher.is_error():
            raise self._failure()
        count = min(self._vocab, len(logits))
        forbidden = np.unpackbits(~self._bits, count=count, bitorder="little").view(np.bool_)
        np.copyto(logits[:count], _NEGATIVE_INFINITY, where=forbidden)
        logits[count:] = _NEGATIVE_INFINITY

    def accept(self, token: int) -> None:
        """The token was chosen.

        Raises:
            EngineError: It was not allowed.
        """
        if not self._matcher.consume_token(token):
            raise self._failure()

    @property
    def finished(self) -> bool:
        """Whether nothing but an end token may follow."""
        return bool(self._matcher.is_stopped())

    def _failure(self) -> EngineError:
        reason = " ".join(self._matcher.get_error().split())
        return EngineError(f"the answer left its grammar: {reason[:300]}")
