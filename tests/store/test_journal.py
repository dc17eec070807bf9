"""The journal: what is found again of a round, whatever a crash left of the file."""

import os
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import given

from logplex.store.journal import KEY_BYTES, Journal, new_key

PAYLOADS = st.lists(st.binary(max_size=60), max_size=6)


def opened(folder: Path, key: bytes) -> Journal:
    journal = Journal(folder, fsync=False)
    journal.open()
    journal.begin(key)
    return journal


def found(folder: Path, key: bytes) -> list[bytes]:
    """What a new server finds of a round."""
    journal = opened(folder, key)
    payloads = list(journal.payloads())
    journal.close()
    return payloads


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("journal")


@given(rounds=st.lists(PAYLOADS, min_size=1, max_size=4), more=PAYLOADS, data=st.data())
def test_a_round_is_found_up_to_where_it_was_cut_and_nothing_of_those_before_it(
    folder: Path, rounds: list[list[bytes]], more: list[bytes], data: st.DataObject
) -> None:
    (folder / "journal").unlink(missing_ok=True)
    for payloads in rounds:
        key = new_key()
        journal = opened(folder, key)
        ends = [0]
        for payload in payloads:
            journal.write(payload)
            ends.append(journal.end)
        journal.close()
        assert found(folder, key) == payloads
    cut = data.draw(st.integers(0, ends[-1]))
    os.truncate(folder / "journal", cut)
    whole = rounds[-1][: sum(end <= cut for end in ends[1:])]
    assert found(folder, key) == whole
    journal = opened(folder, key)
    assert list(journal.payloads()) == whole
    for payload in more:  # over what was not whole
        journal.write(payload)
    journal.close()
    assert found(folder, key) == whole + more


@given(payloads=st.lists(st.binary(min_size=1, max_size=30), min_size=1, max_size=4), data=st.data())
def test_a_damaged_record_ends_the_round(folder: Path, payloads: list[bytes], data: st.DataObject) -> None:
    key = new_key()
    (folder / "journal").unlink(missing_ok=True)
    journal = opened(folder, key)
    ends = []
    for payload in payloads:
        journal.write(payload)
        ends.append(journal.end)
    journal.close()
    at = data.draw(st.integers(0, ends[-1] - 1))
    content = bytearray((folder / "journal").read_bytes())
    content[at] ^= data.draw(st.integers(1, 255))
    (folder / "journal").write_bytes(content)
    assert found(folder, key) == payloads[: sum(end <= at for end in ends)]


def test_what_a_failed_write_left_behind_the_next_record_is_none(folder: Path) -> None:
    """A client's bytes may look like a record, but for the key."""
    (folder / "journal").unlink(missing_ok=True)
    key = new_key()
    forged = opened(folder, bytes(KEY_BYTES))
    forged.write(b"never sent")
    record = (folder / "journal").read_bytes()
    forged.close()
    journal = opened(folder, key)
    head = len(record) - len(b"never sent")
    os.truncate(folder / "journal", 0)
    (folder / "journal").write_bytes(bytes(head + 4) + record)  # where the next record ends, it stands
    journal.write(b"four")
    journal.close()
    assert found(folder, key) == [b"four"]
    assert (folder / "journal").read_bytes().endswith(record)
