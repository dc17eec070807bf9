"""HTTP drains against real sockets: what arrives, and what every kind of bad receiver costs."""

import gzip
import json
import socket
import struct

import pytest
import trio

from drains.limits import Limits
from drains.state import DrainState
from drains.status import State

from ..polling import until
from ..ports import free_port
from .world import OK, Post, World, answers, http_receiver, running, settled, spec, texts

pytestmark = pytest.mark.filterwarnings("default::ResourceWarning")


def reply(status: int, *headers: str) -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status} X", "Content-Length: 0", *headers, "", ""]).encode()


QUICK = Limits(backoff_seconds=0.1, max_backoff_seconds=0.2, request_seconds=0.5, connect_seconds=0.5)


async def test_lines_arrive_in_order_with_the_headers_of_the_protocol() -> None:
    world = World()
    async with http_receiver() as receiver, running(world) as deliveries:
        url = f"http://us%20er:pass@127.0.0.1:{receiver.port}/in%20put?key=1#x"
        deliveries.add(spec(url, headers={"X-Key": "abc"}), world.channel, None)
        world.write(b"first", b"second\r\n  third", b"\xff")
        post = await receiver.post()
        assert post.target == b"/in%20put?key=1"
        assert post.headers == {
            b"host": b"127.0.0.1:%d" % receiver.port,
            b"user-agent": b"Logplex/0.0",
            b"content-type": b"application/logplex-1",
            b"logplex-drain-token": b"d.12345678-1234-4234-8234-123456789012",
            b"authorization": b"Basic dXMgZXI6cGFzcw==",
            b"x-key": b"abc",
            b"logplex-msg-count": b"3",
            b"logplex-frame-id": post.id,
            b"logplex-range": b"0123456789abcdef/0-2",
            b"content-length": b"%d" % len(post.body),
        }
        assert len(post.id) == 32
        assert post.id == post.id.upper()
        assert post.texts == [b"first", b"second   third", b"\xef\xbf\xbd"]
        assert post.body.startswith(b"63 <190>1 2026-01-31T12:00:00.123456+00:00 host app web.1 - first\n")
        for number in range(20):
            world.write(b"number %d" % number)
            assert (await receiver.post()).texts == [b"number %d" % number]
        await settled(deliveries)
        status = deliveries.status(7)
        assert status is not None
        assert (status.delivered, status.pending, status.retried, status.lost) == (23, 0, 0, {})
        assert receiver.connections == 1


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
async def test_every_2xx_is_a_delivery(status: int) -> None:
    world = World()
    answer = b"HTTP/1.1 204 X\r\n\r\n" if status == 204 else reply(status)
    async with http_receiver(answers(answer)) as receiver, running(world) as deliveries:
        deliveries.add(spec(f"http://127.0.0.1:{receiver.port}"), world.channel, None)
        world.write(b"a")
        await receiver.post()
        await settled(deliveries)
        assert deliveries.status(7).delivered == 1  # type: ignore[union-attr]


@pytest.mark.parametrize("status", [301, 302, 307, 401, 403, 404, 408, 410, 418, 429, 500, 502, 503, 504])
async def test_what_people_or_time_repair_is_retried_with_the_same_id(status: int) -> None:
    world = World()
    refusal = reply(status, "Location: http://127.0.0.1:1/")
    async with http_receiver(answers(refusal, refusal)) as receiver, running(world, limits=QUICK) as deliveries:
        deliveries.add(spec(f"http://127.0.0.1:{receiver.port}/a"), world.channel, None)
        world.write(b"a", b"b")
        first = await receiver.post()
        world.write(b"c")
        second, third, fourth = [await receiver.post() for _ in range(3)]
        assert first.id == second.id == third.id
        assert first.body == second.body == third.body
        assert fourth.texts == [b"c"]
        assert fourth.id != first.id
        await settled(deliveries)
        seen = deliveries.status(7)
        assert seen is not None
        assert (seen.delivered, seen.retried, seen.lost) == (3, 2, {})
        assert seen.error is not None
        assert (seen.error.kind, seen.error.status) == ("http", status)
        assert [tails_only for _, _, tails_only in world.told] == [False, False]
        assert f"answered {status}".encode() in world.told[0][1]
        assert b"delivers again" in world.told[1][1]


@pytest.mark.parametrize("status", [400, 413, 422])
async def test_one_bad_line_never_costs_its_neighbours(status: int) -> None:
    world = World()

    async def picky(post: Post, stream: trio.SocketStream) -> bytes:
        return reply(status) if any(b"bad" in text for text in post.texts) else OK

    async with http_receiver(picky) as receiver, running(world) as deliveries:
        deliveries.add(spec(f"http://127.0.0.1:{receiver.port}"), world.channel, None)
        lines = [b"bad" if number in (3, 11) else b"%d" % number for number in range(16)]
        world.write(*lines)
        taken: list[bytes] = []
        ids = {}
        with trio.fail_after(10):
            while len(taken) < 14:
                post = await receiver.post()
                assert ids.setdefault(post.id, post.range) == post.range
                assert post.range[1] - post.range[0] + 1 == post.count
                if b"bad" not in post.texts:
                    taken += post.texts
        await settled(deliveries)
        assert taken == [line for line in lines if line != b"bad"]
        seen = deliveries.status(7)
        assert seen is not None
        assert (seen.delivered, seen.lost, seen.pending) == (14, {"permanent": 2}, 0)
        assert seen.state is State.DELIVERING


async def test_413_makes_all_later_batches_smaller() -> None:
    world = World()

    async def small(post: Post, stream: trio.SocketStream) -> bytes:
        return reply(413) if len(post.body) > 5000 else OK

    async with http_receiver(small) as receiver, running(world) as deliveries:
        deliveries.add(spec(f"http://127.0.0.1:{receiver.port}"), world.channel, None)
        world.numbers(200)
        await settled(deliveries)
        assert deliveries.status(7).delivered == 200  # type: ignore[union-attr]
        assert deliveries.dirty()[0].max_bytes <= 5000
        posts = receiver.posts
        assert posts is not None
        for _ in range(posts.statistics().current_buffer_used):
            posts.receive_nowait()
        world.numbers(200)
        await settled(deliveries)
        for _ in range(posts.statistics().current_buffer_used):
            assert len(posts.receive_nowait().body) <= 5000


async def test_a_drain_that_is_behind_gets_bigger_batches_up_to_the_limit() -> None:
    world = World()
    limits = Limits(batch_bytes=2000, max_batch_bytes=10_000)
    async with http_receiver() as receiver, running(world, limits=limits) as deliveries:
        expected = world.numbers(1000, batch=10)
        state_spec = spec(f"http://127.0.0.1:{receiver.port}", start="oldest")
        deliveries.add(state_spec, world.channel, None)
        got: list[bytes] = []
        sizes = []
        while len(got) < 1000:
            post = await receiver.post()
            got += post.texts
            sizes.append(len(post.body))
        assert got == expected
        assert sizes[0] <= 2000 < sizes[1] <= 4000 < sizes[2] <= 8000 < sizes[3] <= 10_000
        assert max(sizes) <= 10_000


@pytest.mark.parametrize(
    "broken",
    [
        b"",
        b"HTTP/1.1 2",
        b"HTTP/1.1 200 OK\r\nContent-",
        b"SSH-2.0-OpenSSH\r\n",
        b"\x00\x01\x02",
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"A: " + b"b" * 70_000,
    ],
)
async def test_an_answer_that_breaks_off_or_is_none_is_retried(broken: bytes) -> None:
    world = World()

    async def cut_off(post: Post, stream: trio.SocketStream) -> None:
        await stream.send_all(broken)

    async with http_receiver(answers(cut_off)) as receiver, running(world, limits=QUICK) as deliveries:
        deliveries.add(spec(f"http://127.0.0.1:{receiver.port}"), world.channel, None)
        world.write(b"a")
        first, second = await receiver.post(), await receiver.post()
        assert first.id == second.id
        await settled(deliveries)
        seen = deliveries.status(7)
        assert seen is not None
        assert (seen.delivered, seen.retried) == (1, 1)
        assert seen.error is not None
        assert seen.error.kind in ("closed", "protocol", "reset")


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 204 No Content\r\n\r\nwith a body",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nlonger than said",
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nHTTP/1.1 500 X\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.0 200 OK\r\n\r\nuntil the end",
        b"HTTP/1.1 200 OK\r\n\r\nuntil the end",
        b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" + b"x" * 100_000,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\nRetry-After: 9\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
    ],
)
async def test_a_success_stays_one_whatever_follows_and_costs_the_connection_at_most(answer: bytes) -> None:
    world = World()
    async with http_receiver(answers(answer, answer)) as receiver, running(world, limits=QUICK) as deliveries:
        deliveries.add(spec(f"http://127.0.0.1:{receiver.port}"), world.channel, None)
        for text in (b"a", b"b", b"c"):
            world.write(text)
            with trio.fail_after(8):
                assert (await receiver.post()).texts == [text]
                while deliveries.status(7).pending:  # type: ignore[union-attr]
                    await trio.lowlevel.checkpoint()
        seen = deliveries.status(7)
        assert seen is not None
        assert (seen.delivered, seen.error) == (3, None)


async def test_chunked_and_split_answers_keep_the_connection() -> None:
    world = World()

    async def slowly(post: Post, stream: trio.SocketStream) -> bytes:
        for byte in b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n":
            await stream.send_all(bytes([byte]))
            await trio.lowlevel.checkpoint()
        return b"\r\n5\r\nhello\r\n0\r\n\r\n"

    async with http_receiver(slowly) as receiver, running(world) as deliveries:
        deliveries.add(spec(f"http://127.0.0.1:{receiver.port}"), world.channel, None)
        for text in (b"a", b"b"):
            world.write(text)
            assert (await receiver.post()).texts == [text]
            await settled(deliveries)
        assert receiver.connections == 1


async def test_an_early_refusal_ends_a_request_that_is_still_being_sent() -> None:
    world = World()
    limits = Limits(backoff_seconds=0.1, max_backoff_seconds=0.1)
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        listener.setblocking(False)
        async with running(world, limits=limits) as deliveries:
            world.write(*[b"x" * 9000 for _ in range(1500)])
            port = listener.getsockname()[1]
            drain = spec(f"http://127.0.0.1:{port}", start="oldest", batch_bytes=1024 * 1024)
            deliveries.add(drain, world.channel, None)
            await trio.lowlevel.wait_readable(listener)
            peer, _ = listener.accept()
            with peer:
                peer.setblocking(False)
                await trio.lowlevel.wait_readable(peer)
                peer.recv(100)
                peer.send(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n")
                await until(lambda: deliveries.status(7).error is not None)  # type: ignore[union-attr]
            error = deliveries.status(7).error  # type: ignore[union-attr]
            assert error is not None
            assert (error.kind, error.status) == ("http", 503)


async def test_a_reset_before_the_answer_is_retried() -> None:
    world = World()

    async def reset(post: Post, stream: trio.SocketStream) -> None:
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    async with http_receiver(answers(reset)) as receiver, running(world, limits=QUICK) as deliveries:
        deliveries.add(spec(f"http://127.0.0.1:{receiver.port}"), world.channel, None)
        world.write(b"a")
        first, second = await receiver.post(), await receiver.post()
        assert first.id == second.id
        await settled(deliveries)
        error = deliveries.status(7).error  # type: ignore[union-attr]
        assert error is not None
        assert error.kind == "reset"


@pytest.mark.parametrize("begin", [b"", b"HTTP/1.1 20", b"HTTP/1.1 200 OK\r\nA: b\r\n"])
async def test_a_receiver_that_hangs_before_or_in_its_answer_is_given_up_in_time(begin: bytes) -> None:
    world = World()

    async def hang(post: Post, stream: trio.SocketStream) -> None:
        if begin:
            await stream.send_all(begin)
        await trio.sleep_forever()

    async with http_receiver(answers(hang)) as receiver, running(world, limits=QUICK) as deliveries:
        deliveries.add(spec(f"http://127.0.0.1:{receiver.port}"), world.channel, None)
        world.write(b"a")
        first, second = await receiver.post(), await receiver.post()
        assert first.id == second.id
        await settled(deliveries)
        error = deliveries.status(7).error  # type: ignore[union-attr]
        assert error is not None
        assert error.kind == "timeout"


async def test_a_receiver_that_refuses_connections_is_retried_and_told_once() -> None:
    world = World()
    port = free_port()
    async with running(world, limits=QUICK) as deliveries:
        deliveries.add(spec(f"http://127.0.0.1:{port}/secret?key=abc"), world.channel, None)
        world.write(b"a")
        await until(lambda: deliveries.status(7).retried >= 3)  # type: ignore[union-attr]
        seen = deliveries.status(7)
        assert seen is not None
        assert seen.state in (State.BACKING_OFF, State.CONNECTING)
        assert seen.error is not None
        assert seen.error.kind == "refused"
        assert len(world.told) == 1
        assert world.told[0][0] == 172
        assert b"connection refused" in world.told[0][1]
        assert b"key" not in world.told[0][1]
        assert seen.to_dict()["pending"] == 1
        json.dumps(seen.to_dict())


async def test_a_server_that_closes_idle_connections_costs_no_failure() -> None:
    world = World()

    async def once(post: Post, stream: trio.SocketStream) -> None:
        await stream.send_all(OK)

    async with http_receiver(once) as receiver, running(world) as deliveries:
        deliveries.add(spec(f"http://127.0.0.1:{receiver.port}"), world.channel, None)
        for number in range(5):
            world.write(b"%d" % number)
            await receiver.post()
            await settled(deliveries)
        seen = deliveries.status(7)
        assert seen is not None
        assert (seen.delivered, seen.error) == (5, None)
        assert receiver.connections == 5


async def test_retry_after_wins_over_the_back_off() -> None:
    world = World()
    answer = reply(503, "Retry-After: 1")
    async with http_receiver(answers(answer)) as receiver, running(world, limits=QUICK) as deliveries:
        deliveries.add(spec(f"http://127.0.0.1:{receiver.port}"), world.channel, None)
        world.write(b"a")
        await receiver.post()
        before = trio.current_time()
        await receiver.post()
        assert trio.current_time() - before > 0.9


async def test_a_loss_is_told_first_and_counted() -> None:
    world = World(ring_lines=10)
    async with http_receiver() as receiver, running(world) as deliveries:
        deliveries.add(spec(f"http://127.0.0.1:{receiver.port}"), world.channel, None)
        world.write(b"before")
        await receiver.post()
        await settled(deliveries)
        state = deliveries._drains[7].state
        deliveries.remove(7)
        state.lost.clear()
        state.cursor = 1
        world.write(b"lost 1", b"lost 2", b"lost 3")
        world.spool.oldest = 3
        world.channel.release_ring()
        world.write(b"after")
        deliveries.add(spec(f"http://127.0.0.1:{receiver.port}"), world.channel, state)
        post = await receiver.post()
        assert post.count == 2
        assert post.range == (3, 3)
        assert post.texts == [
            b"Error L10 (output buffer overflow): 2 messages dropped since 2026-02-02T02:40:00+00:00.",
            b"lost 3",
        ]
        assert b"<172>1 " in post.body[:12]
        assert b" host heroku logplex - Error L10" in post.body
        post = await receiver.post()
        assert (post.count, post.texts) == (1, [b"after"])
        await settled(deliveries)
        seen = deliveries.status(7)
        assert seen is not None
        assert (seen.delivered, seen.lost, seen.pending) == (3, {"overrun": 2}, 0)


async def test_the_cut_of_a_failed_batch_survives_a_restart() -> None:
    world = World()
    async with http_receiver(answers(reply(503))) as receiver, running(world, limits=QUICK) as deliveries:
        deliveries.add(spec(f"http://127.0.0.1:{receiver.port}"), world.channel, None)
        world.write(b"a", b"b")
        first = await receiver.post()
        while deliveries.status(7).error is None:  # type: ignore[union-attr]
            await trio.lowlevel.checkpoint()
        rows = [state.to_row() for state in deliveries.dirty()]
    world.write(b"c")
    from drains.state import DrainState

    async with http_receiver() as receiver, running(world, limits=QUICK) as deliveries:
        deliveries.add(spec(f"http://127.0.0.1:{receiver.port}"), world.channel, DrainState.from_row(rows[0]))
        second, third = await receiver.post(), await receiver.post()
        assert (second.id, second.body) == (first.id, first.body)
        assert third.texts == [b"c"]


async def test_a_retry_carries_the_same_lines_when_the_ring_holds_only_their_end() -> None:
    world = World(ring_lines=16)

    async def refuse(post: Post, stream: trio.SocketStream) -> bytes:
        if world.channel.ring_oldest == 0:
            world.numbers(12, batch=4)  # now the first of the lines that were refused are in the spool only
        return b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n"

    async with http_receiver(answers(refuse)) as receiver, running(world) as deliveries:
        deliveries.add(spec(f"http://127.0.0.1:{receiver.port}/"), world.channel, None)
        world.numbers(12, batch=4)
        with trio.fail_after(8):
            first, again = await receiver.post(), await receiver.post()
            await settled(deliveries)
    assert 0 < world.channel.ring_oldest < first.range[1]
    assert (first.range, first.id, first.texts) == (again.range, again.id, again.texts)


async def test_lines_for_tails_only_are_passed_over() -> None:
    world = World()
    async with http_receiver() as receiver, running(world) as deliveries:
        deliveries.add(spec(f"http://127.0.0.1:{receiver.port}"), world.channel, None)
        world.write(b"secret", tails_only=True)
        world.write(b"a")
        world.write(b"secret", tails_only=True)
        world.write(b"b")
        got: list[bytes] = []
        while len(got) < 2:
            got += (await receiver.post()).texts
        world.write(b"secret", tails_only=True)
        await settled(deliveries)
        seen = deliveries.status(7)
        assert seen is not None
        assert got == [b"a", b"b"]
        assert (seen.delivered, seen.filtered, seen.pending) == (2, 3, 0)


async def test_a_change_of_url_keeps_the_cursor() -> None:
    world = World()
    async with http_receiver() as old, http_receiver() as new, running(world) as deliveries:
        deliveries.add(spec(f"http://127.0.0.1:{old.port}"), world.channel, None)
        world.write(b"a")
        await old.post()
        await settled(deliveries)
        deliveries.change(spec(f"http://127.0.0.1:{new.port}"))
        world.write(b"b")
        assert (await new.post()).texts == [b"b"]
        await settled(deliveries)
        assert deliveries.status(7).delivered == 2  # type: ignore[union-attr]


async def test_options_shape_what_arrives() -> None:
    world = World()
    async with http_receiver() as receiver, running(world) as deliveries:
        drain = spec(
            f"http://127.0.0.1:{receiver.port}", format="json", compress="gzip", filter={"text": "keep"}, linger=0.05
        )
        deliveries.add(drain, world.channel, None)
        world.write(b"keep 1", b"drop", b"keep 2 \xff", b"drop")
        post = await receiver.post()
        assert post.headers[b"content-encoding"] == b"gzip"
        assert post.headers[b"content-type"] == b"application/x-ndjson"
        assert post.count == 2
        assert post.range == (0, 3)
        lines = [json.loads(line) for line in gzip.decompress(post.body).splitlines()]
        assert lines[0] == {
            "app": "app-1",
            "source": "app",
            "process": "web.1",
            "time": "2026-01-31T12:00:00.123456+00:00",
            "severity": "info",
            "position": 0,
            "message": "keep 1",
        }
        assert lines[1]["message"] == "keep 2 �"
        assert lines[1]["position"] == 2
        await settled(deliveries)
        seen = deliveries.status(7)
        assert seen is not None
        assert (seen.delivered, seen.filtered, seen.pending) == (2, 2, 0)


async def test_rfc5424_over_http_has_the_drain_token_as_host() -> None:
    world = World()
    async with http_receiver() as receiver, running(world) as deliveries:
        deliveries.add(spec(f"http://127.0.0.1:{receiver.port}", format="rfc5424"), world.channel, None)
        world.write(b"[a] text")
        post = await receiver.post()
        assert texts(post.body) == [b"[a] text"]
        assert b" d.12345678-1234-4234-8234-123456789012 app web.1 - - [a] text\n" in post.body


async def test_a_replay_sends_history_again_and_is_counted_apart() -> None:
    world = World()
    async with http_receiver() as receiver, running(world) as deliveries:
        deliveries.add(spec(f"http://127.0.0.1:{receiver.port}"), world.channel, None)
        world.write(b"a", b"b", b"c")
        original = await receiver.post()
        await settled(deliveries)
        assert deliveries.replay(7, 1) == 2
        again = await receiver.post()
        assert again.texts == [b"b", b"c"]
        assert again.range == (1, 2)
        assert again.id != original.id
        await until(lambda: deliveries.status(7).replaying is None)  # type: ignore[union-attr]
        seen = deliveries.status(7)
        assert seen is not None
        assert (seen.delivered, seen.replayed) == (3, 2)
        assert deliveries.replay(7, 3) == 0


async def test_a_replay_has_all_its_lines_and_does_not_linger() -> None:
    world = World()
    world.write(b"a", b"b", b"c")
    state = DrainState(7, world.channel.id, world.channel.epoch, 3)
    async with http_receiver() as receiver, running(world) as deliveries:
        deliveries.add(spec(f"http://127.0.0.1:{receiver.port}", linger=60), world.channel, state)
        assert deliveries.replay(7, 1) == 2
        assert (await receiver.post()).texts == [b"b", b"c"]
