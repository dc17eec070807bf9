"""All drains together: one drain never hurts another, and every page balances."""

from datetime import UTC, datetime
from typing import Any

import pytest
import trio

from drains.deliveries import Deliveries
from drains.limits import Limits
from drains.policy import Policy
from drains.probe import TooManyTests
from drains.rendering import renderer
from drains.spec import DrainSpec
from drains.state import DrainState
from drains.status import Failure
from logplex.batch import Batch

from ..polling import polling, until
from ..ports import free_port
from .world import (
    OK,
    TOKEN,
    NoResolver,
    Post,
    World,
    answers,
    http_receiver,
    running,
    serve,
    settled,
    spec,
    syslog_receiver,
)


def numbered(drain_id: int, url: str, **options: Any) -> DrainSpec:
    return DrainSpec.parse(drain_id, TOKEN, url, options)


async def test_a_crash_in_one_drain_is_counted_and_the_drain_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    limits = Limits(backoff_seconds=0.1, max_backoff_seconds=0.1, pause_seconds=0)
    bad = [True]

    def sometimes(self: Batch, token: bytes) -> bytes:
        if bad:
            bad.pop()
            raise RuntimeError("a bug")
        return real(self, token)

    real = Batch.syslog
    async with (
        syslog_receiver() as first,
        http_receiver() as second,
        running(world, limits=limits) as deliveries,
    ):
        deliveries.add(numbered(1, f"syslog://127.0.0.1:{first.port}"), world.channel, None)
        deliveries.add(numbered(2, f"http://127.0.0.1:{second.port}"), world.channel, None)
        monkeypatch.setattr(Batch, "syslog", sometimes)
        world.write(b"a")
        assert (await second.post()).texts == [b"a"]
        await until(lambda: deliveries.crashes == 1)
        world.write(b"b")
        assert await first.until(2) == [b"a", b"b"]
        bad.append(True)  # now inside a commit
        await trio.testing.wait_all_tasks_blocked(0.02)
        world.write(b"c")
        assert await first.until(3) == [b"a", b"b", b"c"]
        assert deliveries.crashes == 2
        assert (await second.post()).texts == [b"b"]


async def test_drains_that_hang_refuse_or_have_no_name_do_not_hold_up_the_others() -> None:
    world = World()

    async def hang(post: Post, stream: trio.SocketStream) -> None:
        await trio.sleep_forever()

    async with http_receiver(hang) as bad, http_receiver() as good, running(world) as deliveries:
        port = free_port()
        for number in range(100):
            url = (
                f"http://127.0.0.1:{bad.port}/",
                f"http://127.0.0.1:{port}/",
                "http://unknown.example/",
                "http://10.0.0.1/",
            )[number % 4]
            deliveries.add(numbered(number, url), world.channel, None)
        deliveries.add(numbered(1000, f"http://127.0.0.1:{good.port}/"), world.channel, None)
        for number in range(50):
            world.write(b"%d" % number)
            with trio.fail_after(5):
                assert (await good.post()).texts == [b"%d" % number]
        kinds = {
            status.error.kind
            for drain_id in deliveries
            if (status := deliveries.status(drain_id)) is not None and status.error is not None
        }
        assert kinds >= {"refused", "dns", "policy"}
        assert len(world.told) <= 2 * 75


@pytest.mark.parametrize("start", ["now", "oldest", 3, 100, "time"])
async def test_a_drain_starts_where_its_options_say(start: str | int) -> None:
    world = World()
    for number in range(6):
        world.now = 1_770_000_000_000 + number * 1000
        world.write(b"%d" % number)
    if start == "time":
        start = datetime.fromtimestamp(1_770_000_003.5, UTC).isoformat()
        expected = [b"4", b"5", b"6"]
    else:
        first = start if isinstance(start, int) else {"now": 6, "oldest": 0}[start]
        expected = [b"%d" % number for number in range(min(first, 6), 7)]
    async with syslog_receiver() as receiver, running(world) as deliveries:
        deliveries.add(spec(f"syslog://127.0.0.1:{receiver.port}", start=start), world.channel, None)
        await trio.testing.wait_all_tasks_blocked(0.01)
        world.write(b"6")
        assert await receiver.until(len(expected)) == expected
        await settled(deliveries)
        seen = deliveries.status(7)
        assert seen is not None
        assert seen.head - seen.start == seen.delivered == len(expected)


async def test_a_start_is_found_though_the_lines_before_it_are_gone_meanwhile() -> None:
    world = World()
    world.write(b"old", b"old")
    world.channel.pass_over(2)  # the spool alone has them
    async with syslog_receiver() as receiver, running(world) as deliveries:
        deliveries.add(spec(f"syslog://127.0.0.1:{receiver.port}", start="2020-01-01T00:00:00Z"), world.channel, None)
        world.spool.oldest = 2  # retention, before the drain's task looks
        await trio.testing.wait_all_tasks_blocked(0.01)
        world.write(b"new")
        assert await receiver.until(1) == [b"new"]
        await settled(deliveries)
        seen = deliveries.status(7)
        assert seen is not None
        assert (seen.start, seen.delivered, seen.lost, deliveries.crashes) == (2, 1, {}, 0)


async def test_a_drain_that_is_added_twice_is_a_mistake() -> None:
    world = World()
    async with running(world) as deliveries:
        deliveries.add(spec("http://127.0.0.1:9"), world.channel, None)
        with pytest.raises(ValueError, match="there already"):
            deliveries.add(spec("http://127.0.0.1:9"), world.channel, None)
        assert list(deliveries) == [7]
        assert len(deliveries) == 1


async def test_states_are_handed_out_when_they_changed_and_go_on_after_a_restart() -> None:
    world = World()
    limits = Limits(cursor_seconds=0)
    async with syslog_receiver() as receiver, running(world, limits=limits) as deliveries:
        deliveries.add(spec(f"syslog://127.0.0.1:{receiver.port}"), world.channel, None)
        assert [state.cursor for state in deliveries.dirty()] == [0]
        assert deliveries.dirty() == []
        world.write(b"a", b"b")
        await settled(deliveries)
        rows = [state.to_row() for state in deliveries.dirty()]
        assert deliveries.dirty() == []
    world.write(b"c")
    state = DrainState.from_row(rows[0])
    assert (state.cursor, state.delivered) == (2, 2)
    async with syslog_receiver() as receiver, running(world) as deliveries:
        deliveries.add(spec(f"syslog://127.0.0.1:{receiver.port}"), world.channel, state)
        assert await receiver.until(1) == [b"c"]


async def test_states_are_looked_at_ten_times_a_second_at_most() -> None:
    world = World()
    async with http_receiver() as receiver, running(world, limits=Limits(pause_seconds=0)) as deliveries:
        deliveries.add(spec(f"http://127.0.0.1:{receiver.port}"), world.channel, None)
        looked = 0
        with trio.fail_after(5):
            for number in range(50):
                world.write(b"%d" % number)
                looked += len(deliveries.dirty())
                await receiver.post()
        assert 1 <= looked < 10
        await settled(deliveries)
    assert [state.cursor for state in deliveries.dirty()] == [50]  # the server has stopped: whatever is left


async def test_a_new_epoch_behind_the_cursor_takes_it_back() -> None:
    world = World()
    world.write(b"a")
    state = DrainState(7, 1, "f" * 16, 0)
    state.deliver(10)
    async with syslog_receiver() as receiver, running(world) as deliveries:
        world.channel.epoch_first = 1
        deliveries.add(spec(f"syslog://127.0.0.1:{receiver.port}"), world.channel, state)
        world.write(b"b")
        assert await receiver.until(1) == [b"b"]
        await settled(deliveries)
        seen = deliveries.status(7)
        assert seen is not None
        assert seen.head - seen.start == seen.delivered == 11


async def test_lines_of_two_epochs_do_not_share_a_request() -> None:
    world = World()
    world.write(b"a", b"b", b"c", b"d")
    world.channel.epoch_first = 2
    state = DrainState(7, 1, "f" * 16, 0)
    async with http_receiver() as receiver, running(world) as deliveries:
        deliveries.add(spec(f"http://127.0.0.1:{receiver.port}"), world.channel, state)
        first, second = await receiver.post(), await receiver.post()
        assert (first.texts, first.headers[b"logplex-range"]) == ([b"a", b"b"], b"f" * 16 + b"/0-1")
        assert (second.texts, second.headers[b"logplex-range"]) == ([b"c", b"d"], b"0123456789abcdef/2-3")


async def test_a_channel_without_spool_loses_what_its_ring_gave_up() -> None:
    world = World()
    async with syslog_receiver() as receiver, running(world) as deliveries:
        world.write(b"a", b"b")
        world.spool.batches.clear()
        world.channel.release_ring()
        state = DrainState(7, 1, world.channel.epoch, 0)
        deliveries.add(spec(f"syslog://127.0.0.1:{receiver.port}"), world.channel, state)
        assert (await receiver.until(1))[0].startswith(b"Error L10 (output buffer overflow): 2 messages dropped")
        await settled(deliveries)
        seen = deliveries.status(7)
        assert seen is not None
        assert (seen.lost, seen.pending) == ({"overrun": 2}, 0)


@pytest.mark.parametrize("scheme", ["syslog", "syslog+udp"])
async def test_syslog_drains_replay_too(scheme: str) -> None:
    import socket

    world = World()
    async with syslog_receiver() as receiver, running(world) as deliveries:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind(("127.0.0.1", receiver.port))
            deliveries.add(spec(f"{scheme}://127.0.0.1:{receiver.port}"), world.channel, None)
            world.write(b"a", b"b", b"c")
            await settled(deliveries)
            assert deliveries.replay(7, 1) == 2
            await until(lambda: deliveries.status(7).replaying is None)  # type: ignore[union-attr]
            seen = deliveries.status(7)
            assert seen is not None
            assert (seen.delivered, seen.replayed, seen.pending) == (3, 2, 0)
            if scheme == "syslog":
                assert await receiver.until(5) == [b"a", b"b", b"c", b"b", b"c"]
            else:
                assert [sock.recv(1000)[-1:] for _ in range(5)] == [b"a", b"b", b"c", b"b", b"c"]


async def test_a_change_of_url_ends_a_replay_and_counts_what_it_did() -> None:
    world = World()

    async def hang(post: Post, stream: trio.SocketStream) -> None:
        await trio.sleep_forever()

    async with (
        http_receiver(answers(OK, hang)) as old,
        http_receiver() as new,
        running(world) as deliveries,
    ):
        deliveries.add(spec(f"http://127.0.0.1:{old.port}"), world.channel, None)
        world.write(b"a", b"b", b"c")
        await old.post()
        await settled(deliveries)
        deliveries.replay(7, 0)
        await old.post()
        deliveries.change(spec(f"http://127.0.0.1:{new.port}"))
        seen = deliveries.status(7)
        assert seen is not None
        assert (seen.replaying, seen.replayed, seen.delivered) == (None, 0, 3)
        world.write(b"d")
        assert (await new.post()).texts == [b"d"]


async def test_a_test_reports_each_step() -> None:
    world = World()
    async with http_receiver(answers(OK)) as receiver, running(world) as deliveries:
        report = await deliveries.test(spec(f"http://localhost:{receiver.port}/in"), world.channel)
        post = await receiver.post()
        assert post.count == 1
        assert post.texts[0].startswith(b"Test of drain 7")
        assert b"logplex-range" not in post.headers
        assert report.ok
        assert [step.name for step in report.steps] == ["resolve", "policy", "connect", "send"]
        assert report.to_dict()["steps"][3]["detail"] == "answered 200"
    assert world.channel.head == 0


@pytest.mark.parametrize(
    ("url", "failed", "error"),
    [
        ("http://unknown.example", "resolve", "the name does not exist"),
        ("http://10.0.0.1", "policy", "private address"),
        ("syslog://127.0.0.1:{free}", "connect", "connection refused"),
        ("https://localhost:{plain}", "tls", "TLS failed"),
        ("http://127.0.0.1:{plain}", "send", "closed the connection"),
        ("syslog://127.0.0.1:{plain}", "send", "closed the connection"),
        ("http://127.0.0.1:{refusing}", "send", "answered 403"),
    ],
)
async def test_a_test_says_where_it_failed(url: str, failed: str, error: str) -> None:
    world = World()

    async def close(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.receive_some(65536)

    refusal = b"HTTP/1.1 403 secret\r\nContent-Length: 6\r\n\r\nsecret"
    async with trio.open_nursery() as nursery, http_receiver(answers(refusal)) as refusing, running(world) as all_:
        listeners = await nursery.start(serve, close)
        plain = listeners[0].socket.getsockname()[1]
        url = url.format(free=free_port(), plain=plain, refusing=refusing.port)
        report = await all_.test(spec(url), world.channel)
        assert not report.ok
        assert report.steps[-1].name == failed
        assert error in report.steps[-1].error
        assert "secret" not in str(report.to_dict())
        nursery.cancel_scope.cancel()


async def test_syslog_and_udp_are_tested_too() -> None:
    world = World()
    async with syslog_receiver() as receiver, running(world) as deliveries:
        report = await deliveries.test(spec(f"syslog://127.0.0.1:{receiver.port}"), world.channel)
        assert report.ok
        assert report.steps[-1].detail == "acknowledged"
        assert (await receiver.until(1))[0].startswith(b"Test of drain 7")
        report = await deliveries.test(spec(f"syslog+udp://127.0.0.1:{receiver.port}"), world.channel)
        assert report.ok


async def test_an_app_may_test_ten_times_a_minute() -> None:
    world, other = World(), World(channel_id=2)
    async with running(world) as deliveries:
        for _ in range(10):
            await deliveries.test(spec("http://10.0.0.1"), world.channel)
        with pytest.raises(TooManyTests) as caught:
            await deliveries.test(spec("http://10.0.0.1"), world.channel)
        assert caught.value.status == 429
        assert 1 <= caught.value.retry_after <= 60
        await deliveries.test(spec("http://10.0.0.1"), other.channel)


async def test_nothing_of_a_receiver_or_a_url_leaks_into_status_or_lines() -> None:
    world = World()
    secret = b"HTTP/1.1 500 s3cret\r\nX-A: s3cret\r\nContent-Length: 6\r\n\r\ns3cret"
    async with http_receiver(answers(secret, secret)) as receiver, running(world) as deliveries:
        url = f"http://s3cret:s3cret@127.0.0.1:{receiver.port}/?key=s3cret"
        deliveries.add(spec(url, headers={"X-Key": "s3cret"}), world.channel, None)
        world.write(b"a")
        await until(lambda: deliveries.status(7).error is not None)  # type: ignore[union-attr]
        seen = deliveries.status(7)
        assert seen is not None
        assert "s3cret" not in str(seen.to_dict())
        assert b"s3cret" not in b"".join(text for _, text, _ in world.told)


async def test_a_drain_that_is_removed_while_it_waits_ends_at_once() -> None:
    world = World()

    class Slow(NoResolver):
        async def resolve(self, host: str, app: int) -> list[str]:
            await trio.sleep_forever()
            raise Failure("dns", "never")

    async with running(world, resolver=Slow()) as deliveries:
        deliveries.add(spec("http://slow.example"), world.channel, None)
        world.write(b"a")
        await trio.testing.wait_all_tasks_blocked()
        state = deliveries.remove(7)
        assert state is not None
        assert state.lost == {"deleted": 1}
        await trio.testing.wait_all_tasks_blocked()
        assert deliveries._site.connections.used == 0
        assert world.channel.followers == []


async def test_drains_that_are_added_before_the_start_run_from_then_on() -> None:
    world = World()
    async with http_receiver() as receiver, polling() as poller:
        deliveries = Deliveries(
            limits=Limits(),
            policy=Policy(["127.0.0.0/8"]),
            resolver=NoResolver(),
            poller=poller,
            tell=world.tell,
            version="0",
        )
        deliveries.add(spec(f"http://127.0.0.1:{receiver.port}"), world.channel, None)
        world.write(b"a")
        async with trio.open_nursery() as nursery:
            await nursery.start(deliveries.run)
            assert (await receiver.post()).texts == [b"a"]
            nursery.cancel_scope.cancel()


def test_a_renderer_knows_the_formats_of_every_kind() -> None:
    from logplex.batch import Line

    line = Line(b"190", b"-", b"app", b"-", b"text")
    assert renderer(spec("syslog://a.example", format="json"), "shop")(line, 0, 5).startswith(b"2")
    datagram = renderer(spec("udpsyslog://a.example", format="json"), "shop")(line, 0, 5)
    assert datagram.endswith(
        b'{"app":"shop","source":"app","process":null,"time":"1970-01-01T00:00:00.000+00:00",'
        b'"severity":"info","position":5,"message":"text"}'
    )
