"""How much the next request of an HTTP drain carries.

Rules (protocol section 7):

* A batch has the usual size; while the drain is behind by more than one, the size doubles up to the most. 413 halves
  it for good.
* What comes while a request waits for more goes with it, up to the most; half of that need not wait.
* The cut of a batch whose first try failed stands: the next tries carry the same positions.
* A batch that is refused for what it holds is halved, down to the single line; the halves that follow are remembered.
  When a single line went out together with our own about a loss, it is tried once more without that.
"""

from .request import Request
from .state import DrainState

SMALLEST_BYTES = 1024  # 413 halves down to here


class Sizes:
    """What is known about the right size of one drain's requests; the cut and the 413s are in its state."""

    __slots__ = ("_halves", "_least", "_limit", "_most", "_state", "enough", "mute", "target")

    def __init__(self, state: DrainState, least: int, most: int) -> None:
        self._state = state
        self._least = least
        self._most = most
        self._halves: list[int] = []  # ends of the parts that follow the cut, the next one last
        self.mute = False  # our own line stays away from the next request
        self._limit_to(state.max_bytes or most)

    def _limit_to(self, limit: int) -> None:
        """Let no batch be larger, from the next one on."""
        self._limit = min(limit, self._most)
        self.target = min(self._least, self._limit)
        """The most bytes of the next batch."""
        self.enough = self._limit // 2
        """Bytes that need not wait for more."""

    @property
    def most(self) -> int:
        """Bytes that hold any batch whose cut stands, however its lines are stored."""
        return 2 * self._most

    def cut(self, cursor: int) -> int | None:
        """Where the batch at the cursor ends, if it was tried before."""
        cut = self._state.cut
        if cut is None:
            return None
        if cut[0] == cursor < cut[1]:
            return cut[1]
        self._state.cut = None
        self._halves.clear()
        return None

    def failed(self, request: Request) -> None:
        """A try failed: the next ones carry the same positions, also after a restart."""
        if self._state.cut is None:
            self._state.cut = (request.first, request.end)

    def too_large(self, request: Request) -> None:
        """413: all later batches are smaller."""
        smaller = max(SMALLEST_BYTES, min(request.size, self.target) // 2)
        self._state.max_bytes = min(smaller, self._state.max_bytes or smaller)
        self._limit_to(self._state.max_bytes)

    def halve(self, request: Request) -> None:
        """Something in a request of several frames is refused: the first half comes next."""
        if request.lines == 1:
            self.mute = True
            self._state.cut = (request.first, request.end)
            return
        self._halves.append(request.end)
        self._state.cut = (request.first, request.first + (request.end - request.first) // 2)

    def passed(self, end: int) -> None:
        """The cursor is at `end`."""
        self.mute = False
        halves = self._halves
        while halves and halves[-1] <= end:
            halves.pop()
        if halves:
            self._state.cut = (end, halves[-1])

    def gathered(self, size: int) -> None:
        """So many bytes have waited for each other: the next request carries them all."""
        self.target = min(max(self._least, size), self._limit)

    def grow(self, behind: int, lines: int) -> None:
        """`lines` were delivered and the drain is `behind` by that many."""
        self.target = min(self.target * 2 if behind > lines else self._least, self._limit)
