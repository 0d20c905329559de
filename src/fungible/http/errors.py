"""How an exchange can fail, as built-in errors: callers say what each means for them."""


class ConnectionBrokenError(OSError):
    """The peer closed or reset the connection before its answer was complete."""


class NotConnectedError(TimeoutError):
    """No connection came about in time."""


class MalformedAnswerError(OSError):
    """What came is not HTTP/1.1, too long, or compressed in a way that was not asked for."""
