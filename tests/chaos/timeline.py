"""Which line stood at which position of a channel, put together from everything that anybody saw.

* A place is (epoch, position). Two different lines at one place, or one line at two places of an epoch, are wrong.
* A position may stand in several epochs: the newest is the one that stayed; the older lines are gone with a crash of
  a server that had them in memory only.
"""

from collections import defaultdict

from .journal import Journal
from .lines import Line, Name, is_own, line, name_of


class Timeline:
    """The truth about one channel."""

    def __init__(self, channel: str, journal: Journal, faults: list[str]) -> None:
        self.channel = channel
        self.faults = faults
        self.at: dict[tuple[str, int], Line] = {}
        self.first_seen: dict[tuple[str, int], float] = {}
        self.places: dict[Name, dict[str, int]] = defaultdict(dict)
        self.epochs: list[str] = []  # oldest first
        self._begun: list[tuple[float, str]] = []  # when servers started, and the epoch that they had
        for run in journal.runs:
            epoch = run.places.get(channel, ("", 0))[0]
            self._begun.append((run.started, epoch))
            if epoch and epoch not in self.epochs:
                self.epochs.append(epoch)
        self._ends: dict[str, int] = {}
        for sent in journal.sent:
            if sent.channel == channel:
                self._ends[sent.producer] = max(self._ends.get(sent.producer, 0), sent.end)

    def see(self, epoch: str, position: int, found: Line, at: float, who: str) -> None:
        """Somebody was shown this line at this place."""
        place = (epoch, position)
        known = self.at.get(place)
        if known is not None:
            self.first_seen[place] = min(at, self.first_seen[place])
            if known != found:
                self.faults.append(f"{self.channel} {epoch}/{position}: {who} saw {found}, others {known}")
            return
        self.at[place] = found
        self.first_seen[place] = at
        if epoch not in self.epochs:
            self.faults.append(f"{self.channel} {epoch}/{position}: {who} saw an epoch that the channel never had")
        name = name_of(found)
        if name is None:
            if not is_own(found):
                self.faults.append(f"{self.channel} {epoch}/{position}: {who} saw {found}, which nobody sent")
            return
        if name.number >= self._ends.get(name.producer, 0) or found != line(name):
            self.faults.append(f"{self.channel} {epoch}/{position}: {who} saw {found}, which was never sent")
        other = self.places[name].setdefault(epoch, position)
        if other != position:
            self.faults.append(f"{self.channel}: {name} stands twice in epoch {epoch}, at {other} and {position}")

    def matches(self, position: int, found: Line) -> str | None:
        """The newest epoch in which this line stood at this position."""
        for epoch in reversed(self.epochs):
            if self.at.get((epoch, position)) == found:
                return epoch
        return None

    def known(self, position: int) -> bool:
        """Whether anybody saw this position in any epoch."""
        return self.lasting(position) is not None

    def lasting(self, position: int) -> tuple[str, int] | None:
        """The place at this position that stayed."""
        for epoch in reversed(self.epochs):
            if (epoch, position) in self.at:
                return epoch, position
        return None

    def gone_with(self, position: int, at: float) -> str | None:
        """The epoch of the server that ran then, if lines that it showed may have gone: newer ones stand there now."""
        lasting = self.lasting(position)
        epoch = next((epoch for started, epoch in reversed(self._begun) if started <= at), "")
        if lasting is None or (epoch, position) in self.at or self._age(epoch) >= self._age(lasting[0]):
            return None
        return epoch or None

    def same_line(self, place: tuple[str, int]) -> set[tuple[str, int]]:
        """Under which epochs this line was seen at this position."""
        places = ((epoch, place[1]) for epoch in self.epochs)
        return {other for other in places if self.at.get(other) == self.at[place]}

    def newest_place(self, name: Name) -> tuple[str, int] | None:
        """Where a line stands, in the newest epoch that has it."""
        places = self.places.get(name)
        if not places:
            return None
        epoch = max(places, key=self._age)
        return epoch, places[epoch]

    def position_of(self, line: Line) -> int | None:
        """Where a line that has no number was seen last, in any epoch; its time tells it from others."""
        return next((position for (_, position), seen in reversed(self.at.items()) if seen == line), None)

    def stays(self, name: Name) -> bool:
        """Whether a line stands at a place that stayed."""
        return any(
            self.lasting(position) == (epoch, position) for epoch, position in self.places.get(name, {}).items()
        )

    def check_order(self) -> None:
        """In each epoch the lines of a producer stand in the order in which it sent them."""
        for epoch in self.epochs:
            newest: dict[str, int] = {}
            for position in sorted(position for of, position in self.at if of == epoch):
                name = name_of(self.at[epoch, position])
                if name is None:
                    continue
                if name.number < newest.get(name.producer, -1):
                    self.faults.append(f"{self.channel} {epoch}/{position}: {name} stands behind a later line")
                newest[name.producer] = name.number

    def _age(self, epoch: str) -> int:
        return self.epochs.index(epoch) if epoch in self.epochs else -1
