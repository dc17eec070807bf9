"""The poller: sockets that are told, and calls that come from everywhere."""

import os
import socket
import threading
from collections.abc import Iterator

import pytest
import trio
from trio.abc import Instrument

from logplex.poller import INPUT, Poller

from .polling import polling, until

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    yield ours, theirs
    ours.close()
    theirs.close()


@pytest.fixture(params=[0.0, 60.0], ids=["sleeps", "looks"])
def busy(request: pytest.FixtureRequest) -> float:
    return float(request.param)


async def settled() -> None:
    """Some turns later."""
    for _ in range(20):
        await trio.sleep(0.001)


async def test_a_socket_is_told_once_a_change(pair: Pair, busy: float) -> None:
    ours, theirs = pair
    seen: list[object] = []
    async with polling(Poller(busy_seconds=busy)) as poller:
        poller.add(ours.fileno(), seen.append)
        await until(lambda: len(seen) >= 1)  # it can be written to
        await settled()
        assert len(seen) == 1
        theirs.send(b"x")
        await until(lambda: len(seen) >= 2)
        await settled()
        assert len(seen) == 2


async def test_a_socket_is_told_as_long_as_there_is_input(pair: Pair, busy: float) -> None:
    ours, theirs = pair
    seen: list[object] = []
    async with polling(Poller(busy_seconds=busy)) as poller:
        poller.add(ours.fileno(), seen.append, INPUT)
        await settled()
        assert seen == []
        theirs.send(b"x")
        await until(lambda: len(seen) >= 100)
        ours.recv(1)
        told = len(seen)
        await settled()
        assert len(seen) <= told + 1  # one may have been on its way


async def test_a_socket_that_was_removed_is_not_told(pair: Pair, busy: float) -> None:
    ours, theirs = pair
    seen: list[object] = []
    async with polling(Poller(busy_seconds=busy)) as poller:
        poller.add(ours.fileno(), seen.append, INPUT)
        poller.remove(ours.fileno())
        poller.remove(ours.fileno())
        theirs.send(b"x")
        await settled()
        assert seen == []


async def test_a_socket_that_is_removed_by_what_another_is_told_is_not_told(pair: Pair, busy: float) -> None:
    ours, theirs = pair
    both = {ours.fileno(): theirs.fileno(), theirs.fileno(): ours.fileno()}
    seen: list[object] = []
    async with polling(Poller(busy_seconds=busy)) as poller:

        def tell(number: int) -> None:
            seen.append(number)
            poller.remove(both[number])

        for number in both:
            poller.add(number, lambda events, number=number: tell(number))  # type: ignore[misc]
        await until(lambda: len(seen) >= 1)
        await settled()
        assert len(seen) == 1


async def test_calls_follow_what_is_ready_in_the_same_turn(pair: Pair, busy: float) -> None:
    ours, theirs = pair
    seen: list[object] = []
    async with polling(Poller(busy_seconds=busy)) as poller:

        def told(_events: int, name: str) -> None:
            seen.append(name)
            if len(seen) == 1:
                poller.call_soon(lambda: (seen.append("call"), poller.call_soon(lambda: seen.append("again"))))

        for sock, name in ((ours, "ours"), (theirs, "theirs")):
            poller.add(sock.fileno(), lambda events, name=name: told(events, name))  # type: ignore[misc]
        await until(lambda: len(seen) >= 4)
        assert sorted(map(str, seen[:2])) == ["ours", "theirs"]
        assert seen[2:] == ["call", "again"]


async def test_calls_of_many_threads_are_each_made_once_in_order_in_trios_thread(busy: float) -> None:
    threads, calls = 4, 2000
    here = threading.get_ident()
    seen: list[object] = []
    async with polling(Poller(busy_seconds=busy)) as poller:

        def called(who: int, number: int) -> None:
            assert threading.get_ident() == here
            seen.append((who, number))

        def call(who: int) -> None:
            for number in range(calls):
                poller.call_soon(lambda number=number: called(who, number))  # type: ignore[misc]
                if number % 97 == 0:
                    os.sched_yield()

        workers = [threading.Thread(target=call, args=(who,)) for who in range(threads)]
        for worker in workers:
            worker.start()
        await until(lambda: len(seen) >= threads * calls)
        for worker in workers:
            worker.join()
        await settled()
    for who in range(threads):
        assert [number for of, number in seen if of == who] == list(range(calls))  # type: ignore[misc]


async def test_a_call_wakes_a_poller_that_has_nothing_to_do(busy: float) -> None:
    seen: list[object] = []
    async with polling(Poller(busy_seconds=busy)) as poller:
        for number in range(100):
            await settled() if number % 25 == 0 else await trio.lowlevel.checkpoint()
            worker = threading.Thread(target=poller.call_soon, args=(lambda number=number: seen.append(number),))
            worker.start()
            await until(lambda number=number: len(seen) > number)
            worker.join()
    assert seen == list(range(100))


async def test_calls_are_made_before_the_poller_runs_and_after_it_has_ended(busy: float) -> None:
    seen: list[object] = []
    poller = Poller(busy_seconds=busy)
    poller.call_soon(lambda: seen.append("before"))
    await until(lambda: len(seen) >= 1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(poller.run)
        await settled()
        nursery.cancel_scope.cancel()
        poller.call_soon(lambda: seen.append("cancelled"))
    poller.call_soon(lambda: seen.append("after"))
    await until(lambda: len(seen) >= 3)
    assert seen == ["before", "cancelled", "after"]
    poller.close()


async def test_other_tasks_have_their_turn_while_there_is_always_something(
    pair: Pair, busy: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("logplex.poller.SLICE_SECONDS", -1.0)
    ours, theirs = pair
    seen: list[object] = []
    async with polling(Poller(busy_seconds=busy)) as poller:
        theirs.send(b"x")
        poller.add(ours.fileno(), seen.append, INPUT)
        await until(lambda: len(seen) >= 1)
        for _ in range(10):
            told = len(seen)
            await trio.lowlevel.checkpoint()
            assert len(seen) <= told + 1


async def test_what_is_told_and_raises_ends_the_poller(pair: Pair, busy: float) -> None:
    def told(_events: int) -> None:
        raise RuntimeError("a bug")

    async def poll() -> None:
        async with polling(Poller(busy_seconds=busy)) as poller:
            poller.add(pair[0].fileno(), told)
            await trio.sleep_forever()

    with pytest.raises(ExceptionGroup) as caught:
        await poll()
    assert caught.group_contains(RuntimeError, match="a bug")


async def test_nothing_can_be_watched_or_forgotten_behind_the_end(pair: Pair, busy: float) -> None:
    async with polling(Poller(busy_seconds=busy)) as poller:
        poller.add(pair[0].fileno(), lambda events: None)
    poller.remove(pair[0].fileno())
    with pytest.raises(ValueError, match="closed"):
        poller.add(pair[0].fileno(), lambda events: None)


class Sleeps(Instrument):
    """Whether the loop ever meant to sleep."""

    seen = False

    def before_io_wait(self, timeout: float) -> None:
        self.seen = self.seen or timeout > 0


async def test_a_busy_poller_looks_instead_of_sleeping_and_says_so(pair: Pair) -> None:
    ours, theirs = pair
    seen: list[object] = []
    rests: list[float] = []
    async with polling(Poller(busy_seconds=60, rested=rests.append)) as poller:
        poller.add(ours.fileno(), seen.append, INPUT)
        await until(lambda: len(rests) >= 2)
        sleeps = Sleeps()
        trio.lowlevel.add_instrument(sleeps)
        await settled()
        theirs.send(b"x")
        await until(lambda: len(seen) >= 1)
        trio.lowlevel.remove_instrument(sleeps)
        assert not sleeps.seen
    assert min(rests) > 0


async def test_a_busy_poller_sleeps_when_nothing_comes_for_so_long(pair: Pair) -> None:
    ours, theirs = pair
    seen: list[object] = []
    rests: list[float] = []
    async with polling(Poller(busy_seconds=0.001, rested=rests.append)) as poller:
        sleeps = Sleeps()
        trio.lowlevel.add_instrument(sleeps)
        await until(lambda: rests and sleeps.seen)
        trio.lowlevel.remove_instrument(sleeps)
        told = len(rests)
        await settled()
        assert len(rests) == told
        poller.add(ours.fileno(), lambda events: seen.append(ours.recv(1)), INPUT)
        theirs.send(b"x")
        await until(lambda: seen == [b"x"])
