"""What an answer means for an HTTP drain's cursor, its page of the ledger, and its next requests (protocol section 7).

Rules:

* 2xx: delivered. 400, 413 and 422: the batch is at fault; it is halved, each half with its own range and id, down to
  the single line, which is lost(permanent). 413 also halves the size of all later batches. Everything else is repaired
  by people or time: the same range and id again, after a back-off.
* What an OTLP answer counts as rejected (`partialSuccess`) is lost(permanent), though the status was 2xx; the answer
  is no reason to wait, nor to send anything again.
"""

from . import otlp
from .answer import Answer
from .backoff import retry_after
from .delivery import Delivery
from .request import Request
from .sizes import Sizes
from .status import Failure

_AT_FAULT = (400, 413, 422)


class Outcomes:
    """Of one delivery's requests."""

    __slots__ = ("_delivery", "_sizes")

    def __init__(self, delivery: Delivery, sizes: Sizes) -> None:
        self._delivery = delivery
        self._sizes = sizes

    def passed_over(self, request: Request) -> None:
        """Nothing in it is for the receiver: it was not sent."""
        delivery = self._delivery
        delivery.state.deliver(request.end, filtered=request.end - request.first)
        delivery.sent = request.end
        self._sizes.passed(request.end)
        delivery.site.dirty.add(delivery)

    def delivered(self, request: Request) -> None:
        """2xx."""
        delivery = self._delivery
        state = delivery.state
        state.deliver(request.end, filtered=request.filtered, size=request.size)
        if request.untold is not None:
            state.told(request.untold)
        state.delivered_at = request.at
        state.succeeded_at = delivery.site.now_ms()
        self._advance(request)
        if delivery.health.failing or not delivery.served:
            delivery.succeeded()

    def count_rejected(self, request: Request, answer: Answer) -> None:
        """Lines of a document that the receiver took and threw away."""
        delivery = self._delivery
        count = delivery.state.reject(min(otlp.rejected(answer.body), request.lines))
        if count:
            text = f"answered {answer.status}, and rejected {count} of {request.lines} lines"
            delivery.health.report(Failure("rejected", text, status=answer.status))
            delivery.health.lost(count, "permanent")
            delivery.site.dirty.add(delivery)

    def refused(self, request: Request, answer: Answer) -> Failure | None:
        """Any status but 2xx: what failed, or None where the batch is at fault, and the next one is another."""
        delivery, status = self._delivery, answer.status
        if status not in _AT_FAULT:
            text = f"answered {status}" + ("; redirects are not followed" if 300 <= status < 400 else "")
            wait = None if answer.retry_after is None else retry_after(answer.retry_after, delivery.site.wall())
            return Failure("http", text, status=status, retry_after=wait)
        delivery.served = True
        delivery.health.report(Failure("http", f"answered {status}: a batch is at fault", status=status))
        if status == 413:
            self._sizes.too_large(request)
        if request.count == 1:
            delivery.state.deliver(request.end, filtered=request.filtered, refused=1)
            self._advance(request)
            delivery.health.lost(1, "permanent")
        else:
            self._sizes.halve(request)
            delivery.state.retried += 1
            delivery.site.dirty.add(delivery)
        return None

    def _advance(self, request: Request) -> None:
        """The cursor moved over a request."""
        delivery, sizes = self._delivery, self._sizes
        delivery.sent = end = request.end
        sizes.passed(end)
        sizes.grow(delivery.channel.head - end, end - request.first)
        delivery.site.dirty.add(delivery)
