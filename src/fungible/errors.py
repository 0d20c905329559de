"""The whole error tree.

::

    FungibleError
    ├── BasisError               exit 1             amounts of different kinds were added up
    ├── InputError               exit 2, HTTP 400   something the user wrote is wrong
    │   ├── ConfigError                             fungible.toml, a price sheet, a suite
    │   ├── ArtifactError                           a checkpoint or an artifact
    │   ├── RequestError                            one HTTP request
    │   │   ├── AuthError               HTTP 401
    │   │   ├── ClientGoneError         HTTP 499    nobody is there to read the answer
    │   │   ├── UnknownModelError       HTTP 404
    │   │   ├── LimitError              HTTP 429    a rate limit
    │   │   │   └── BudgetError                     a money budget
    │   │   ├── ContextLengthError      HTTP 400    the prompt leaves no room for an answer
    │   │   └── UnsupportedError        HTTP 400    the backend would silently ignore a field
    │   └── QueryError                              SQL the ledger refused
    ├── RefusedError             exit 3, HTTP 409   the evidence does not allow it
    ├── UnavailableError         exit 4, HTTP 503   something needed is not there
    │   ├── LimitStoreError         HTTP 503    what a limit counts in cannot be reached
    │   ├── UnpricedError                           a budget applies, and nothing gives a price
    │   ├── PortInUseError
    │   ├── DiskError               HTTP 507
    │   ├── StartupError                            a child process did not come up
    │   └── MissingExtraError                       an optional dependency is not installed
    └── UpstreamError            exit 4, HTTP 502   a backend failed
        ├── UpstreamBusyError       HTTP 429  transient
        │   ├── QueueFullError      HTTP 429  too many wait for the backend already
        │   └── QueueTimeoutError   HTTP 503  no slot of the backend became free in time
        ├── UpstreamTimeoutError    HTTP 504  transient  by its own account
        │   ├── ConnectTimeoutError             no connection in time
        │   ├── FirstTokenTimeoutError          no first token in time
        │   ├── IdleTimeoutError                silence for too long
        │   └── TotalTimeoutError               too long in all
        ├── UpstreamConnectError    HTTP 502  transient
        │   └── UpstreamLostError   HTTP 502  transient  it may have done the work all the same
        ├── UpstreamSetupError      HTTP 502  transient  our key or model name is wrong there
        ├── UpstreamRejectedError   as it said, terminal
        ├── StreamBrokenError       HTTP 502  terminal once a token went out
        └── EngineError             HTTP 500  our own engine failed in a step

`transient` decides retry and fallback. Every error maps to one OpenAI error body
(`to_openai`) and one process exit code (`exit_code`).
"""

from typing import Any, ClassVar


class FungibleError(Exception):
    """Base of every error that Fungible raises on purpose.

    Args:
        message: What is wrong, naming the file, line or field.
        hint: What to do about it; printed as `hint: …`.
        param: The request field at fault, for the OpenAI error body.
    """

    exit_code: ClassVar[int] = 1
    status: int = 500
    type: ClassVar[str] = "server_error"
    code: ClassVar[str] = "internal_error"
    transient: ClassVar[bool] = False

    def __init__(self, message: str, *, hint: str = "", param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.param = param

    def to_openai(self) -> dict[str, Any]:
        """The error body of the OpenAI API: `{"error": {message, type, param, code}}`."""
        message = f"{self.message} hint: {self.hint}" if self.hint else self.message
        body = {"message": message, "type": self.type, "param": self.param, "code": self.code}
        return {"error": body}


class BasisError(FungibleError, TypeError):
    """Amounts on different bases or in different currencies were added up; a bug of ours."""

    code = "mixed_money"


class InputError(FungibleError):
    """Something the user wrote is wrong."""

    exit_code = 2
    status = 400
    type = "invalid_request_error"
    code = "invalid_request"


class ConfigError(InputError):
    """A configuration file, price sheet or suite is malformed."""

    code = "invalid_config"


class ArtifactError(InputError):
    """A checkpoint or an artifact cannot be read or does not match its digests."""

    code = "invalid_artifact"


class RequestError(InputError):
    """One HTTP request is malformed."""


class AuthError(RequestError):
    """The API key is missing, unknown or expired."""

    status = 401
    type = "authentication_error"
    code = "invalid_api_key"


class ClientGoneError(RequestError):
    """The client closed the connection; the answer has no reader."""

    status = 499
    code = "client_gone"


class UnknownModelError(RequestError):
    """No route serves this model for this key."""

    status = 404
    code = "model_not_found"


class LimitError(RequestError):
    """A rate limit of the key, its owner or its customer is reached.

    Attributes:
        retry_after_s: Seconds until the same request would pass; `None` when none would.
        headers: What the answer's head says besides.
    """

    status = 429
    type = "rate_limit_error"
    code = "rate_limit_exceeded"
    retry_after_s: float | None = None

    def __init__(self, message: str, *, hint: str = "", retry_after_s: float | None = None) -> None:
        super().__init__(message, hint=hint)
        self.retry_after_s = retry_after_s
        self.headers: dict[str, str] = {}


class BudgetError(LimitError):
    """A money budget has no room left for the request."""

    type = "insufficient_quota"
    code = "budget_exceeded"


class ContextLengthError(RequestError):
    """The prompt is longer than the context, or leaves no room for an answer."""

    code = "context_length_exceeded"


class UnsupportedError(RequestError):
    """The backend cannot honour a field that the request depends on."""

    code = "unsupported"


class QueryError(InputError):
    """The ledger's engine refused a query."""

    code = "invalid_query"


class RefusedError(FungibleError):
    """The evidence does not allow what was asked."""

    exit_code = 3
    status = 409
    type = "invalid_request_error"
    code = "refused"


class UnavailableError(FungibleError):
    """Something that is needed is not there."""

    exit_code = 4
    status = 503
    code = "unavailable"


class LimitStoreError(UnavailableError):
    """The store that limits are counted in cannot be reached, or failed."""

    code = "limits_unavailable"


class UnpricedError(UnavailableError):
    """A budget applies to the request, and a backend that may serve it has no price."""

    code = "unpriced"


class PortInUseError(UnavailableError):
    """Another process listens on the address."""

    code = "port_in_use"


class DiskError(UnavailableError):
    """The disk is full or refuses writes."""

    status = 507
    code = "disk_full"


class StartupError(UnavailableError):
    """A child process ended or stayed silent before it was ready."""

    code = "startup_failed"


class MissingExtraError(UnavailableError):
    """An optional dependency is not installed."""

    code = "missing_extra"


class UpstreamError(FungibleError):
    """A backend failed to answer.

    Attributes:
        upstream_status: The HTTP status it answered with; 0 when it gave none.
        retry_after_s: For how many seconds it asked to be left alone; `None` when it did not.
    """

    upstream_status: int = 0
    retry_after_s: float | None = None
    exit_code = 4
    status = 502
    type = "upstream_error"
    code = "upstream_error"


class UpstreamBusyError(UpstreamError):
    """The backend is at its limit (429 or 503)."""

    status = 429
    code = "upstream_busy"
    transient = True


class QueueFullError(UpstreamBusyError):
    """The queue in front of a backend is full; the backend itself was not asked."""

    code = "backend_queue_full"


class QueueTimeoutError(UpstreamBusyError):
    """A request waited too long for one of a backend's slots; the backend was not asked."""

    status = 503
    code = "backend_queue_timeout"


class UpstreamTimeoutError(UpstreamError):
    """The backend did not answer in time."""

    status = 504
    code = "upstream_timeout"
    transient = True


class ConnectTimeoutError(UpstreamTimeoutError):
    """No connection to the backend came about in time; it was sent nothing."""

    code = "upstream_connect_timeout"


class FirstTokenTimeoutError(UpstreamTimeoutError):
    """The backend's stream did not begin in time."""

    code = "upstream_first_token_timeout"


class IdleTimeoutError(UpstreamTimeoutError):
    """The backend fell silent in the middle of its answer."""

    code = "upstream_idle_timeout"


class TotalTimeoutError(UpstreamTimeoutError):
    """The whole answer took too long."""

    code = "upstream_total_timeout"


class UpstreamConnectError(UpstreamError):
    """The backend could not be reached, or answered nothing that makes sense."""

    code = "upstream_unreachable"
    transient = True


class UpstreamLostError(UpstreamConnectError):
    """The connection was lost after the request may have been sent, and before an answer."""

    code = "upstream_lost"


class UpstreamSetupError(UpstreamError):
    """The backend refused our key, or our name for the model; another backend may not."""

    code = "upstream_misconfigured"
    transient = True


class UpstreamRejectedError(UpstreamError):
    """The backend refused the request itself; another backend would too."""

    code = "upstream_rejected"

    def __init__(self, message: str, *, status: int = 400, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.status = status


class StreamBrokenError(UpstreamError):
    """The stream ended before the backend said it was complete."""

    code = "stream_broken"


class EngineError(UpstreamError):
    """The local engine's runtime failed while it worked on a request."""

    status = 500
    code = "engine_error"
