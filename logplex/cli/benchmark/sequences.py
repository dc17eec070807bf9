"""What of all streams has arrived: how much is missing, came twice, or came late. No I/O.

* Repeated: a number that had arrived before. Reordered: a number that arrives for the first time, though a higher one
  of its stream was there before it. What never arrives is lost; that is the difference to what was sent.
* The next number of the stream that the last one belonged to costs one comparison. All others cost a look-up; a number
  that comes late, one in the list of what is missing of its stream.
"""

from bisect import bisect_right

from .frames import NUMBERS


class Sequences:
    """The numbers of all streams, as frames.NUMBERS makes one integer of stream and number."""

    def __init__(self) -> None:
        self.arrived = 0
        self.repeated = 0
        self.reordered = 0
        self._expected = 0  # the number that goes on where the last one was
        self._next: dict[int, int] = {}  # stream → the number above its highest; behind for the stream of `_expected`
        self._missing: dict[int, list[tuple[int, int]]] = {}  # stream → what was skipped, [first, end) in their order

    @property
    def distinct(self) -> int:
        """How many different messages have arrived."""
        return self.arrived - self.repeated

    def feed(self, numbers: list[int]) -> None:
        """Take what arrived, in this order."""
        self.arrived += len(numbers)
        expected = self._expected
        for number in numbers:
            if number != expected:
                self._next[(expected - 1) // NUMBERS] = expected
                expected = self._place(number)
            expected += 1
        self._expected = expected

    def _place(self, number: int) -> int:
        """Look at a number that does not go on where the last one was; one below what is expected after it."""
        stream = number // NUMBERS
        expected = self._next.get(stream, stream * NUMBERS)
        if number > expected:
            self._missing.setdefault(stream, []).append((expected, number))
            return number
        if number == expected:
            return number
        missing = self._missing.get(stream, [])
        found = bisect_right(missing, number, key=_first) - 1
        if found >= 0 and number < missing[found][1]:
            first, end = missing[found]
            missing[found : found + 1] = [(a, b) for a, b in ((first, number), (number + 1, end)) if a < b]
            self.reordered += 1
        else:
            self.repeated += 1
        return expected - 1


def _first(gap: tuple[int, int]) -> int:
    return gap[0]
