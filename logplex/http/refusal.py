"""Answers that the server itself gives to requests it does not serve."""

from ..errors import ClientError, LogplexError


class Refusal(ClientError):
    """A request that breaks HTTP, or a limit of ours; the connection is closed after the answer.

    `reason` is what the ledger counts.
    """

    def __init__(self, status: int, reason: str, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.reason = reason


class ClientGone(LogplexError):
    """The client has closed or broken its connection; nobody is there to be answered."""
