"""The commands that manage apps, tokens, drains and credentials, against a server that answers as the API does."""

import json
from collections.abc import Callable
from pathlib import Path

import click
import pytest

from .conftest import Run
from .fake import Answer, FakeServer

TOKEN = "t.11111111-2222-3333-4444-555555555555"
DRAIN_TOKEN = "d.11111111-2222-3333-4444-555555555555"
STATUS = {
    "state": "backing off",
    "text": "backing off until 2024-05-01T12:00:00.000Z",
    "since": "2024-05-01T11:59:00.000Z",
    "error": {"class": "connect", "status": None, "text": "connection \x1brefused", "at": "2024-05-01T11:59:30.000Z"},
    "last_success": None,
    "delivered": 10,
    "filtered": 0,
    "lost": {"overrun": 2},
    "retried": 4,
    "pending": 7,
    "oldest_pending_seconds": 61.0,
    "bytes": 1000,
}
DRAIN = {
    "id": 3,
    "token": DRAIN_TOKEN,
    "url": "https://user:hunter2@logs.example.com/in?key=hunter2",
    "options": {"format": "json"},
    "status": STATUS,
}


def test_a_new_app_prints_its_log_input_url_and_nothing_else(call: Run, fake: FakeServer) -> None:
    fake.answers["PUT /v3/channels/shop"] = Answer(201, {"channel": "shop", "tokens": {"app": TOKEN}})
    ended = call("channels", "create", "shop")
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert ended.stdout.decode() == f"http://token:{TOKEN}@{fake.address}/logs\n"
    assert fake.asked[1].json() == {"tokens": ["app"]}


def test_an_app_that_exists_keeps_its_tokens(call: Run, fake: FakeServer) -> None:
    fake.answers["GET /v3/channels/shop"] = Answer(200, {"channel": "shop", "tokens": {"app": TOKEN}})
    ended = call("channels", "create", "shop")
    assert ended.returncode == 1
    assert ended.stderr == b"logplex: the app shop exists already: see `logplex channels show shop`\n"
    assert [asked.method for asked in fake.asked] == ["GET"]


def test_apps_are_listed_page_by_page(call: Run, fake: FakeServer) -> None:
    page = [{"channel": f"app-{number:04}", "flags": []} for number in range(1000)]
    fake.answers["GET /v3/channels"] = [
        Answer(200, {"channels": page}),
        Answer(200, {"channels": [{"channel": "z", "flags": ["no_tail"]}]}),
    ]
    ended = call("channels")
    assert ended.stdout.count(b"\n") == 1001
    assert ended.stdout.endswith(b"z\tno_tail\n")
    assert fake.asked[1].path == "/v3/channels?limit=1000&after=app-0999"


def test_a_terminal_gets_a_table_with_headings(on_terminal: Callable[..., str], fake: FakeServer) -> None:
    fake.answers["GET /v3/channels"] = Answer(200, {"channels": [{"channel": "shop", "flags": []}]})
    assert on_terminal("channels", NO_COLOR="1") == "app   flags\nshop  -\n"
    assert on_terminal("channels").startswith("\x1b[1mapp   flags\x1b[0m\n")
    fake.answers["GET /v3/channels"] = Answer(200, {"channels": []})
    assert "no apps yet" in on_terminal("channels")


def test_an_app_is_shown_with_its_urls_and_drains(call: Run, fake: FakeServer) -> None:
    shop = {"channel": "shop", "tokens": {"app": TOKEN}, "drains": [DRAIN]}
    fake.answers["GET /v3/channels/shop"] = Answer(200, shop)
    shown = call("channels", "show", "shop").stdout.decode()
    assert f"log input as app\thttp://token:{TOKEN}@{fake.address}/logs\n" in shown
    assert "drain 3\thttps://logs.example.com/in\n" in shown
    assert "hunter2" not in shown
    as_json = json.loads(call("channels", "show", "shop", "--json").stdout)
    assert as_json["urls"] == {"app": f"http://token:{TOKEN}@{fake.address}/logs"}


def test_a_missing_app_is_said_with_what_to_do(call: Run) -> None:
    ended = call("channels", "show", "shop")
    assert ended.returncode == 1
    assert b"there is no app shop" in ended.stderr
    assert b"logplex channels create shop" in ended.stderr


def test_flags_change_one_by_one(call: Run, fake: FakeServer) -> None:
    fake.answers["GET /v3/channels/shop"] = Answer(200, {"channel": "shop", "flags": ["no_tail"]})
    fake.answers["PATCH /v3/channels/shop"] = Answer(200, {})
    assert call("channels", "set", "shop", "--no-history").returncode == 0
    assert fake.asked[-1].json() == {"flags": ["no_history", "no_tail"]}
    assert call("channels", "set", "shop", "--tail").returncode == 0
    assert fake.asked[-1].json() == {"flags": []}


def test_an_app_is_deleted(call: Run, fake: FakeServer) -> None:
    fake.answers["DELETE /v3/channels/shop"] = Answer(204)
    assert call("channels", "delete", "shop").returncode == 0


def test_tokens_are_listed_made_and_deleted(call: Run, fake: FakeServer) -> None:
    fake.answers["GET /v3/channels/shop"] = Answer(200, {"channel": "shop", "tokens": {"app": TOKEN}})
    fake.answers["POST /v3/channels/shop/tokens"] = Answer(200, {"name": "heroku", "token": TOKEN})
    fake.answers["DELETE /v3/channels/shop/tokens/heroku"] = Answer(204)
    url = f"http://token:{TOKEN}@{fake.address}/logs"
    assert call("tokens", "-a", "shop").stdout.decode() == f"app\t{url}\n"
    assert json.loads(call("tokens", "-a", "shop", "--json").stdout) == [{"name": "app", "token": TOKEN, "url": url}]
    assert call("tokens", "create", "heroku", "-a", "shop").stdout.decode() == f"{url}\n"
    assert fake.asked[-1].json() == {"name": "heroku"}
    assert call("tokens", "delete", "heroku", "-a", "shop").returncode == 0
    assert b"has no token other" in call("tokens", "delete", "other", "-a", "shop").stderr


def test_drains_are_listed_with_their_state_and_without_secrets(call: Run, fake: FakeServer) -> None:
    fake.answers["GET /v3/channels/shop/drains"] = Answer(200, {"drains": [DRAIN]})
    row = call("drains", "-a", "shop").stdout.decode().rstrip("\n").split("\t")
    assert row == [
        "3",
        "https://logs.example.com/in",
        "backing off until 2024-05-01T12:00:00.000Z",
        "7",
        "10",
        "2",
        "connection \\x1brefused",
    ]


def test_a_drain_is_shown_in_full_and_without_secrets(call: Run, fake: FakeServer) -> None:
    fake.answers["GET /v3/channels/shop/drains/3"] = Answer(200, DRAIN)
    shown = call("drains", "show", "3", "-a", "shop").stdout.decode()
    facts = dict(line.split("\t") for line in shown.splitlines())
    assert facts["lost"] == "overrun 2"
    assert facts["oldest pending"] == "1 min"
    assert facts["last error"].startswith("connection \\x1brefused (connect, ")
    assert "hunter2" not in shown


def test_a_new_drain_is_tried_at_once(call: Run, fake: FakeServer) -> None:
    fake.answers["POST /v3/channels/shop/drains"] = Answer(201, {"id": 3, "token": DRAIN_TOKEN, "url": "x"})
    steps = [
        {"step": "resolve", "ok": True, "ms": 10.5, "detail": "192.0.2.1", "error": None},
        {"step": "connect", "ok": False, "ms": 3000.0, "detail": None, "error": "timed \x1bout"},
    ]
    fake.answers["POST /v3/channels/shop/drains/3/test"] = Answer(200, {"ok": False, "steps": steps})
    ended = call("drains", "add", "https://logs.example.com/", "-a", "shop")
    assert ended.returncode == 0
    assert ended.stdout.decode().splitlines() == [
        f"drain 3  {DRAIN_TOKEN}",
        "  resolve: ok in 10.5 ms: 192.0.2.1",
        "  connect: failed in 3000 ms: timed \\x1bout",
    ]
    assert b"the drain is kept" in ended.stderr
    assert fake.asked[0].json() == {"url": "https://logs.example.com/"}
    assert call("drains", "add", "https://logs.example.com/", "-a", "shop", "--no-test").returncode == 0
    assert fake.asked[-1].path == "/v3/channels/shop/drains"


def test_every_option_of_a_drain_is_sent_and_files_travel_as_text(call: Run, fake: FakeServer, tmp_path: Path) -> None:
    fake.answers["POST /v3/channels/shop/drains"] = Answer(201, {"id": 3, "token": DRAIN_TOKEN})
    for name in ("ca", "cert", "key"):
        (tmp_path / name).write_text(f"-----BEGIN {name}")
    (tmp_path / "headers").write_text("X-Key: hunter2\n\nX-Other:  a:b\n")
    options = (
        "--format json --gzip --linger 0.5 --batch-bytes 20000 --source app --ps web --text x --pattern ^a "
        "--severity error --headers-file headers --ca-file ca --cert-file cert --key-file key --fingerprint ab "
        "--start 17 --no-test"
    )
    ended = call(
        "drains", "add", "-", "-a", "shop", *options.split(), input=b"https://user:hunter2@logs.example.com/\n"
    )
    assert ended.returncode == 0, ended.stderr
    assert fake.asked[0].json() == {
        "url": "https://user:hunter2@logs.example.com/",
        "options": {
            "format": "json",
            "compress": "gzip",
            "linger": 0.5,
            "batch_bytes": 20000,
            "filter": {"source": "app", "ps": "web", "text": "x", "pattern": "^a", "severity": "error"},
            "headers": {"X-Key": "hunter2", "X-Other": "a:b"},
            "ca": "-----BEGIN ca",
            "client_cert": "-----BEGIN cert",
            "client_key": "-----BEGIN key",
            "fingerprint": "ab",
            "start": 17,
        },
    }


def test_the_options_that_are_sent_are_options_of_drains() -> None:
    from drains.spec import _OPTIONS
    from logplex.cli.drains import options_of

    given = dict.fromkeys(
        ("format", "linger", "batch_bytes", "fingerprint", "source", "ps", "text", "pattern", "severity"), "x"
    )
    files = dict.fromkeys(("headers_file", "ca_file", "cert_file", "key_file"), "/dev/null")
    assert set(options_of({**given, **files, "gzip": True, "start": "now"})) == set(_OPTIONS)


def test_the_formats_that_are_offered_are_those_of_drains() -> None:
    from drains.spec import Format
    from logplex.cli.drains import add

    (kind,) = [option.type for option in add.params if option.name == "format"]
    assert isinstance(kind, click.Choice)
    assert list(kind.choices) == [each.value for each in Format]


@pytest.mark.parametrize("name", ["3", DRAIN_TOKEN, str(DRAIN["url"])])
def test_a_drain_is_removed_by_id_token_or_url(name: str, call: Run, fake: FakeServer) -> None:
    fake.answers["GET /v3/channels/shop/drains"] = Answer(200, {"drains": [DRAIN]})
    fake.answers["DELETE /v3/channels/shop/drains/3"] = Answer(204)
    assert call("drains", "remove", name, "-a", "shop").returncode == 0
    assert fake.asked[-1].method == "DELETE"


def test_an_unknown_drain_is_named_without_its_secret(call: Run, fake: FakeServer) -> None:
    fake.answers["GET /v3/channels/shop/drains"] = Answer(200, {"drains": []})
    ended = call("drains", "remove", "https://user:hunter2@x/", "-a", "shop")
    assert ended.returncode == 1
    assert ended.stderr == b"logplex: the app shop has no drain https://x/: see `logplex drains -a shop`\n"


def test_a_failed_test_of_a_drain_is_exit_code_1(call: Run, fake: FakeServer) -> None:
    fake.answers["POST /v3/channels/shop/drains/3/test"] = [
        Answer(200, {"ok": True, "steps": [{"step": "send", "ok": True, "ms": 5, "detail": None, "error": None}]}),
        Answer(200, {"ok": False, "steps": []}),
    ]
    assert call("drains", "test", "3", "-a", "shop").returncode == 0
    assert call("drains", "test", "3", "-a", "shop").returncode == 1


def test_history_is_sent_again(call: Run, fake: FakeServer) -> None:
    fake.answers["POST /v3/channels/shop/drains/3/replay"] = Answer(202, {"from": 4, "lines": 9})
    assert call("drains", "replay", "3", "-a", "shop", "--from", "oldest").stdout == b"9 lines from position 4\n"
    assert fake.asked[-1].json() == {"from": "oldest"}
    call("drains", "replay", "3", "-a", "shop", "--from", "12")
    assert fake.asked[-1].json() == {"from": 12}


def test_a_credential_is_printed_once_as_the_line_that_clients_take(call: Run, fake: FakeServer) -> None:
    fake.answers["POST /v3/credentials"] = Answer(
        201, {"id": "ci", "password": "made-up", "permissions": ["app:shop"]}
    )
    assert call("credentials", "create", "ci", "--app", "shop").stdout == b"ci:made-up\n"
    assert fake.asked[-1].json() == {"id": "ci", "permissions": ["app:shop"]}
    call("credentials", "create", "--write", "shop", "--write-any", "--full")
    assert fake.asked[-1].json() == {"permissions": ["channel:shop", "any_channel", "full_api"]}


def test_a_chosen_password_comes_from_standard_input(call: Run, fake: FakeServer) -> None:
    fake.answers["POST /v3/credentials"] = Answer(201, {"id": "ci", "permissions": ["full_api"]})
    ended = call("credentials", "create", "ci", "--full", "--password", "-", input=b"chosen one\n")
    assert ended.stdout == b"ci:chosen one\n"
    assert fake.asked[-1].json()["password"] == "chosen one"


def test_credentials_are_listed_and_deleted(call: Run, fake: FakeServer) -> None:
    rows = [{"id": "admin", "permissions": ["full_api", "any_channel"], "created_at": 1714564800.0}]
    fake.answers["GET /v3/credentials"] = Answer(200, {"credentials": rows})
    fake.answers["DELETE /v3/credentials/ci"] = Answer(204)
    assert call("credentials").stdout.startswith(b"admin\tfull_api, any_channel\t")
    assert call("credentials", "delete", "ci").returncode == 0
    assert b"there is no credential x" in call("credentials", "delete", "x").stderr


def test_status_shows_health_and_ledger_and_tells_programs_by_its_exit_code(call: Run, fake: FakeServer) -> None:
    fake.answers["GET /v3/healthcheck"] = [
        Answer(200, {"state": "normal"}),
        Answer(200, {"state": "degraded", "since": "x"}),
    ]
    fake.answers["GET /v3/status"] = Answer(200, {"ledger": {"frames": 5, "malformed": {"pri": 1}}})
    ended = call("status")
    assert ended.returncode == 0
    assert b" is normal\n" in ended.stdout
    assert b"ledger.frames\t5\nledger.malformed.pri\t1\n" in ended.stdout
    assert call("status").returncode == 1


def test_status_of_an_app_is_its_ledger(call: Run, fake: FakeServer) -> None:
    fake.answers["GET /v3/channels/shop/ledger"] = Answer(200, {"received": 5, "drains": [{"id": 3, "pending": 2}]})
    assert call("status", "shop").stdout == b"received\t5\ndrains.3.id\t3\ndrains.3.pending\t2\n"
    assert json.loads(call("status", "shop", "--json").stdout)["received"] == 5
    assert call("status", "other").returncode == 1


def test_the_data_directory_is_enough_on_the_servers_own_machine(call: Run, fake: FakeServer, tmp_path: Path) -> None:
    for directory in (tmp_path / "logplex-data", tmp_path / "elsewhere"):
        directory.mkdir()
        (directory / "http").write_text(f"http://{fake.address}\n")
        (directory / "admin").write_text("admin:pass:word\n")
    fake.answers["GET /v3/channels"] = Answer(200, {"channels": []})
    assert call("channels", LOGPLEX_URL="").returncode == 0
    assert (
        call("channels", "--data-dir", str(tmp_path / "elsewhere"), LOGPLEX_URL="http://127.0.0.1:1").returncode == 0
    )
    assert call("channels", LOGPLEX_URL="", LOGPLEX_DATA_DIR=str(tmp_path / "elsewhere")).returncode == 0
    assert [asked.headers["Authorization"] for asked in fake.asked] == ["Basic YWRtaW46cGFzczp3b3Jk"] * 3


def test_a_server_below_a_path_is_reached_there(call: Run, fake: FakeServer) -> None:
    fake.answers["GET /logs-service/v3/channels"] = Answer(200, {"channels": []})
    assert call("channels", LOGPLEX_URL=f"http://ops:hunter2@{fake.address}/logs-service/").returncode == 0


@pytest.mark.parametrize("answer", [Answer(404, {"error": "x"}), Answer(422, {"error": "channel not found"})])
def test_a_tail_of_a_missing_app_says_what_to_do(answer: Answer, call: Run, fake: FakeServer) -> None:
    fake.answers["POST /v3/sessions"] = answer
    ended = call("tail", "shop")
    assert ended.returncode == 1
    assert ended.stderr.startswith(b"logplex: there is no app shop: see `logplex channels list`")


def test_a_credential_is_not_reset_where_no_server_has_call(call: Run, tmp_path: Path) -> None:
    ended = call("credentials", "reset-admin", "--data-dir", str(tmp_path / "nothing"))
    assert ended.returncode == 1
    assert b"no server has run on" in ended.stderr
    assert not (tmp_path / "nothing").exists()
