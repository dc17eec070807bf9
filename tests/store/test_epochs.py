"""What a channel knows of its epochs after starts that found no proof that everything was there."""

import json
from pathlib import Path

from .spools import opened


def disprove(path: Path) -> None:
    """The last server crashed while it showed lines from memory."""
    run = json.loads((path / "run").read_text())
    (path / "run").write_text(json.dumps(run | {"degraded_since": 1.0}))


async def test_every_epoch_is_known_by_where_it_begins(tmp_path: Path) -> None:
    epochs = []
    for count in (3, 2, 0, 1):
        async with opened(tmp_path) as node:
            channel = await node.channel(1)
            epochs.append(channel.epoch)
            if count:
                await node.write(1, *[b"line"] * count)
        disprove(tmp_path)
    async with opened(tmp_path) as node:
        channel = await node.channel(1)
        assert channel.past == tuple(zip(epochs, (0, 3, 5, 5), strict=True))
        assert (channel.epoch_first, channel.head) == (6, 6)
        assert [channel.epoch_at(position) for position in (0, 2, 3, 5, 6)] == [
            (epochs[0], 3),
            (epochs[0], 3),
            (epochs[1], 5),
            (epochs[3], 6),
            (channel.epoch, None),
        ]
        assert [channel.after_epoch(epoch) for epoch in (*epochs, channel.epoch, "of another spool")] == [
            3, 5, 5, 6, None, 0
        ]  # fmt: skip


async def test_a_proven_start_begins_none(tmp_path: Path) -> None:
    async with opened(tmp_path) as node:
        epoch = (await node.channel(1)).epoch
        await node.write(1, b"line")
    async with opened(tmp_path) as node:
        channel = await node.channel(1)
        assert (channel.epoch, channel.epoch_first, channel.past) == (epoch, 0, ())


async def test_epochs_of_which_nothing_is_held_are_not_looked_for(tmp_path: Path) -> None:
    for _ in range(12):
        async with opened(tmp_path) as node:
            await node.write(1, b"line")
        disprove(tmp_path)
    async with opened(tmp_path) as node:
        channel = await node.channel(1)
        assert [first for _, first in channel.past] == [5, 6, 7, 8, 9, 10, 11]
        assert (await node.channel(2)).past == ()
