"""The config store over SQLite: what is on disk, in which order, and what happens to a damaged file."""

import sqlite3
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
from outcome import Outcome

from logplex.errors import Conflict, NotFound, SetupError, StoreError, Unprocessable
from logplex.registry.records import Change, ServiceState, SessionRecord
from logplex.registry.store import ask
from logplex.store import copies, schema
from logplex.store.config import ConfigStore
from logplex.store.config_rows import transaction


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[ConfigStore]:
    async with ConfigStore(tmp_path) as store:
        yield store


def kinds(changes: list[Change]) -> list[str]:
    return [change.kind for change in changes]


async def test_what_was_written_is_there_after_a_restart(tmp_path: Path) -> None:
    async with ConfigStore(tmp_path) as store:
        (_, info), _ = await ask(store.put_channel("shop", ["app"]))
        drain, _ = await ask(store.create_drain("shop", "http://one/", {"linger": 1}, limit=6, now=5.0))
        await ask(store.put_credential("bob", "sha256$00", ["full_api", "app:shop"], replace=False, now=6.0))
        await ask(store.set_state(ServiceState("read_only", ingress=False)))
        await ask(store.set_flags("shop", ["no_tail"]))
    async with ConfigStore(tmp_path) as store:
        found = await ask(store.channel_info("shop"))
        assert found is not None
        assert (found.channel.id, found.channel.flags) == (info.channel.id, frozenset({"no_tail"}))
        assert found.tokens_by_name() == info.tokens_by_name()
        assert found.drains == (drain,)
        assert (await ask(store.load_drains())) == ([drain], [drain.token])
        assert (await ask(store.credential_record("bob"))).permissions == ("full_api", "app:shop")
        assert await ask(store.load_state()) == ServiceState("read_only", ingress=False)


async def test_every_commit_waits_for_the_disk(store: ConfigStore) -> None:
    assert await store.run(lambda db: db.execute("PRAGMA synchronous").fetchone()[0]) == 2  # FULL
    assert await store.run(lambda db: db.execute("PRAGMA journal_mode").fetchone()[0]) == "wal"


async def test_only_the_owner_may_read_the_files(store: ConfigStore, tmp_path: Path) -> None:
    await ask(store.put_channel("shop", ["app"]))
    copies.copy(tmp_path)
    modes = {
        stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("config.db", "config.db-wal", "config.db-shm")
    }
    assert modes == {0o600}
    folder = tmp_path / schema.COPIES_NAME
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    newest = schema.newest_copy(tmp_path)
    assert newest is not None
    assert stat.S_IMODE(newest.stat().st_mode) == 0o600


async def test_put_keeps_listed_tokens_and_removes_the_others(store: ConfigStore) -> None:
    (created, info), changes = await ask(store.put_channel("shop", ["b", "a", "b"]))
    assert created
    assert kinds(changes) == ["channel_added", "token_added", "token_added"]
    again, _ = await ask(store.create_token("shop", "a"))
    (created, now), changes = await ask(store.put_channel("shop", ["a", "c"]))
    assert not created
    assert kinds(changes) == ["token_removed", "token_added"]
    assert [token.name for token in now.tokens] == ["a", "a", "c"]
    assert now.tokens_by_name()["a"] == again.id, "of equal names the newest is shown"
    assert info.tokens_by_name()["a"] in {token.id for token in now.tokens}
    (_, empty), changes = await ask(store.put_channel("shop", []))
    assert empty.tokens == ()
    assert kinds(changes) == ["token_removed"] * 3


async def test_numbers_of_channels_are_neither_reused_nor_taken_from_names(store: ConfigStore) -> None:
    first, _ = await ask(store.create_channel([]))
    following = str(first.channel.id + 1)
    await ask(store.put_channel(following, []))  # takes that id itself
    taken = str(int(following) + 1)
    await ask(store.put_channel(str(int(taken) + 1), []))
    second, _ = await ask(store.create_channel(["app", "app"]))
    assert second.channel.name == str(second.channel.id)
    assert second.channel.name not in {first.channel.name, following, taken, str(int(taken) + 1)}
    assert len(second.tokens) == 1
    await ask(store.delete_channel(second.channel.name))
    third, _ = await ask(store.create_channel([]))
    assert third.channel.id > second.channel.id


async def test_a_deleted_channel_takes_everything_with_it(store: ConfigStore) -> None:
    (_, info), _ = await ask(store.put_channel("shop", ["app"]))
    await ask(store.create_drain("shop", "http://one/", {}, limit=6, now=0.0))
    await ask(store.reserve_drain("shop", now=0.0))
    await ask(store.put_credential("key", "sha256$00", ["app:shop", "channel:shop"], replace=False, now=0.0))
    session = SessionRecord("u", info.channel.id, {}, 0.0, 10.0)
    await ask(store.create_session(session, forget_before=-1.0))
    _, changes = await ask(store.delete_channel("shop"))
    assert kinds(changes) == ["token_removed", "drain_removed", "drain_removed", "channel_removed"]
    assert await ask(store.load_drains()) == ([], [])
    assert (await ask(store.credential_record("key"))).permissions == ()
    assert await ask(store.find_session("u")) is None
    assert await ask(store.load_tokens([token.id for token in info.tokens])) == []
    (_, again), _ = await ask(store.put_channel("shop", ["app"]))
    assert again.channel.id > info.channel.id
    assert (await ask(store.credential_record("key"))).permissions == (), "a key does not open the next `shop`"


async def test_drains_are_counted_compared_and_bound_to_their_channel(store: ConfigStore) -> None:
    await ask(store.put_channel("shop", []))
    await ask(store.put_channel("other", []))
    one, changes = await ask(store.create_drain("shop", "http://1/", {}, limit=2, now=1.0))
    assert kinds(changes) == ["drain_added"]
    reserved, changes = await ask(store.reserve_drain("shop", now=1.0))
    assert kinds(changes) == ["drain_reserved"]
    with pytest.raises(Conflict):
        await ask(store.create_drain("shop", "http://1/", {}, limit=2, now=1.0))
    with pytest.raises(Conflict):
        await ask(store.set_drain("shop", reserved.id, "http://1/", {}, limit=2, now=1.0))
    two, changes = await ask(store.set_drain("shop", reserved.id, "http://2/", {}, limit=2, now=2.0))
    assert kinds(changes) == ["drain_added"]
    assert (two.id, two.token, two.created_at, two.updated_at) == (reserved.id, reserved.token, 1.0, 2.0)
    late, _ = await ask(store.reserve_drain("shop", now=1.0))
    for call in (
        store.create_drain("shop", "http://3/", {}, limit=2, now=1.0),
        store.set_drain("shop", late.id, "http://3/", {}, limit=2, now=1.0),
    ):
        with pytest.raises(Unprocessable):
            await ask(call)
    same, changes = await ask(store.set_drain("shop", one.id, "http://1/", {"linger": 2}, limit=2, now=3.0))
    assert kinds(changes) == ["drain_changed"]
    assert same.options == {"linger": 2}
    with pytest.raises(NotFound):
        await ask(store.find_drain("other", one.id))
    with pytest.raises(NotFound):
        await ask(store.delete_drain("other", one.id))
    with pytest.raises(NotFound):
        await ask(store.find_drain("shop", 2**70))
    _, changes = await ask(store.delete_drain("shop", one.id))
    assert kinds(changes) == ["drain_removed"]


async def test_what_is_not_there_is_not_found(store: ConfigStore) -> None:
    await ask(store.put_channel("shop", ["app"]))
    for call in (
        store.delete_channel("none"),
        store.set_flags("none", []),
        store.create_token("none", "app"),
        store.delete_tokens("none", "app"),
        store.delete_tokens("shop", "none"),
        store.reserve_drain("none", now=0.0),
        store.delete_drain("shop", 1),
        store.delete_credential("none"),
    ):
        with pytest.raises(NotFound):
            await ask(call)
    assert await ask(store.channel_info("none")) is None
    assert await ask(store.find_credential("none")) is None


async def test_channels_are_listed_by_name_in_pages(store: ConfigStore) -> None:
    for name in ("c", "a", "d", "b"):
        await ask(store.put_channel(name, []))
    assert [c.name for c in await ask(store.list_channels("", 3))] == ["a", "b", "c"]
    assert [c.name for c in await ask(store.list_channels("c", 3))] == ["d"]
    found = await ask(store.list_channels("", 9))
    ids = [channel.id for channel in found]
    assert await ask(store.known_channel_ids([*ids, 1000])) == set(ids)


async def test_a_permission_names_a_channel_that_exists(store: ConfigStore) -> None:
    with pytest.raises(Unprocessable, match="no such channel: shop"):
        await ask(store.put_credential("key", "sha256$00", ["app:shop"], replace=False, now=0.0))
    with pytest.raises(NotFound):
        await ask(store.credential_record("key"))
    await ask(store.put_credential("key", "sha256$00", ["any_channel"], replace=False, now=0.0))
    with pytest.raises(Conflict):
        await ask(store.put_credential("key", "sha256$11", ["full_api"], replace=False, now=0.0))
    record, changes = await ask(store.put_credential("key", "sha256$11", ["full_api"], replace=True, now=0.0))
    assert record.permissions == ("full_api",)
    assert kinds(changes) == ["credential_removed", "credential_added"]


async def test_sessions_live_no_longer_than_their_bound(store: ConfigStore) -> None:
    await ask(store.create_session(SessionRecord("a", None, {"num": 1}, 100.0, 460.0), forget_before=0.0))
    await ask(store.touch_sessions(["a"], until=800.0, max_seconds=1000.0))
    found = await ask(store.find_session("a"))
    assert found is not None
    assert (found.expires_at, found.options, found.channel_id) == (800.0, {"num": 1}, None)
    await ask(store.touch_sessions(["a"], until=9999.0, max_seconds=1000.0))
    found = await ask(store.find_session("a"))
    assert found is not None
    assert found.expires_at == 1100.0
    await ask(store.create_session(SessionRecord("b", None, {}, 2000.0, 2360.0), forget_before=1000.0))
    assert await ask(store.find_session("a")) is None


async def test_a_failed_transaction_leaves_nothing(store: ConfigStore) -> None:
    def fail(db: sqlite3.Connection) -> None:
        with transaction(db):
            db.execute("INSERT INTO channels (name) VALUES ('half')")
            db.execute("INSERT INTO no_such_table VALUES (1)")

    with pytest.raises(StoreError):
        await store.run(fail)
    assert await ask(store.find_channel("half")) is None
    assert (await ask(store.put_channel("whole", [])))[0][0], "the connection is usable"


async def test_outcomes_arrive_in_the_order_of_the_calls(store: ConfigStore) -> None:
    order: list[int] = []
    done = trio.Event()

    def arrived(number: int, outcome: Outcome[object]) -> None:
        outcome.unwrap()
        order.append(number)
        if number == 49:
            done.set()

    for number in range(50):
        store.find_channel("x")(lambda outcome, number=number: arrived(number, outcome))  # type: ignore[misc]
    await done.wait()
    assert order == list(range(50))


# Damage


async def enter(directory: Path) -> None:
    async with ConfigStore(directory):
        pass


async def test_a_damaged_config_stops_the_start_and_names_the_newest_copy(tmp_path: Path) -> None:
    async with ConfigStore(tmp_path) as store:
        await ask(store.put_channel("shop", ["app"]))
        copies.copy(tmp_path, wall_clock=lambda: 1_000_000.0)
        newest = copies.copy(tmp_path, wall_clock=lambda: 2_000_000.0)
    path = tmp_path / schema.FILE_NAME
    whole = path.read_bytes()
    for damage in (b"x" * len(whole), whole[:100] + b"\xff" * 4000 + whole[4100:], whole[: len(whole) // 2], b""):
        path.write_bytes(damage)
        with pytest.raises(SetupError, match=newest.name):
            await enter(tmp_path)
    path.unlink()
    with pytest.raises(SetupError, match=newest.name):
        await enter(tmp_path)
    path.write_bytes(newest.read_bytes())
    async with ConfigStore(tmp_path) as store:
        assert await ask(store.find_channel("shop")) is not None


async def test_a_damaged_config_without_a_copy_says_so(tmp_path: Path) -> None:
    (tmp_path / schema.FILE_NAME).write_bytes(b"rubbish" * 1000)
    with pytest.raises(SetupError, match="no copy"):
        await enter(tmp_path)


async def test_an_empty_file_without_copies_is_a_first_start_that_was_cut_off(tmp_path: Path) -> None:
    (tmp_path / schema.FILE_NAME).touch()
    await enter(tmp_path)


async def test_a_config_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    await enter(tmp_path)
    db = sqlite3.connect(tmp_path / schema.FILE_NAME)
    db.execute("PRAGMA user_version=999")
    db.close()
    with pytest.raises(SetupError, match="newer"):
        await enter(tmp_path)


async def test_missing_steps_are_taken_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with ConfigStore(tmp_path) as store:
        await ask(store.put_channel("shop", []))
    steps = (*schema.MIGRATIONS, "CREATE TABLE extra (x); INSERT INTO extra VALUES (1);", "BROKEN;")
    monkeypatch.setattr(schema, "MIGRATIONS", steps)
    with pytest.raises(SetupError):
        await enter(tmp_path)
    monkeypatch.setattr(schema, "MIGRATIONS", steps[:-1])
    async with ConfigStore(tmp_path) as store:
        assert await store.run(lambda db: db.execute("SELECT x FROM extra").fetchall()) == [(1,)]
        assert await ask(store.find_channel("shop")) is not None
    await enter(tmp_path)


# Copies


async def test_the_newest_copies_are_kept_and_are_whole(store: ConfigStore, tmp_path: Path) -> None:
    await ask(store.put_channel("shop", ["app"]))
    made = [copies.copy(tmp_path, wall_clock=lambda hour=hour: hour * 3600.0) for hour in range(30)]  # type: ignore[misc]
    kept = sorted((tmp_path / schema.COPIES_NAME).iterdir())
    assert kept == made[-copies.COPIES :]
    assert schema.newest_copy(tmp_path) == made[-1]
    db = sqlite3.connect(kept[0])
    assert db.execute("SELECT name FROM channels").fetchall() == [("shop",)]
    db.close()


async def test_a_leftover_of_a_crash_while_copying_is_removed(store: ConfigStore, tmp_path: Path) -> None:
    copies.copy(tmp_path, wall_clock=lambda: 0.0)
    (tmp_path / schema.COPIES_NAME / "config-x.part").write_bytes(b"half")
    copies.copy(tmp_path, wall_clock=lambda: 0.0)
    assert len(list((tmp_path / schema.COPIES_NAME).iterdir())) == 1
