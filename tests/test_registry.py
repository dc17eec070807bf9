"""The registry over the real store: tokens on demand, changes in order, who is asking, sessions."""

import base64
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from uuid import uuid4

import pytest
import trio
import trio.testing

from logplex.config import Settings
from logplex.errors import Conflict, NotFound, StoreError, TooManyFailures, Unauthorized, Unprocessable
from logplex.registry import Change, DrainRecord, Registry, ServiceState, Token, tokens
from logplex.registry.records import ChannelRecord
from logplex.registry.store import Call
from logplex.registry.tokens import TokenTable
from logplex.store.config import ConfigStore


class Clocks:
    """A monotonic and a wall clock that stand still."""

    now = 1000.0
    wall = 1_700_000_000.0


class Here:
    """A registry over a store in a directory, its clocks, and every change it told."""

    def __init__(self, store: ConfigStore, clocks: Clocks) -> None:
        self.store = store
        self.clocks = clocks
        self.registry = Registry(store, Settings(), clock=lambda: clocks.now, wall_clock=lambda: clocks.wall)
        self.changes: list[Change] = []
        self.registry.subscribe(self.changes.append)

    @property
    def kinds(self) -> list[str]:
        return [change.kind for change in self.changes]

    async def app(self, name: str = "shop") -> str:
        """A channel with one token `app`; the token's id."""
        _, info = await self.registry.put_channel(name, ["app"])
        return info.tokens[0].id


@pytest.fixture
async def here(tmp_path: Path) -> AsyncIterator[Here]:
    async with ConfigStore(tmp_path) as store:
        here = Here(store, Clocks())
        await here.registry.load()
        yield here


@pytest.fixture
async def restarted(here: Here) -> Here:
    """`here` with the app `shop`, seen by a registry that has loaded nothing yet."""
    await here.app()
    again = Here(here.store, here.clocks)
    await again.registry.load()
    return again


async def token_ids(store: ConfigStore) -> list[str]:
    return await store.run(lambda db: [row[0] for row in db.execute("SELECT id FROM tokens ORDER BY seq")])


def unknown_id() -> str:
    return f"t.{uuid4()}"


# Tokens


async def test_a_token_is_loaded_on_demand_and_shares_its_channel(restarted: Here) -> None:
    registry = restarted.registry
    first = (await token_ids(restarted.store))[0]
    second = (await Here(restarted.store, restarted.clocks).registry.create_token("shop", "web")).id
    assert registry.token(first) is None
    assert not registry.unknown(first)
    await registry.load_tokens([first, second])
    one, two = registry.tokens[first], registry.tokens[second]
    assert (one.name, two.name, one.channel.name) == ("app", "web", "shop")
    assert one.channel is two.channel
    assert await registry.channel("shop") is one.channel
    await registry.set_flags("shop", ["no_tail"])
    assert one.channel.flags == {"no_tail"}


async def test_an_unknown_token_is_remembered_for_five_seconds(here: Here) -> None:
    registry, missing = here.registry, unknown_id()
    assert not registry.unknown(missing)
    await registry.load_tokens([missing])
    assert registry.unknown(missing)
    here.clocks.now += 4.9
    assert registry.unknown(missing)
    here.clocks.now += 0.1
    assert not registry.unknown(missing)


@pytest.mark.parametrize("text", ["", "app", "t.", "d." + "0" * 36, "t." + "0" * 35, "t." + "0" * 37])
async def test_what_has_not_the_form_of_a_token_is_unknown_without_looking(here: Here, text: str) -> None:
    assert here.registry.unknown(text)


async def test_a_token_that_was_unknown_works_from_its_creation(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = uuid4()
    await here.registry.load_tokens([f"t.{wanted}"])
    monkeypatch.setattr("logplex.store.config_channels.uuid4", lambda: wanted)
    assert await here.app() == f"t.{wanted}"
    assert not here.registry.unknown(f"t.{wanted}")
    assert f"t.{wanted}" in here.registry.tokens


async def test_a_removed_token_is_dead_when_the_call_returns(here: Here) -> None:
    token = await here.app()
    assert token in here.registry.tokens
    assert here.registry.authenticate(b"Bearer " + token.encode(), "") is not None
    await here.registry.put_channel("shop", [])
    assert token not in here.registry.tokens
    assert here.registry.authenticate(b"Bearer " + token.encode(), "") is None
    with pytest.raises(Unauthorized):
        await here.registry.authenticate_slow(b"Bearer " + token.encode(), "")


async def test_loads_that_are_asked_for_meanwhile_are_one_load(
    restarted: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, loads = restarted.store.load_tokens, []

    def counted(ids: list[str]) -> Call[list[Token]]:
        loads.append(list(ids))
        return real(ids)

    monkeypatch.setattr(restarted.store, "load_tokens", counted)
    present = (await token_ids(restarted.store))[0]
    others = [unknown_id() for _ in range(20)]
    async with trio.open_nursery() as nursery:
        for token_id in (present, *others, *others):
            nursery.start_soon(restarted.registry.load_tokens, [token_id])
    assert len(loads) == 2, "the first, and one for all that came while it was under way"
    assert {*loads[0], *loads[1]} == {present, *others}
    assert present in restarted.registry.tokens
    assert all(restarted.registry.unknown(token_id) for token_id in others)


async def test_a_failed_load_is_told_to_whoever_waits_and_tried_again(
    restarted: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    token_id = (await token_ids(restarted.store))[0]
    await restarted.store.run(lambda db: db.execute("ALTER TABLE tokens RENAME TO gone"))
    with pytest.raises(StoreError):
        await restarted.registry.load_tokens([token_id])
    await restarted.store.run(lambda db: db.execute("ALTER TABLE gone RENAME TO tokens"))
    await restarted.registry.load_tokens([token_id])
    assert token_id in restarted.registry.tokens


def add(table: TokenTable, token_id: str, channel: ChannelRecord) -> None:
    table.apply(Change("token_added", Token(token_id, "app", channel)))


async def test_a_full_table_gives_up_the_tokens_loaded_first_but_not_those_in_use(here: Here) -> None:
    table = TokenTable(here.store, lambda: 0.0, max_tokens=80, max_unknown=100)
    busy, quiet = ChannelRecord(1, "busy"), ChannelRecord(2, "quiet")
    table.in_use = lambda channel_id: channel_id == busy.id
    add(table, "busy", busy)
    for number in range(1000):
        add(table, f"t{number}", quiet)
        assert len(table.tokens) <= 80
    assert "busy" in table.tokens
    assert "t999" in table.tokens
    assert "t0" not in table.tokens


async def test_the_bound_holds_when_every_channel_is_in_use(here: Here) -> None:
    table = TokenTable(here.store, lambda: 0.0, max_tokens=80, max_unknown=100)
    table.in_use = lambda channel_id: True
    for number in range(1000):
        add(table, f"t{number}", ChannelRecord(number, "c"))
        assert len(table.tokens) <= 80
        assert f"t{number}" in table.tokens


async def test_unknown_tokens_are_bounded_and_the_newest_stay(here: Here) -> None:
    table = TokenTable(here.store, lambda: 0.0, max_tokens=80, max_unknown=100)
    batches = [[unknown_id() for _ in range(40)] for _ in range(5)]
    for batch in batches:
        await table.load(batch)
        assert all(table.unknown(token_id) for token_id in batch)
        assert len(table._unknown) <= 100
    assert not table.unknown(batches[0][0])


def test_the_tables_hold_what_the_largest_body_can_name() -> None:
    shortest = len("57 <0>1 - - t." + "0" * 36 + " - - ")
    assert Settings().max_body_bytes / shortest < min(tokens.MAX_TOKENS, tokens.MAX_UNKNOWN)


# Changes


async def test_changes_are_told_in_order_before_the_call_returns(here: Here) -> None:
    registry = here.registry
    await here.app()
    assert here.kinds == ["channel_added", "token_added"]
    reserved = await registry.reserve_drain("shop")
    assert registry.is_drain_token(reserved.token)
    assert reserved.id not in registry.drains
    drain = await registry.set_drain("shop", reserved.id, "http://one/", {})
    assert registry.drains[drain.id] == drain
    changed = await registry.set_drain("shop", reserved.id, "http://two/", {})
    assert registry.drains[drain.id] == changed
    await registry.set_state(ServiceState("read_only"))
    assert registry.state.api == "read_only"
    assert here.kinds[2:] == ["drain_reserved", "drain_added", "drain_changed", "state"]
    await registry.delete_channel("shop")
    assert here.kinds[6:] == ["token_removed", "drain_removed", "channel_removed"]
    assert (registry.drains, registry.drain_tokens, registry.tokens) == ({}, set(), {})


async def test_a_refused_change_is_told_to_nobody(here: Here) -> None:
    await here.app()
    await here.registry.create_drain("shop", "http://one/", {})
    before = list(here.changes)
    with pytest.raises(Conflict):
        await here.registry.create_drain("shop", "http://one/", {})
    assert here.changes == before


async def test_the_limit_of_drains_is_a_setting(here: Here) -> None:
    await here.app()
    for number in range(Settings().drains_per_channel):
        await here.registry.create_drain("shop", f"http://{number}/", {})
    await here.registry.reserve_drain("shop")
    with pytest.raises(Unprocessable):
        await here.registry.create_drain("shop", "http://more/", {})


async def test_drains_and_state_are_there_after_a_restart(here: Here) -> None:
    await here.app()
    drain = await here.registry.create_drain("shop", "http://one/", {"linger": 1})
    reserved = await here.registry.reserve_drain("shop")
    await here.registry.set_state(ServiceState("disabled", ingress=False))
    again = Here(here.store, here.clocks).registry
    await again.load()
    assert again.drains == {drain.id: drain}
    assert again.is_drain_token(drain.token)
    assert again.is_drain_token(reserved.token)
    assert not again.is_drain_token("d.x")
    assert again.state == ServiceState("disabled", ingress=False)


async def test_a_change_whose_caller_has_gone_is_told_all_the_same(here: Here) -> None:
    released = threading.Event()
    here.store.submit(lambda db: released.wait(10), lambda outcome: None)
    told = trio.Event()
    here.registry.subscribe(lambda change: told.set() if change.kind == "channel_added" else None)
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(here.registry.put_channel, "shop", ["app"])
            await trio.testing.wait_all_tasks_blocked()
            scope.cancel()
    assert here.changes == []
    released.set()
    await told.wait()
    await trio.testing.wait_all_tasks_blocked()
    assert here.kinds == ["channel_added", "token_added"]
    assert len(here.registry.tokens) == 1


async def test_a_subscriber_that_fails_keeps_nobody_from_being_told(here: Here) -> None:
    registry = Registry(here.store, Settings())
    told: list[str] = []

    def fail(change: Change) -> None:
        raise ZeroDivisionError

    registry.subscribe(fail)
    registry.subscribe(lambda change: told.append(change.kind))
    with pytest.raises(ZeroDivisionError):
        await registry.put_channel("shop", ["app"])
    assert told == ["channel_added", "token_added"]


async def test_channels_are_found_by_name_and_by_id(here: Here) -> None:
    await here.app()
    found = await here.registry.channel("shop")
    assert found is not None
    assert await here.registry.channel_by_id(found.id) is found
    assert await here.registry.channel("none") is None
    assert [channel.name for channel in await here.registry.channels("", 10)] == ["shop"]
    assert await here.registry.known_channel_ids([found.id, 99]) == {found.id}


# Who is asking


def basic(name: str, password: str) -> bytes:
    return b"Basic " + base64.b64encode(f"{name}:{password}".encode())


async def test_a_token_logs_in_quickly_once_it_is_loaded(restarted: Here) -> None:
    registry = restarted.registry
    token = (await token_ids(restarted.store))[0]
    headers = [basic("token", token), b"Bearer " + token.encode()]
    for header in headers:
        assert registry.authenticate(header, "") is None
    principal = await registry.authenticate_slow(headers[0], "")
    assert (principal.kind, principal.full_api, principal.shown) == ("token", False, "shop/app")
    assert principal.token is registry.tokens[token]
    assert principal.may_write(principal.token.channel_id)
    assert not principal.may_write(principal.token.channel_id + 1)
    for header in headers:
        assert registry.authenticate(header, "") == principal


@pytest.mark.parametrize(
    "header", [None, b"", b"Basic ?", basic("nobody", "x"), basic("token", "t.x"), basic("bad id", "x"), b"Bearer t.x"]
)
async def test_whoever_is_unknown_is_unauthorized(here: Here, header: bytes | None) -> None:
    with pytest.raises(Unauthorized):
        await here.registry.authenticate_slow(header, "10.0.0.1")


async def test_a_password_is_checked_once_and_then_known(here: Here) -> None:
    registry = here.registry
    await here.app()
    _, made = await registry.create_credential("bob", ["channel:shop", "any_channel"])
    _, chosen = await registry.create_credential("eve", ["app:shop"], "a chosen one")
    shop = await registry.channel("shop")
    assert shop is not None
    assert registry.authenticate(basic("bob", made), "") is None
    bob = await registry.authenticate_slow(basic("bob", made), "")
    assert bob.may_write_any
    assert bob.may_write(12345)
    assert not bob.may_read(shop.id)
    assert registry.authenticate(basic("bob", made), "") == bob
    assert registry.authenticate(f"Bearer bob:{made}".encode(), "") == bob
    eve = await registry.authenticate_slow(basic("eve", chosen), "")
    assert eve.may_read(shop.id)
    assert not eve.may_read(shop.id + 1)
    assert not eve.may_write(shop.id)
    assert registry.authenticate(basic("eve", "wrong"), "") is None
    for name, password in (("bob", chosen), ("eve", made), ("eve", "")):
        with pytest.raises(Unauthorized):
            await registry.authenticate_slow(basic(name, password), "")


async def test_a_password_that_was_verified_goes_on_working_while_log_ins_are_limited(here: Here) -> None:
    registry = here.registry
    _, password = await registry.create_credential("bob", ["full_api"])
    await registry.authenticate_slow(basic("bob", password), "10.0.0.1")
    for _ in range(10):
        with pytest.raises(Unauthorized):
            await registry.authenticate_slow(basic("bob", "wrong"), "10.0.0.2")
    with pytest.raises(TooManyFailures) as caught:
        await registry.authenticate_slow(basic("bob", "wrong"), "10.0.0.2")
    assert 0 < caught.value.retry_after <= 61
    assert registry.authenticate(basic("bob", password), "10.0.0.1") is not None
    assert (await registry.authenticate_slow(basic("bob", password), "10.0.0.2")).full_api
    here.clocks.now += 61
    with pytest.raises(Unauthorized):
        await registry.authenticate_slow(basic("bob", "wrong"), "10.0.0.2")


async def test_a_burst_of_guesses_is_limited_before_it_is_checked(here: Here) -> None:
    await here.registry.create_credential("bob", ["full_api"], "a chosen one")
    outcomes: list[type[Exception]] = []

    async def guess(number: int) -> None:
        try:
            await here.registry.authenticate_slow(basic("bob", f"guess {number}"), "10.0.0.1")
        except (Unauthorized, TooManyFailures) as exc:
            outcomes.append(type(exc))

    async with trio.open_nursery() as nursery:
        for number in range(40):
            nursery.start_soon(guess, number)
    assert outcomes.count(Unauthorized) == 10
    assert outcomes.count(TooManyFailures) == 30


async def test_a_deleted_or_changed_credential_is_out_at_once(here: Here) -> None:
    registry = here.registry
    _, old = await registry.create_credential("bob", ["full_api"])
    await registry.authenticate_slow(basic("bob", old), "")
    with pytest.raises(Conflict):
        await registry.create_credential("bob", ["full_api"])
    _, new = await registry.create_credential("bob", ["any_channel"], replace=True)
    assert registry.authenticate(basic("bob", old), "") is None
    with pytest.raises(Unauthorized):
        await registry.authenticate_slow(basic("bob", old), "")
    assert not (await registry.authenticate_slow(basic("bob", new), "")).full_api
    await registry.delete_credential("bob")
    with pytest.raises(Unauthorized):
        await registry.authenticate_slow(basic("bob", new), "")
    assert await registry.credentials("", 10) == []


async def test_a_key_for_an_app_ends_with_it(here: Here) -> None:
    registry = here.registry
    await here.app()
    _, password = await registry.create_credential("key", ["app:shop"])
    before = await registry.authenticate_slow(basic("key", password), "")
    await registry.delete_channel("shop")
    await here.app()
    shop = await registry.channel("shop")
    assert shop is not None
    assert registry.authenticate(basic("key", password), "") is None
    after = await registry.authenticate_slow(basic("key", password), "")
    assert before.app_ids
    assert not after.app_ids
    assert not after.may_read(shop.id)


async def test_a_chosen_password_has_eight_characters(here: Here) -> None:
    with pytest.raises(Unprocessable, match="at least 8"):
        await here.registry.create_credential("bob", ["full_api"], "seven77")


async def test_no_representation_shows_a_secret(here: Here) -> None:
    token = await here.app()
    drain = await here.registry.create_drain("shop", "http://user:secret@host/", {"headers": {"k": "hush"}})
    _, password = await here.registry.create_credential("bob", ["full_api"])
    principal = await here.registry.authenticate_slow(b"Bearer " + token.encode(), "")
    session = await here.registry.create_session(None, {})
    shown = repr([here.changes, here.registry.tokens[token], drain, principal, session])
    for secret in (token, "secret@", "hush", password, session.uuid):
        assert secret not in shown
    assert isinstance(here.changes[-2].record, DrainRecord)


# Sessions


async def test_a_session_of_a_channel_that_was_deleted_meanwhile_is_not_made(here: Here) -> None:
    with pytest.raises(NotFound):
        await here.registry.create_session(7, {})


async def test_a_session_lives_from_its_creation_or_its_last_stream(here: Here) -> None:
    registry, clocks = here.registry, here.clocks
    start = clocks.wall
    session = await registry.create_session(None, {"num": 5})
    assert session.expires_at == start + 360
    clocks.wall = start + 359
    found = await registry.session(session.uuid)
    assert found is not None
    assert (found.channel_id, found.options) == (None, {"num": 5})
    await registry.touch(session.uuid)
    clocks.wall = start + 359 + 359
    assert await registry.session(session.uuid) is not None
    clocks.wall = start + 359 + 360
    assert await registry.session(session.uuid) is None
    assert await registry.session(str(uuid4())) is None


async def test_a_session_that_is_read_does_not_expire_before_a_day(here: Here) -> None:
    registry, clocks = here.registry, here.clocks
    start = clocks.wall
    session = await registry.create_session(None, {})
    registry.stream_started(session.uuid)
    registry.stream_started(session.uuid)
    clocks.wall = start + 20_000
    registry.stream_ended(session.uuid)
    clocks.wall = start + 40_000
    assert await registry.session(session.uuid) is not None
    registry.stream_ended(session.uuid)
    clocks.wall = start + 40_000 + 359
    assert await registry.session(session.uuid) is not None
    clocks.wall = start + 86_400
    await registry.touch(session.uuid)
    assert await registry.session(session.uuid) is None


async def test_a_reader_who_comes_back_while_its_last_stream_ends_finds_the_session(here: Here) -> None:
    registry, clocks = here.registry, here.clocks
    session = await registry.create_session(None, {})
    registry.stream_started(session.uuid)
    clocks.wall += 20_000
    found = []

    async def come_back() -> None:
        found.append(await registry.session(session.uuid))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(come_back)
        await trio.lowlevel.checkpoint()  # the question is on its way to the database
        registry.stream_ended(session.uuid)
    assert found != [None]


async def test_a_session_that_was_read_at_a_crash_lives_on(tmp_path: Path, mock_clock: trio.testing.MockClock) -> None:
    clocks = Clocks()
    start = clocks.wall
    async with ConfigStore(tmp_path) as store:
        here = Here(store, clocks)
        session = await here.registry.create_session(None, {})
        here.registry.stream_started(session.uuid)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(here.registry.run)
            await trio.testing.wait_all_tasks_blocked()
            clocks.wall = start + 3000
            mock_clock.jump(60)
            await trio.testing.wait_all_tasks_blocked()
            await store.run(lambda db: None)
            nursery.cancel_scope.cancel()
        again = Here(store, clocks)
        clocks.wall = start + 3000 + 359
        assert await again.registry.session(session.uuid) is not None


async def test_the_config_is_copied_every_hour_in_which_it_changed(
    here: Here, tmp_path: Path, mock_clock: trio.testing.MockClock
) -> None:
    def count() -> int:
        return len(list((tmp_path / "config-copies").glob("*.db")))

    async def until(condition: Callable[[], bool]) -> None:
        with trio.fail_after(10):  # of the mock clock, which stands still: the test's own time-out is pytest's
            while not condition():
                await here.store.run(lambda db: None)

    await here.app()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(here.registry.run)
        await until(lambda: count() == 1)
        newest = next((tmp_path / "config-copies").iterdir())
        newest.rename(newest.with_name("config-1.db"))
        mock_clock.jump(3600)
        for _ in range(20):
            await here.store.run(lambda db: None)
        assert count() == 1
        await here.app("other")
        mock_clock.jump(3600)
        await until(lambda: count() == 2)
        nursery.cancel_scope.cancel()
