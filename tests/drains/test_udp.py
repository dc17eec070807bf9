"""Syslog drains over UDP."""

import socket

import trio

from drains.limits import Limits

from ..polling import until
from .world import TOKEN, World, running, settled, spec


class Datagrams:
    def __init__(self, port: int = 0) -> None:
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.bind(("127.0.0.1", port))
        self.sock.setblocking(False)
        self.port = self.sock.getsockname()[1]

    async def receive(self) -> bytes:
        await trio.lowlevel.wait_readable(self.sock)
        return self.sock.recv(70_000)

    def __enter__(self) -> "Datagrams":
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()


async def test_one_datagram_is_one_message_without_count_or_lf() -> None:
    world = World()
    with Datagrams() as receiver:
        async with running(world) as deliveries:
            deliveries.add(spec(f"syslog+udp://127.0.0.1:{receiver.port}"), world.channel, None)
            world.write(b"- [a] \xff\nb", b"")
            head = f"<190>1 2026-01-31T12:00:00.123456+00:00 {TOKEN} app web.1 - - ".encode()
            assert await receiver.receive() == head + b"- [a] \xff\nb"
            assert await receiver.receive() == head
            for number in range(50):
                world.write(b"%d" % number)
                assert await receiver.receive() == head + b"%d" % number
            world.write(b"tails", tails_only=True)
            world.write(b"x" * 10_000)
            assert len(await receiver.receive()) == len(head) + 10_000
            await settled(deliveries)
            seen = deliveries.status(7)
            assert seen is not None
            assert (seen.delivered, seen.filtered, seen.pending, seen.retried) == (53, 1, 0, 0)


async def test_a_host_that_says_nobody_listens_makes_the_drain_wait() -> None:
    world = World()
    with Datagrams() as receiver:
        port = receiver.port
    async with running(world, limits=Limits(backoff_seconds=0.1, max_backoff_seconds=0.1)) as deliveries:
        deliveries.add(spec(f"udpsyslog://127.0.0.1:{port}"), world.channel, None)
        world.write(b"a")
        await until(lambda: deliveries.status(7).pending == 0)  # type: ignore[union-attr]
        await until(lambda: deliveries._drains[7].link is None)
        for number in range(20):
            world.write(b"%d" % number)
        await until(lambda: deliveries.status(7).error is not None)  # type: ignore[union-attr]
        error = deliveries.status(7).error  # type: ignore[union-attr]
        assert error is not None
        assert error.kind == "refused"
        with Datagrams(port) as again:
            texts = set()
            while b"19" not in texts:
                texts.add((await again.receive()).rpartition(b" ")[2])
            await until(lambda: deliveries.status(7).pending == 0)  # type: ignore[union-attr]
        assert deliveries.dirty()[0].balances()


async def test_a_burst_goes_out_whole_and_in_order() -> None:
    world = World()
    with Datagrams() as receiver:
        receiver.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_000_000)
        async with running(world) as deliveries:
            drain = spec(f"syslog+udp://127.0.0.1:{receiver.port}", start="oldest", filter={"text": "0"})
            expected = [text for text in world.numbers(1000) if b"0" in text]
            deliveries.add(drain, world.channel, None)
            got = [(await receiver.receive()).rpartition(b" - - ")[2] for _ in expected]
            assert got == expected
            await settled(deliveries)
            seen = deliveries.status(7)
            assert seen is not None
            assert (seen.delivered, seen.filtered) == (len(expected), 1000 - len(expected))


async def test_a_loss_is_told_first() -> None:
    world = World(ring_lines=10)
    with Datagrams() as receiver:
        async with running(world) as deliveries:
            world.numbers(30, batch=5)
            deliveries.add(spec(f"syslog+udp://127.0.0.1:{receiver.port}", start="oldest"), world.channel, None)
            world.spool.oldest = 29
            assert b"Error L10 (output buffer overflow): " in await receiver.receive()
            await settled(deliveries)
            seen = deliveries.status(7)
            assert seen is not None
            assert seen.lost["overrun"] + seen.delivered == 30
