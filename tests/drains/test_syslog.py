"""Syslog drains over TCP against real sockets."""

import socket
import struct

import pytest
import trio

from drains.limits import Limits
from drains.status import State
from logplex.batch import HOLE, Batch, Form

from ..polling import until
from ..ports import free_port
from .world import TOKEN, World, frames, running, settled, spec, syslog_receiver, texts

QUICK = Limits(backoff_seconds=0.1, max_backoff_seconds=0.2, connect_seconds=0.5)


class Peer:
    """A receiver that reads only what it is told to."""

    def __init__(self, *, buffer: int = 0, port: int = 0) -> None:
        self.listener = socket.socket()
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if buffer:
            self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        self.listener.bind(("127.0.0.1", port))
        self.listener.listen()
        self.listener.setblocking(False)
        self.port = self.listener.getsockname()[1]
        self.sock: socket.socket | None = None

    async def accept(self) -> None:
        await trio.lowlevel.wait_readable(self.listener)
        self.sock, _ = self.listener.accept()
        self.sock.setblocking(False)

    async def read(self, size: int = 1 << 20) -> bytes:
        assert self.sock is not None
        await trio.lowlevel.wait_readable(self.sock)
        return self.sock.recv(size)

    async def read_frames(self, count: int) -> bytes:
        data = bytearray()
        ends = 0
        while ends < count:  # no text here holds an LF
            more = await self.read()
            if not more:
                break
            ends += more.count(b"\n")
            data += more
        return bytes(data)

    def reset(self) -> None:
        """Close with an RST, whatever was read."""
        assert self.sock is not None
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()

    def close(self) -> None:
        assert self.sock is not None
        self.sock.close()
        self.sock = None

    def __enter__(self) -> "Peer":
        return self

    def __exit__(self, *_: object) -> None:
        if self.sock is not None:
            self.sock.close()
        self.listener.close()


async def test_lines_arrive_octet_counted_with_the_drain_token_as_host() -> None:
    world = World()
    async with syslog_receiver() as receiver, running(world) as deliveries:
        deliveries.add(spec(f"syslog://127.0.0.1:{receiver.port}"), world.channel, None)
        world.write(b"- [a] \xff\r\n two ", b"")
        assert await receiver.until(2) == [b"- [a] \xff\r\n two ", b""]
        head = b"<190>1 2026-01-31T12:00:00.123456+00:00 d.12345678-1234-4234-8234-123456789012 app web.1 - - "
        assert bytes(receiver.received) == b"108 " + head + b"- [a] \xff\r\n two \n" + b"94 " + head + b"\n"
        for number in range(50):
            world.write(b"number %d" % number)
            assert (await receiver.until(3 + number))[-1] == b"number %d" % number
        await settled(deliveries)
        seen = deliveries.status(7)
        assert seen is not None
        assert (seen.delivered, seen.pending, seen.retried) == (52, 0, 0)
        assert receiver.connections == 1


async def test_a_caught_up_drain_sends_in_the_commit_itself() -> None:
    world = World()
    with Peer() as peer:
        async with running(world) as deliveries:
            deliveries.add(spec(f"syslog://127.0.0.1:{peer.port}"), world.channel, None)
            world.write(b"first")
            await peer.accept()
            await peer.read_frames(1)
            await until(lambda: deliveries.status(7).pending == 0)  # type: ignore[union-attr]
            await trio.testing.wait_all_tasks_blocked(0.01)
            world.write(b"second")
            assert peer.sock is not None
            assert texts(peer.sock.recv(1000)) == [b"second"]


async def test_what_the_kernel_has_not_acknowledged_is_sent_again_after_a_reset() -> None:
    world = World(ring_lines=100_000)
    with Peer(buffer=4096) as peer:
        async with running(world, limits=QUICK) as deliveries:
            deliveries.add(spec(f"syslog://127.0.0.1:{peer.port}"), world.channel, None)
            lines = [b"%06d " % number + b"x" * 200 for number in range(40_000)]
            for at in range(0, len(lines), 100):
                world.write(*lines[at : at + 100])
            await peer.accept()
            first = texts(await peer.read_frames(1000))
            peer.reset()
            await peer.accept()
            again = bytearray()
            while not again.endswith(lines[-1] + b"\n"):
                again += await peer.read()
            second = texts(bytes(again))
            assert first == lines[: len(first)]
            start = lines.index(second[0])
            assert 0 < start < 40_000 - 1
            assert second == lines[start:]
            await settled(deliveries)
            seen = deliveries.status(7)
            assert seen is not None
            assert (seen.delivered, seen.pending) == (40_000, 0)
            assert deliveries.dirty()[0].balances()


async def test_after_a_close_delivery_goes_on_with_the_first_frame_that_is_not_covered() -> None:
    world = World()
    with Peer() as peer:
        async with running(world, limits=QUICK) as deliveries:
            deliveries.add(spec(f"syslog://127.0.0.1:{peer.port}"), world.channel, None)
            world.write(b"a", b"b", b"c")
            await peer.accept()
            assert texts(await peer.read_frames(3)) == [b"a", b"b", b"c"]
            await until(lambda: deliveries.status(7).pending == 0)  # type: ignore[union-attr]
            peer.close()
            world.write(b"d")  # sent into a connection whose end is not seen yet
            await peer.accept()
            assert texts(await peer.read_frames(1)) == [b"d"]
            await until(lambda: deliveries.status(7).pending == 0)  # type: ignore[union-attr]
            assert deliveries.status(7).delivered == 4  # type: ignore[union-attr]


async def test_a_part_of_a_batch_that_was_acknowledged_is_not_sent_again() -> None:
    world = World()
    with Peer() as peer:
        async with running(world, limits=QUICK) as deliveries:
            deliveries.add(spec(f"syslog://127.0.0.1:{peer.port}"), world.channel, None)
            world.write(b"a")
            await peer.accept()
            await peer.read_frames(1)
            await until(lambda: deliveries.status(7).pending == 0)  # type: ignore[union-attr]
            await trio.testing.wait_all_tasks_blocked(0.01)
            world.write(b"b", b"c", b"d")
            delivery = deliveries._drains[7]
            link = delivery.link
            assert link is not None
            frame = len(b"95 ") + 95
            link_class = type(link)
            original = link_class.unacknowledged
            link_class.unacknowledged = lambda self: frame + 5  # type: ignore[method-assign]
            try:
                peer.close()
                await peer.accept()
            finally:
                link_class.unacknowledged = original  # type: ignore[method-assign]
            assert texts(await peer.read_frames(2)) == [b"c", b"d"]


async def test_a_hanging_receiver_holds_a_bounded_number_of_bytes_and_gets_everything_in_the_end() -> None:
    world = World(ring_lines=100_000)
    limits = Limits(rendered_bytes=64_000, rendered_share=1, batch_bytes=20_000)
    with Peer(buffer=4096) as peer:
        async with running(world, limits=limits) as deliveries:
            deliveries.add(spec(f"syslog://127.0.0.1:{peer.port}"), world.channel, None)
            lines = [b"%06d " % number + b"x" * (number % 3000) for number in range(10_000)]
            at = 0
            await trio.testing.wait_all_tasks_blocked(0.01)
            while at < len(lines):
                world.write(*lines[at : at + 37])
                at += 37
                assert deliveries._site.rendered.used <= 64_000
                if at % 10 == 0:
                    await trio.lowlevel.checkpoint()
            await peer.accept()
            got = texts(await peer.read_frames(10_000))
            assert got == lines
            await settled(deliveries)
            assert deliveries._site.rendered.used == 0
            assert deliveries.status(7).retried == 0  # type: ignore[union-attr]


async def test_a_receiver_that_refuses_and_comes_back_gets_all_lines() -> None:
    world = World()
    port = free_port()
    async with running(world, limits=QUICK) as deliveries:
        deliveries.add(spec(f"syslog://127.0.0.1:{port}"), world.channel, None)
        expected = world.numbers(10)
        await until(lambda: deliveries.status(7).retried >= 2)  # type: ignore[union-attr]
        seen = deliveries.status(7)
        assert seen is not None
        assert seen.state in (State.BACKING_OFF, State.CONNECTING)
        async with syslog_receiver(port=port) as receiver:
            assert await receiver.until(10) == expected
            await until(lambda: len(world.told) == 2)
            assert b"connection refused" in world.told[0][1]
            assert b"delivers again" in world.told[1][1]


async def test_an_idle_connection_that_the_receiver_closes_is_no_failure() -> None:
    world = World()
    with Peer() as peer:
        async with running(world) as deliveries:
            deliveries.add(spec(f"syslog://127.0.0.1:{peer.port}"), world.channel, None)
            for text in (b"a", b"b", b"c"):
                world.write(text)
                await peer.accept()
                assert texts(await peer.read_frames(1)) == [text]
                await until(lambda: deliveries.status(7).pending == 0)  # type: ignore[union-attr]
                peer.close()
                await until(lambda: deliveries._drains[7].link is None)
            assert deliveries.status(7).error is None  # type: ignore[union-attr]


async def test_an_idle_connection_is_closed_after_a_while_and_dialled_again_when_needed() -> None:
    world = World()
    with Peer() as peer:
        async with running(world, limits=Limits(idle_seconds=0.05)) as deliveries:
            deliveries.add(spec(f"syslog://127.0.0.1:{peer.port}"), world.channel, None)
            for text in (b"a", b"b"):
                world.write(text)
                await peer.accept()
                assert texts(await peer.read_frames(1)) == [text]
                assert await peer.read() == b""
                peer.close()
            assert deliveries._site.connections.used == 0


async def test_a_receiver_that_talks_is_not_listened_to() -> None:
    world = World()
    with Peer() as peer:
        async with running(world, limits=QUICK) as deliveries:
            deliveries.add(spec(f"syslog://127.0.0.1:{peer.port}"), world.channel, None)
            world.write(b"a")
            await peer.accept()
            await peer.read_frames(1)
            assert peer.sock is not None
            peer.sock.send(b"220 hello\r\n")
            await trio.testing.wait_all_tasks_blocked(0.01)
            world.write(b"b")
            assert texts(await peer.read_frames(1)) == [b"b"]
            with trio.fail_after(5):
                sent = 0
                while sent < 300_000:
                    try:
                        sent += peer.sock.send(b"x" * 10_000)
                    except OSError:
                        break
                    await trio.lowlevel.checkpoint()


async def test_a_loss_is_told_in_place_and_counted() -> None:
    world = World(ring_lines=10)
    async with syslog_receiver() as receiver, running(world) as deliveries:
        world.numbers(100, batch=5)
        world.spool.oldest = 40
        world.channel.forget_before(40)
        drain = spec(f"syslog://127.0.0.1:{receiver.port}", start=40)
        deliveries.add(drain, world.channel, None)
        world.spool.oldest = 60
        got = await receiver.until(41)
        assert got[0].startswith(b"Error L10 (output buffer overflow): 20 messages dropped since ")
        assert got[1:] == [b"line %d" % number for number in range(60, 100)]
        assert b" heroku logplex - - Error L10" in receiver.received
        await settled(deliveries)
        seen = deliveries.status(7)
        assert seen is not None
        assert (seen.delivered, seen.lost, seen.pending) == (40, {"overrun": 20}, 0)
        assert deliveries.dirty()[0].untold is None


async def test_filters_and_formats_work_line_by_line() -> None:
    world = World()
    async with syslog_receiver() as receiver, running(world) as deliveries:
        drain = spec(f"syslog://127.0.0.1:{receiver.port}", filter={"text": "keep"}, format="logplex-1")
        deliveries.add(drain, world.channel, None)
        world.write(b"keep 1", b"drop", b"keep 2", b"drop")
        world.write(b"drop")
        with trio.fail_after(5):
            while len(frames(bytes(receiver.received))) < 2:
                await receiver.more.wait()
        assert f"{TOKEN} app web.1 - keep 1\n".encode() in receiver.received
        await settled(deliveries)
        seen = deliveries.status(7)
        assert seen is not None
        assert (seen.delivered, seen.filtered, seen.pending) == (2, 3, 0)


async def test_a_removed_drain_closes_its_page() -> None:
    world = World()
    port = free_port()
    async with running(world) as deliveries:
        deliveries.add(spec(f"syslog://127.0.0.1:{port}"), world.channel, None)
        world.numbers(10)
        state = deliveries.remove(7)
        assert state is not None
        assert state.lost == {"deleted": 10}
        assert state.balances()
        assert deliveries.status(7) is None
        assert deliveries.remove(7) is None
        world.numbers(1)


async def test_one_replace_serves_a_batch_that_is_rendered_for_syslog() -> None:
    world = World()
    frame = b"<190>1 2026-01-31T12:00:00+00:00 %b app web.1 - - text\n" % HOLE
    async with syslog_receiver() as receiver, running(world) as deliveries:
        deliveries.add(spec(f"syslog://127.0.0.1:{receiver.port}"), world.channel, None)
        world.channel.append(Batch(0, 1, world.now, Form.SYSLOG, b"%d %b" % (len(frame), frame)))
        assert await receiver.until(1) == [b"text"]
        assert TOKEN.encode() in receiver.received


@pytest.mark.parametrize("seconds", [0.0])
async def test_finish_waits_for_what_was_sent_and_not_for_who_is_away(seconds: float) -> None:
    world = World()
    async with syslog_receiver() as receiver, running(world) as deliveries:
        deliveries.add(spec(f"syslog://127.0.0.1:{receiver.port}"), world.channel, None)
        world.numbers(1000)
        await deliveries.finish(trio.current_time() + 10)
        assert deliveries.status(7).pending == 0  # type: ignore[union-attr]
    async with running(world, limits=Limits(backoff_seconds=3600, max_backoff_seconds=3600)) as deliveries:
        deliveries.add(spec(f"syslog://127.0.0.1:{free_port()}", start="oldest"), world.channel, None)
        await until(lambda: deliveries.status(7).state is State.BACKING_OFF)  # type: ignore[union-attr]
        before = trio.current_time()
        await deliveries.finish(before + 5)
        assert trio.current_time() - before < 5
