"""The questions in their order, and a whole run of them."""

from collections.abc import Awaitable, Callable

import msgspec

from fungible.conformance import agreement, answers, refusals, structure
from fungible.conformance.asker import Asker
from fungible.conformance.finding import Finding, Told
from fungible.errors import UnsupportedError, UpstreamError, UpstreamRejectedError
from fungible.routing.dispatch import Dispatcher

Ask = Callable[[Asker], Awaitable[Told]]


class Question(msgspec.Struct, frozen=True):
    """One thing to find out; `required` is what applications cannot do without."""

    name: str
    ask: Ask
    required: bool = False


QUESTIONS: tuple[Question, ...] = (
    Question("whole answer", answers.whole, required=True),
    Question("streamed answer", answers.streamed, required=True),
    Question("token counts", answers.counts),
    Question("token counts in streams", answers.counts_in_streams),
    Question("max_tokens", answers.max_tokens),
    Question("stop", answers.stop),
    Question("seed", answers.seed),
    Question("n", answers.several),
    Question("logprobs", answers.logprobs),
    Question("tools", structure.tools),
    Question("tools in streams", structure.tools_in_streams),
    Question("JSON object", structure.json_object),
    Question("JSON schema", structure.json_schema),
    Question("images", structure.images),
    Question("bad values refused", refusals.bad_values),
    Question("unknown fields tolerated", refusals.unknown_field),
    Question("tokenizer agrees", agreement.tokenizer),
    Question("chat template agrees", agreement.chat_template),
)


async def examine(
    dispatcher: Dispatcher,
    backend: str,
    model: str,
    *,
    reference: str = "",
    progress: Callable[[str], None] = lambda _: None,
) -> list[Finding]:
    """Everything that was found out about a backend.

    Args:
        dispatcher: Started.
        backend: Its name in the configuration.
        model: The model's name, as applications know it.
        reference: The backend whose tokenizer and chat template it should share.
        progress: Called with the name of each question before it is asked.

    Raises:
        UpstreamError: The backend does not answer at all.
        DiskError: A row could not be written.
    """
    asker = Asker(dispatcher, backend, model, reference)
    await asker.ask()
    findings = []
    for question in QUESTIONS:
        progress(question.name)
        findings.append(await _answered(asker, question))
    return findings


async def _answered(asker: Asker, question: Question) -> Finding:
    try:
        told = await question.ask(asker)
    except (UpstreamRejectedError, UnsupportedError) as error:
        told = Told("refused", error.message)
    except UpstreamError as error:
        told = Told("failed", error.message)
    except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
        told = Told("failed", f"the answer has an unexpected form: {error!r}")
    return Finding(
        name=question.name,
        outcome=told.outcome,
        required=question.required,
        detail=told.detail,
    )
