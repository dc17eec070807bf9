"""Look-ups: cached, bounded, and never waited for longer than five seconds."""

import socket
import threading

import pytest
import trio
import trio.testing

from drains.limits import Limits
from drains.resolver import SystemResolver
from drains.status import Failure

from ..polling import until


class Names:
    """A look-up that hangs where a test says so."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.hang = threading.Event()
        self.lock = threading.Lock()
        self.running = 0
        self.most = 0

    def __call__(self, host: str) -> list[str]:
        with self.lock:
            self.asked.append(host)
            self.running += 1
            self.most = max(self.most, self.running)
        try:
            if host.startswith("hang"):
                self.hang.wait(10)
            if host.startswith("no"):
                raise socket.gaierror(socket.EAI_NONAME, "x")
            if host.startswith("again"):
                raise socket.gaierror(socket.EAI_AGAIN, "x")
            return [] if host.startswith("empty") else ["192.0.2.1"]
        finally:
            with self.lock:
                self.running -= 1


async def test_an_answer_is_kept_for_a_while() -> None:
    names = Names()
    resolver = SystemResolver(Limits(look_up_cache_seconds=0.05), look_up=names)
    assert await resolver.resolve("a.example", 1) == ["192.0.2.1"]
    assert await resolver.resolve("a.example", 2) == ["192.0.2.1"]
    assert names.asked == ["a.example"]
    await trio.sleep(0.06)
    await resolver.resolve("a.example", 1)
    assert names.asked == ["a.example"] * 2


@pytest.mark.parametrize(
    ("host", "text"),
    [("no.example", "does not exist"), ("again.example", "did not answer"), ("empty.example", "has no address")],
)
async def test_a_failed_look_up_says_why_in_our_words(host: str, text: str) -> None:
    with pytest.raises(Failure, match=text) as caught:
        await SystemResolver(Limits(), look_up=Names()).resolve(host, 1)
    assert caught.value.kind == "dns"


async def test_names_that_never_answer_do_not_take_the_place_of_those_that_do() -> None:
    names = Names()
    resolver = SystemResolver(Limits(look_ups=10, look_ups_per_app=2, look_up_seconds=0.1), look_up=names)

    async def fail(number: int) -> None:
        with pytest.raises(Failure, match=r"too long|too many look-ups are waiting"):
            await resolver.resolve(f"hang{number}.example", number % 3)

    try:
        async with trio.open_nursery() as nursery:
            for number in range(30):
                nursery.start_soon(fail, number)
            await until(lambda: len(names.asked) == 6)
            assert names.most == 6  # three apps, two each
            with trio.fail_after(2):
                assert await resolver.resolve("good.example", 99) == ["192.0.2.1"]
        # Their threads still hang: the places stay taken, and no app gets more than its two.
        assert names.running == 6
        with pytest.raises(Failure, match="too many look-ups are waiting"):
            await resolver.resolve("b.example", 1)
        assert await resolver.resolve("c.example", 100) == ["192.0.2.1"]
    finally:
        names.hang.set()
    await until(lambda: resolver._all.used == 0)
    assert await resolver.resolve("d.example", 1) == ["192.0.2.1"]


async def test_names_that_were_answered_before_find_a_place_among_new_ones_that_hang() -> None:
    names = Names()
    limits = Limits(look_ups=4, look_up_seconds=0.1, look_up_cache_seconds=0)
    resolver = SystemResolver(limits, look_up=names)
    await resolver.resolve("known.example", 50)
    try:
        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(_fails, resolver, f"hang{number}.example", number)
            await until(lambda: names.running == 3)  # of four
            assert await resolver.resolve("known.example", 51) == ["192.0.2.1"]
            assert names.asked.count("known.example") == 2
            await _fails(resolver, "new.example", 52)
    finally:
        names.hang.set()
    await until(lambda: resolver._all.used == 0)
    assert 52 not in resolver._slow  # it only waited, and has its look-up now
    assert await resolver.resolve("new.example", 52) == ["192.0.2.1"]


async def _fails(resolver: SystemResolver, host: str, app: int) -> None:
    with pytest.raises(Failure) as caught:
        await resolver.resolve(host, app)
    assert caught.value.kind == "dns"


async def test_a_name_is_looked_up_once_for_all_who_ask_at_the_same_moment() -> None:
    names = Names()
    resolver = SystemResolver(Limits(), look_up=names)
    got: list[list[str]] = []

    async def ask(app: int) -> None:
        got.append(await resolver.resolve("hang.example", app))

    async with trio.open_nursery() as nursery:
        first = trio.CancelScope()
        with first:
            async with trio.open_nursery() as inner:
                inner.start_soon(ask, 0)
                await until(lambda: names.running == 1)
                for app in range(1, 50):
                    nursery.start_soon(ask, app)
                await trio.testing.wait_all_tasks_blocked()
                assert names.asked == ["hang.example"]
                first.cancel()  # its drain was deleted: one of the others asks
        await until(lambda: names.running == 2)
        assert names.asked == ["hang.example"] * 2
        names.hang.set()
    assert got == [["192.0.2.1"]] * 49


async def test_an_app_that_waits_for_its_slow_names_does_not_make_others_wait_for_a_name_of_theirs() -> None:
    names = Names()
    limits = Limits(look_ups=8, look_up_seconds=0.1)
    resolver = SystemResolver(limits, look_up=names)
    try:
        async with trio.open_nursery() as nursery:
            for number in range(2):  # all that one app may have
                nursery.start_soon(_fails, resolver, f"hang{number}.example", 1)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_fails, resolver, "shared.example", 1)
            await trio.testing.wait_all_tasks_blocked()
            with trio.fail_after(2):
                assert await resolver.resolve("shared.example", 2) == ["192.0.2.1"]
    finally:
        names.hang.set()
    await until(lambda: resolver._all.used == 0)


async def test_an_old_answer_serves_while_the_name_server_is_away() -> None:
    names = Names()
    resolver = SystemResolver(Limits(look_up_cache_seconds=0, look_up_seconds=0.05), look_up=names)
    await resolver.resolve("a.example", 1)

    def away(host: str) -> list[str]:
        raise OSError("away")

    resolver._look_up = away
    assert await resolver.resolve("a.example", 1) == ["192.0.2.1"]


async def test_a_cancelled_look_up_gives_its_place_back() -> None:
    names = Names()
    resolver = SystemResolver(Limits(), look_up=names)
    try:
        with trio.move_on_after(0.02):
            await resolver.resolve("hang.example", 1)
        with trio.CancelScope() as scope:
            scope.cancel()
            await resolver.resolve("b.example", 1)
    finally:
        names.hang.set()
    await until(lambda: resolver._all.used == 0)
