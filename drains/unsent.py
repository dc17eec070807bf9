"""What a kernel did not take of a delivery's bytes, and how much of it counts against its app's share of memory.

Rules:

* What counts may be taken back by others who need the memory (rendered.py), until the kernel has it or it is let go.
* What a delivery must keep in any case, the rest of a frame that was begun, counts as nothing. It may be no byte at
  all: then too the kernel has to take something again before more is offered.
"""

from .link import Buffer
from .rendered import Holder, Rendered


class Unsent:
    """What one delivery offers its kernel next; true while there is something to wait for."""

    __slots__ = ("_app", "_held", "_holder", "_rendered", "rest")

    def __init__(self, rendered: Rendered, holder: Holder, app: int) -> None:
        self.rest: memoryview | None = None
        self._rendered = rendered
        self._holder = holder
        self._app = app
        self._held = 0

    def __bool__(self) -> bool:
        return self.rest is not None

    def __len__(self) -> int:
        return 0 if self.rest is None else len(self.rest)

    @property
    def counts(self) -> bool:
        """Whether it is held of the app's share."""
        return self._held > 0

    def keep(self, data: Buffer, taken: int) -> None:
        """Hold what is left of `data`; so much was taken of the app's share just now."""
        self.rest = memoryview(data)[taken:]
        self._held = len(self.rest)
        self._rendered.hold(self._holder)

    def keep_uncounted(self, rest: Buffer) -> None:
        """Hold what no share has to give."""
        self.rest = memoryview(rest)

    def took(self, count: int) -> None:
        """The kernel took some of it, or all."""
        if self.rest is None:
            return
        if count == len(self.rest):
            self.let_go()
        elif count:
            self.rest = self.rest[count:]
            if self._held:
                self._rendered.hold(self._holder)

    def let_go(self) -> None:
        """Forget it; also when there is nothing."""
        self.rest = None
        if self._held:
            self._rendered.let_go(self._holder)
            self._rendered.give_back(self._app, self._held)
            self._held = 0
