"""The errors of logplex: one tree, whose branches say who erred.

* `ClientError`: what came in is at fault; `status` is the HTTP answer, the message is shown to the client.
* `StoreError`: our own disk or database is at fault; a retry may help.
* `PeerError`: a drain's other end is at fault; the delivery loop decides on a retry.
* `SetupError`: the operator must change something; the process exits 1 with the message.

Foreign errors are translated once, where they enter, with `raise … from exc`.
"""


class LogplexError(Exception):
    """The root of the tree."""


class ClientError(LogplexError):
    """A request that cannot be served as it is: `status` and the text are the answer."""

    status = 400


class MalformedBody(ClientError):
    """The framing of a `/logs` body is broken; nothing of it is accepted (protocol section 3)."""

    def __init__(self) -> None:
        super().__init__("Malformed log messages")


class CountMismatch(ClientError):
    """`Logplex-Msg-Count` differs from the frames of the body (protocol section 3)."""

    def __init__(self) -> None:
        super().__init__("Message count mismatch")


class Unauthorized(ClientError):
    """No credential, or a wrong one."""

    status = 401


class Forbidden(ClientError):
    """A known credential without the permission."""

    status = 403


class NotFound(ClientError):
    """What the path names does not exist."""

    status = 404


class Conflict(ClientError):
    """What would be made exists already."""

    status = 409


class TooLarge(ClientError):
    """A body or a header is over its limit."""

    status = 413


class Unprocessable(ClientError):
    """Well-formed JSON that says something impossible; the text names the field."""

    status = 422


class TooManyFailures(ClientError):
    """Log-ins of this id and address are limited for `retry_after` seconds."""

    status = 429

    def __init__(self, retry_after: int) -> None:
        super().__init__("Too many failed log-ins")
        self.retry_after = retry_after


class Unavailable(ClientError):
    """The service refuses for the moment: read-only, disabled, ingress denied."""

    status = 503


class SetupError(LogplexError):
    """The operator has to change something before the server can start."""


class StoreError(LogplexError):
    """Our own disk or database failed; nothing is wrong with the request."""


class PeerError(LogplexError):
    """A drain's other end failed; `temporary` tells the delivery loop whether a retry can help."""

    temporary = True
