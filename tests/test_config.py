from dataclasses import fields
from pathlib import Path

import pytest

from logplex import config
from logplex.config import Settings, address, admin, from_environment
from logplex.errors import SetupError


def test_without_options_and_environment_the_defaults_stand() -> None:
    assert from_environment({}) == Settings()


def test_the_environment_overrides_a_default_and_an_option_overrides_the_environment() -> None:
    environ = {"LOGPLEX_HTTP": "127.0.0.1:1", "LOGPLEX_HISTORY_LINES": "7"}
    settings = from_environment(environ, http="127.0.0.1:2", history_lines=None)
    assert settings.http == "127.0.0.1:2"
    assert settings.history_lines == 7


def test_every_setting_can_be_given_in_the_environment() -> None:
    given = {}
    for setting in fields(Settings):
        choices = setting.metadata["choices"]
        value = (
            choices[-1] if choices else {str: "127.0.0.1:7", int: "5", float: "5", tuple: "a,b"}[type(setting.default)]
        )
        given[config.variable(setting.name)] = value
    settings = from_environment(given)
    for setting in fields(Settings):
        assert getattr(settings, setting.name) != setting.default or setting.metadata["choices"], setting.name


def test_an_empty_variable_counts_as_unset() -> None:
    assert from_environment({"LOGPLEX_HTTP": ""}).http == Settings().http


def test_repeatable_settings_are_separated_by_commas_in_the_environment() -> None:
    assert from_environment({"LOGPLEX_DRAIN_ALLOW": "127.0.0.0/8, ::1/128,"}).drain_allow == ("127.0.0.0/8", "::1/128")


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("LOGPLEX_SPOOL_BYTES", "1000", 1000),
        ("LOGPLEX_SPOOL_BYTES", "64MiB", 64 * 1024 * 1024),
        ("LOGPLEX_SPOOL_BYTES", "1.5 k", 1536),
        ("LOGPLEX_SPOOL_BYTES", "2G", 2 * 1024**3),
        ("LOGPLEX_HISTORY_SECONDS", "10m", 600),
        ("LOGPLEX_HISTORY_SECONDS", "2d", 172800),
        ("LOGPLEX_DRAIN_GRACE_SECONDS", "0.5", 0.5),
    ],
)
def test_sizes_and_times_may_be_written_with_units(name: str, text: str, value: float) -> None:
    setting = name.removeprefix("LOGPLEX_").lower()
    assert getattr(from_environment({name: text}), setting) == value


@pytest.mark.parametrize(
    ("environ", "says"),
    [
        ({"LOGPLEX_DURABILITY": "maybe"}, "LOGPLEX_DURABILITY must be one of none, commit, fsync"),
        ({"LOGPLEX_HISTORY_LINES": "many"}, "LOGPLEX_HISTORY_LINES must be a number"),
        ({"LOGPLEX_HISTORY_LINES": "1.5"}, "LOGPLEX_HISTORY_LINES must be a whole number"),
        ({"LOGPLEX_HISTORY_LINES": "-1"}, "LOGPLEX_HISTORY_LINES must be a number"),
        ({"LOGPLEX_HISTORY_SECONDS": "10MiB"}, "LOGPLEX_HISTORY_SECONDS must be a number such as 10 or 10m"),
        ({"LOGPLEX_DRAIN_GRACE_SECONDS": "nan"}, "LOGPLEX_DRAIN_GRACE_SECONDS must be a number"),
        ({"LOGPLEX_SYSLOG": "6001"}, "--syslog must be HOST:PORT"),
        ({"LOGPLEX_TLS_CERT": "x.pem"}, "--tls-cert and --tls-key belong together"),
        ({"LOGPLEX_HTTPS": "127.0.0.1:0"}, "need --tls-cert"),
    ],
)
def test_a_bad_value_is_named_together_with_what_it_should_be(environ: dict[str, str], says: str) -> None:
    with pytest.raises(SetupError, match="^.*" + says.replace(".", r"\.")):
        from_environment(environ)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1:8001", ("127.0.0.1", 8001)),
        ("[::1]:0", ("::1", 0)),
        (":6001", ("", 6001)),
        ("localhost:65535", ("localhost", 65535)),
    ],
)
def test_an_address_is_a_host_and_a_port(text: str, expected: tuple[str, int]) -> None:
    assert address("--http", text) == expected


@pytest.mark.parametrize("text", ["", "8001", "localhost", "h:", "h:x", "h:65536", "h:-1", "::1:80", "h:٣"])
def test_anything_else_is_no_address(text: str) -> None:
    with pytest.raises(SetupError, match="--http must be HOST:PORT"):
        address("--http", text)


def test_the_admin_credential_comes_from_the_variable_or_the_file(tmp_path: Path) -> None:
    file = tmp_path / "admin"
    file.write_text("ops:from:file\n")
    settings = Settings(admin_file=str(file))
    assert admin(Settings(), {}) is None
    assert admin(settings, {}) == ("ops", "from:file")
    assert admin(settings, {"LOGPLEX_ADMIN": "ops:from-variable"}) == ("ops", "from-variable")


@pytest.mark.parametrize("line", ["hunter2", ":hunter2", "ops:", "ops:hunter2\nmore:hunter2"])
def test_a_bad_admin_line_is_refused_without_showing_it(line: str, tmp_path: Path) -> None:
    file = tmp_path / "admin"
    file.write_text(line)
    with pytest.raises(SetupError, match="must be one line ID:PASSWORD") as caught:
        admin(Settings(admin_file=str(file)), {})
    assert "hunter2" not in str(caught.value)


def test_an_admin_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"cannot read the admin file .*/none: No such file"):
        admin(Settings(admin_file=str(tmp_path / "none")), {})


def test_client_commands_find_their_server_in_the_environment() -> None:
    assert config.client_url({"LOGPLEX_URL": "http://a:b@h:1"}) == "http://a:b@h:1"
    assert config.client_url({"LOGPLEX_URL": ""}) is None
    assert config.logs_url({"LOGPLEX_LOGS_URL": "http://token:t.x@h/logs"}) == "http://token:t.x@h/logs"
    assert config.data_dir({}) == "./logplex-data"
    assert config.data_dir({"LOGPLEX_DATA_DIR": "/srv"}) == "/srv"


def test_colours_are_left_out_where_they_are_not_wanted() -> None:
    assert config.no_colour({"NO_COLOR": "1"})
    assert config.no_colour({"TERM": "dumb"})
    assert not config.no_colour({"TERM": "xterm"})
