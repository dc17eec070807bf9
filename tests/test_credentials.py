"""Passwords, Authorization headers and the limit on failed log-ins, without I/O."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logplex.errors import TooManyFailures
from logplex.registry import credentials
from logplex.registry.credentials import FailureLimits, Login, parse_authorization


def basic(text: str | bytes) -> bytes:
    return b"Basic " + base64.b64encode(text.encode() if isinstance(text, str) else text)


@pytest.mark.parametrize(
    ("header", "login"),
    [
        (basic("bob:secret"), Login("credential", "bob", "secret")),
        (basic("bob:se:cr:et"), Login("credential", "bob", "se:cr:et")),
        (basic("bob:"), Login("credential", "bob", "")),
        (basic("token:t.1"), Login("token", "t.1", "")),
        (b"Bearer bob:secret", Login("credential", "bob", "secret")),
        (b"Bearer t.1", Login("token", "t.1", "")),
        (b"Bearer token:t.1", Login("token", "t.1", "")),
        (b"bEARER   t.1  ", Login("token", "t.1", "")),
        (basic("bob:\u00e9"), Login("credential", "bob", "\u00e9")),
        (b"", None),
        (b"Basic", None),
        (b"Basic !!!", None),
        (b"Basic YWJj=", None),
        (basic("nocolon"), None),
        (basic(":password"), None),
        (basic(b"\xff\xfe:x"), None),
        (b"Bearer opaque", None),
        (b"Digest username=bob", None),
        (b"Bearer bob:" + b"x" * 5000, None),
    ],
)
def test_a_header_is_a_token_a_credential_or_nothing(header: bytes, login: Login | None) -> None:
    assert parse_authorization(header) == login


@given(st.binary(max_size=200))
def test_no_header_raises(header: bytes) -> None:
    for scheme in (b"", b"Basic ", b"Bearer "):
        parse_authorization(scheme + header)
    parse_authorization(basic(header))


def test_a_generated_password_has_256_bits_and_fits_its_hash_only() -> None:
    one, two = credentials.new_password(), credentials.new_password()
    assert one != two
    assert len(base64.urlsafe_b64decode(one + "=")) == 32
    stored = credentials.hash_generated(one)
    assert one not in stored
    assert not credentials.is_slow(stored)
    assert credentials.verify(stored, one)
    assert not credentials.verify(stored, two)


def test_a_chosen_password_is_salted_and_costs_time() -> None:
    stored = credentials.hash_chosen("correct horse")
    assert stored != credentials.hash_chosen("correct horse")
    assert credentials.is_slow(stored)
    assert credentials.verify(stored, "correct horse")
    assert not credentials.verify(stored, "correct hors")


def test_a_minute_has_ten_failures_per_id_and_a_hundred_per_address() -> None:
    now = 0.0
    limits = FailureLimits(lambda: now)
    for number in range(credentials.FAILURES_PER_ID):
        limits.begin("bob", f"10.0.0.{number}")
    now = 20.5
    with pytest.raises(TooManyFailures) as caught:
        limits.begin("bob", "10.0.1.1")
    assert caught.value.retry_after == 40
    for number in range(credentials.FAILURES_PER_ADDRESS):
        limits.begin(f"id{number}", "10.9.9.9")
    with pytest.raises(TooManyFailures):
        limits.begin("eve", "10.9.9.9")
    limits.begin("eve", "10.9.9.8")
    now = 60.0
    limits.begin("bob", "10.0.1.1")


def test_a_success_takes_its_attempt_back() -> None:
    limits = FailureLimits(lambda: 0.0)
    for _ in range(5 * credentials.FAILURES_PER_ADDRESS):
        limits.begin("bob", "10.0.0.1")
        limits.succeeded("bob", "10.0.0.1")


def test_addresses_of_one_ipv6_network_are_one_and_mapped_ones_are_ipv4() -> None:
    limits = FailureLimits(lambda: 0.0)
    for number in range(credentials.FAILURES_PER_ADDRESS):
        limits.begin(f"a{number}", f"2001:db8::{number:x}" if number % 2 else f"2001:db8:0:0:{number:x}::")
        limits.begin(f"b{number}", "10.0.0.1" if number % 2 else "::ffff:10.0.0.1")
    for address in ("2001:db8::ffff", "10.0.0.1", "::ffff:10.0.0.1"):
        with pytest.raises(TooManyFailures):
            limits.begin("c", address)
    limits.begin("c", "2001:db8:0:1::1")
    limits.begin("c", "not an address")


def test_the_tables_of_failures_are_bounded() -> None:
    limits = FailureLimits(lambda: 0.0)
    for number in range(credentials.FAILURE_ENTRIES + 1000):
        limits.begin(f"id{number}", f"{number}")
    assert len(limits._ids._windows) == len(limits._addresses._windows) == credentials.FAILURE_ENTRIES
