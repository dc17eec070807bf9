"""Syslog over UDP, with real sockets on loopback, a router that remembers, and the real one."""

import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from logplex.inputs.listening import listen_udp
from logplex.inputs.udp import DATAGRAMS_PER_TURN, serve_udp
from logplex.registry.records import ChannelRecord, Token
from tests.core import Core

from .fake import MAX_FRAME_BYTES, FakeRouter


@asynccontextmanager
async def served(
    router: Any, *, max_frame_bytes: int = MAX_FRAME_BYTES, bound: Token | None = None, waiting: tuple[bytes, ...] = ()
) -> AsyncIterator[socket.socket]:
    """A connected client of a server that finds `waiting` in its socket when it starts."""
    (listener,) = listen_udp("127.0.0.1", 0)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.connect(listener.getsockname())
        for datagram in waiting:
            client.send(datagram)
        async with trio.open_nursery() as nursery:
            await nursery.start(
                lambda task_status: serve_udp(
                    [listener], router, max_frame_bytes=max_frame_bytes, bound=bound, task_status=task_status
                )
            )
            yield client
            nursery.cancel_scope.cancel()
    assert listener.fileno() == -1


async def test_a_datagram_is_a_message_whatever_is_in_it() -> None:
    router = FakeRouter()
    datagrams = [b"<1>a", b"<1>b\n", b"<1>c\nd\0e\r\n", b"5 <1>x", b"no syslog", b"\xff", b"<1>" + b"x" * 65_000]
    async with served(router) as client:
        for datagram in datagrams:
            client.send(datagram)
        assert await router.flushed_frames(7) == [datagram.rstrip(b"\r\n\0") for datagram in datagrams]


async def test_datagrams_that_wait_are_fed_together_and_flushed_by_turns() -> None:
    router = FakeRouter()
    waiting = tuple(b"<1>%d" % number for number in range(DATAGRAMS_PER_TURN + 10))
    async with served(router, waiting=waiting):
        assert await router.flushed_frames(len(waiting)) == list(waiting)
    assert len(router.streams[0].fed) == 2


async def test_empty_and_overlong_datagrams_are_malformed() -> None:
    router = FakeRouter()
    async with served(router, max_frame_bytes=10) as client:
        for datagram in (b"", b"x" * 11, b"<1>7 bytes"):
            client.send(datagram)
        assert await router.flushed_frames(1) == [b"<1>7 bytes"]
    assert (router.ledger.frames, router.ledger.malformed) == (2, 2)


async def test_a_flood_of_empty_datagrams_does_not_hold_the_server() -> None:
    router = FakeRouter()
    count = 5 * DATAGRAMS_PER_TURN
    async with served(router, waiting=(b"",) * count) as client:
        client.send(b"<1>a")
        await router.flushed_frames(1)
    assert router.ledger.malformed == count


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what it drops")
async def test_what_the_kernel_drops_is_counted() -> None:
    router = FakeRouter()
    waiting = tuple(b"<1>" + b"x" * 60_000 for _ in range(1000))  # 60 MB into a buffer of 16
    async with served(router, waiting=waiting):
        await router.until(lambda: router.ledger.refused["kernel"] + len(router.frames) == len(waiting))
    assert router.ledger.refused["kernel"] > 0
    assert router.ledger.frames == router.ledger.refused["kernel"]


async def test_a_socket_may_be_bound_to_one_token() -> None:
    router = FakeRouter()
    token = Token("t.1", "app", ChannelRecord(1, "shop"))
    async with served(router, bound=token) as client:
        client.send(b"<1>Nov 22 03:00:00 x: y")
        await router.flushed_frames(1)
    assert router.streams[0].bound is token


async def test_what_the_real_router_gets_is_shown() -> None:
    core = Core()
    token = core.add_token(1).id.encode()
    frames = [b"<13>1 - h %s web.1 - - %d" % (token, number) for number in range(50)]
    async with served(core.router, waiting=(*frames, b"rubbish", b"<13>1 - h t.unknown - - - x")) as client:
        client.send(b"<13>1 - h %s web.1 - last" % token)
        with trio.fail_after(20):
            while core.ledger.frames < 53 or not core.lines(1):
                await trio.lowlevel.checkpoint()
    assert [line.text.strip() for line in core.lines(1)] == [b"%d" % number for number in range(50)] + [b"last"]
    assert (core.ledger.malformed, core.ledger.unknown_token) == (1, 1)
