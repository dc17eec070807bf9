"""What the quick path (fastpath.py) looks up of a line's head, and how it learns that.

Rules:

* An entry says where lines with one middle `HOST APP PROC` go, and what they are rendered with. It is made by the
  rules of its principal's way (routing.py) when a line needs it, and counted, so that what is known stays bounded.
* Entries know the lists of channels and no group: both go over from group to group, as long as they are worth it.
"""

from typing import Protocol

from .batch import Layout
from .channel import Channel
from .fastpath import Entries, Entry


class Lists:
    """Where the lines of channels go: the same lists in one group after the other."""

    __slots__ = ("layouts", "learned", "lines")

    def __init__(self) -> None:
        self.lines: dict[Channel, list[str]] = {}
        self.layouts: dict[Channel, Layout] = {}
        self.learned = 0  # principals and entries that know of them

    def open(self, channel: Channel) -> tuple[Layout, list[str]]:
        """The layout in which the channel's lines are to be rendered, and where they go."""
        lines = self.lines.get(channel)
        if lines is None:
            lines = self.lines[channel] = []
            layout = self.layouts[channel] = channel.layout
            return layout, lines
        return self.layouts[channel], lines


class Way(Protocol):
    """What the router knows of a principal."""

    def entry(self, middle: str, lists: Lists) -> Entry | None:
        """The entry of a middle; None for one that the strict path must see to."""


class Known:
    """What is known of one principal: the entries, and how to learn more of them (`fastpath.Learn`)."""

    __slots__ = ("_lists", "_way", "entries")

    def __init__(self, way: Way, lists: Lists) -> None:
        self.entries: Entries = {}
        self._way = way
        self._lists = lists

    def __call__(self, middle: str) -> Entry | None:
        entry = self._way.entry(middle, self._lists)
        if entry is not None:
            self.entries[middle] = entry
            self._lists.learned += 1
        return entry
