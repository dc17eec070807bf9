"""The ledger balances at every moment, whatever comes in, and after it was saved and loaded."""

import contextlib
from collections.abc import Collection

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from logplex.errors import ClientError, StoreError
from logplex.ledger import Ledger, Page

from .core import EVERYONE, Core, feed

KNOWN = "t.00000001-0000-4000-8000-000000000001"
LOOP = "d.00000000-0000-4000-8000-00000000000d"


def frame(app: str, text: str, host: str = "host") -> bytes:
    message = f"<13>1 2026-11-22T02:50:00Z {host} {app} web.1 - - {text}".encode()
    return b"%d %b" % (len(message), message)


inputs = st.lists(
    st.one_of(
        st.builds(frame, st.sampled_from([KNOWN, "t.unknown"]), st.sampled_from(["a", "x" * 25_000])),
        st.builds(frame, st.just(KNOWN), st.just("a"), st.just(LOOP)),
        st.sampled_from([b"5 rubbi", b"99999999 ", b"no syslog\n", b"<13>1 bad\n"]),
    ),
    max_size=6,
).map(b"".join)
steps = st.lists(st.tuples(st.sampled_from(["stream", "body", "wrong count", "own"]), inputs), max_size=6)


@given(steps=steps)
def test_node_and_channels_balance_after_every_step(steps: list[tuple[str, bytes]]) -> None:
    async def run() -> None:
        core = Core()
        token = core.add_token(1)
        token.id = KNOWN
        core.tokens.stored[KNOWN] = token
        core.tokens.drain_tokens.add(LOOP)
        for kind, data in steps:
            if kind == "own" and (channel := core.channels.get(1)) is not None:
                core.router.own(channel, 172, b"Error L10")
            elif kind == "stream":
                stream = core.router.stream()
                await feed(stream, data)
                assert core.balanced()
                await stream.end()
            else:
                with contextlib.suppress(ClientError):
                    await core.router.take_body(data, EVERYONE, expected=77 if kind == "wrong count" else None)
            assert core.balanced()
        for channel in core.channels:
            assert channel.page.memory == channel.head

    trio.run(run)


@pytest.mark.parametrize("fails", [False, True])
async def test_lines_whose_tokens_are_being_loaded_count_when_it_is_known_where_they_go(
    monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    core = Core()
    token = core.add_token(1)
    load = core.tokens.load_tokens
    seen: list[tuple[bool, int]] = []

    async def watched(ids: Collection[str]) -> None:
        seen.append((core.balanced(), core.ledger.frames))
        if fails:
            raise StoreError("the disk hangs")
        await load(ids)

    monkeypatch.setattr(core.tokens, "load_tokens", watched)
    stream = core.router.stream()
    with pytest.raises(StoreError) if fails else contextlib.nullcontext():
        await feed(stream, b"5 rubbi" + frame(token.id, "one") + frame(token.id, "two"))
    assert seen == [(True, 1)]
    assert core.balanced()
    ledger = core.ledger
    assert (ledger.frames, ledger.malformed) == (3, 1)
    assert (ledger.received, ledger.unknown_token) == ((0, 2) if fails else (2, 0))


def balance(page: Page) -> int:
    return page.received + page.own - page.stored - page.memory - page.writing - sum(page.dropped.values())


def test_a_page_that_was_saved_with_lines_in_flight_balances_when_it_is_loaded() -> None:
    page = Page()
    page.received, page.own, page.stored, page.memory, page.writing = 20, 2, 10, 5, 7
    page.drop("loop", 3)
    for written, healed in ((0, 0), (4, 0), (7, 5)):
        loaded = Page()
        loaded.load(page.to_row(written=written, healed=healed))
        assert balance(page) == balance(loaded) == 0
        assert loaded.stored == 10 + written + healed
        assert loaded.writing == 0


def test_a_ledger_goes_on_from_what_was_saved() -> None:
    ledger = Ledger()
    ledger.drop("malformed", 2)
    ledger.drop("unknown_token")
    ledger.drop("kernel", 3)
    ledger.refuse("Unauthorized")
    loaded = Ledger()
    loaded.load(ledger.to_row())
    loaded.drop("kernel")
    assert loaded.frames == 7
    assert loaded.refused == {"kernel": 4}
    assert loaded.requests_refused == {"Unauthorized": 1}
