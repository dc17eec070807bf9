"""The data directory: one server, private files, and the proof that the spool is whole."""

import errno
import json
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from logplex.errors import SetupError
from logplex.store import directory as module
from logplex.store.directory import DataDirectory


def test_only_one_server_uses_a_directory(tmp_path: Path) -> None:
    first = DataDirectory(tmp_path / "data")
    with pytest.raises(SetupError, match="another server runs"):
        DataDirectory(tmp_path / "data")
    first.close()
    DataDirectory(tmp_path / "data").close()


def test_a_directory_that_cannot_be_made_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SetupError, match="file/data"):
        DataDirectory(tmp_path / "file" / "data")


def test_its_files_are_for_its_owner_alone_and_written_whole(tmp_path: Path) -> None:
    data = DataDirectory(tmp_path / "data")
    data.write("admin", "admin:secret\n")
    assert stat.S_IMODE((tmp_path / "data").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "data/admin").stat().st_mode) == 0o600
    assert data.read("admin") == "admin:secret\n"
    assert data.read("nothing") is None
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == ["admin", "lock"]
    data.close()


def run(path: Path, durability: str, *notes: tuple[str, object], clean: bool = False) -> DataDirectory:
    data = DataDirectory(path)
    data.begin_run(durability)
    for name, value in notes:
        if name == "degraded":
            data.note_degraded(value)  # type: ignore[arg-type]
        else:
            data.note_damaged()
    if clean:
        data.end_run()
    data.close()
    return DataDirectory(path)


@pytest.mark.parametrize(
    ("durability", "notes", "clean", "proven"),
    [
        ("commit", [], True, True),
        ("commit", [], False, True),  # the kernel went on running
        ("commit", [("degraded", 1.0)], False, False),
        ("commit", [("degraded", 1.0), ("degraded", None)], False, True),
        ("fsync", [("degraded", 1.0)], False, False),
        ("commit", [("damaged", True)], True, False),
        ("none", [], True, True),  # it was written behind, to the end
        ("none", [], False, False),
        ("none", [("degraded", 1.0)], True, False),
    ],
)
def test_the_spool_is_proven_whole_only_after_an_end_that_lost_nothing(
    tmp_path: Path, durability: str, notes: list[tuple[str, object]], clean: bool, proven: bool
) -> None:
    data = run(tmp_path, durability, *notes, clean=clean)
    assert data.is_proven() is proven
    data.close()


def test_a_run_without_a_spool_proves_nothing_though_it_ended_in_order(tmp_path: Path) -> None:
    for keeps in (False, True):
        data = DataDirectory(tmp_path)
        data.begin_run("none", keeps=keeps)
        data.end_run()
        data.close()
        data = DataDirectory(tmp_path)
        assert data.is_proven() is keeps
        data.close()


def test_a_new_directory_is_proven_and_one_whose_note_cannot_be_read_is_not(tmp_path: Path) -> None:
    data = DataDirectory(tmp_path)
    assert data.is_proven()
    data.write("run", "{")
    assert not data.is_proven()
    data.write("run", json.dumps([]))
    assert not data.is_proven()
    data.close()


@contextmanager
def dead_disk() -> Iterator[None]:
    """Names can be changed, but no byte can be written."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DataDirectory, "write", _fail)
        yield


def _fail(directory: DataDirectory, name: str, text: str) -> None:
    raise OSError(errno.EIO, "Input/output error")


def test_a_disk_that_takes_no_byte_still_takes_the_proof_back(tmp_path: Path) -> None:
    data = DataDirectory(tmp_path)
    data.begin_run("commit")
    with dead_disk():
        data.note_degraded(1.0)
        data.note_degraded(2.0)
        with pytest.raises(OSError, match="Input/output"):
            data.note_degraded(None)
    data.close()
    data = DataDirectory(tmp_path)
    assert not data.is_proven()
    assert data.last_run()["durability"] == "commit"
    data.begin_run("commit")
    assert data.is_proven()
    data.close()


def test_a_disk_that_died_and_came_back_proves_the_spool_again(tmp_path: Path) -> None:
    data = DataDirectory(tmp_path)
    data.begin_run("commit")
    with dead_disk():
        data.note_degraded(1.0)
    data.note_degraded(None)
    assert data.is_proven()
    data.close()


def test_a_reboot_without_a_clean_stop_proves_nothing_at_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for clean in (True, False):
        monkeypatch.setattr(module, "_boot_id", lambda: "before")
        data = run(tmp_path / str(clean), "commit", clean=clean)
        monkeypatch.setattr(module, "_boot_id", lambda: "after")
        assert data.is_proven() is clean
        data.close()
