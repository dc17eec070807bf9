import io
import json

import pytest
import structlog

from logplex import log

UUID = "0a1b2c3d-1111-2222-3333-444455556666"
logger = structlog.get_logger()  # made before `configure`, as every module does


@pytest.fixture
def stream() -> io.StringIO:
    return io.StringIO()


@pytest.fixture(autouse=True)
def _restore() -> object:
    yield
    structlog.reset_defaults()


def test_an_event_is_one_line_of_logfmt_with_time_level_and_event_first(stream: io.StringIO) -> None:
    log.configure("logfmt", stream)
    logger.warning("drain failing", app="shop", tries=3, error='said "no"', late=True, next=None, ports=[1, 2])
    (line,) = stream.getvalue().splitlines()
    time, rest = line.split(" ", 1)
    assert time.startswith("time=20")
    assert rest == ('level=warning event="drain failing" app=shop tries=3 error="said \\"no\\"" late=true ports=1,2')


def test_json_events_are_one_object_a_line(stream: io.StringIO) -> None:
    log.configure("json", stream)
    logger.info("ready", http="127.0.0.1:8001", nested={"a": [1, "x"]})
    event = json.loads(stream.getvalue())
    assert event["event"] == "ready"
    assert event["level"] == "info"
    assert event["http"] == "127.0.0.1:8001"
    assert event["nested"] == {"a": [1, "x"]}


@pytest.mark.parametrize("format", ["logfmt", "json"])
@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("https://user:secret@logs.example.com/in?x=1", "https://logs.example.com/in?x=1"),
        ("syslog+tls://secret@host:6514", "syslog+tls://host:6514"),
        ("twice http://secret@a http://b:secret@c", "twice http://a http://c"),
        ("https://user:pa@ss-secret@host/", "https://host/"),
        (f"t.{UUID}", "t.0a1b2c3d"),
        (f"drain d.{UUID} of", "drain d.0a1b2c3d of"),
        (f"/sessions/{UUID}", "/sessions/0a1b2c3d"),
        (f"/sessions/{UUID.upper()}?x", "/sessions/0A1B2C3D?x"),
        (f"t.{UUID}".encode(), "t.0a1b2c3d"),
        (ValueError(f"bad token t.{UUID}"), "bad token t.0a1b2c3d"),
    ],
)
def test_no_secret_reaches_the_log(format: str, given: object, shown: str, stream: io.StringIO) -> None:
    log.configure(format, stream)
    logger.info("seen", value=given, deep={"inner": [given]})
    text = stream.getvalue()
    assert "secret" not in text
    assert UUID[9:] not in text.lower()
    assert shown in text


def test_a_traceback_is_one_line_without_secrets(stream: io.StringIO) -> None:
    log.configure("logfmt", stream)
    try:
        raise RuntimeError(f"t.{UUID}")
    except RuntimeError:
        logger.exception("a drain crashed")
    (line,) = stream.getvalue().splitlines()
    assert "RuntimeError" in line
    assert UUID not in line


@pytest.mark.parametrize("format", ["logfmt", "json"])
def test_control_characters_never_reach_a_terminal_through_the_log(format: str, stream: io.StringIO) -> None:
    log.configure(format, stream)
    logger.info("seen", value="a\x1b[2Jb\nc\r\x9b31m\u202e", **{"od\nd key": 1})
    text = stream.getvalue()
    assert text.count("\n") == 1
    assert all(character.isprintable() for character in text.rstrip("\n"))


def test_a_request_id_stays_whole(stream: io.StringIO) -> None:
    log.configure("logfmt", stream)
    logger.info("audit", request_id=UUID)
    assert f"request_id={UUID}" in stream.getvalue()


def test_a_log_that_cannot_be_written_stops_nothing(stream: io.StringIO) -> None:
    log.configure("logfmt", stream)
    stream.close()
    logger.info("still here")
