"""The servers that are measured: this one, rsyslog and syslog-ng, each doing the same work.

* A `Work` says what goes in and comes out; `start_…` yields a `Running` server of its own process, pinned to the
  server's core, on a data directory that ends with the block.
* The peers' configurations are those that were found fastest: one worker each (two were not faster and reorder within
  an app), look-up table from token to source, octet-counted out. They keep no history, this server does.
* CPU is that of the whole process, all threads, from its clock; memory is the kernel's high-water mark.
"""

import base64
import http.client
import json
import os
import re
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import trustme

from ..peers import programs as peers
from .programs import SERVER_CORE, pin_to

ROOT = Path(__file__).resolve().parents[2]
ADMIN = ("bench", "correct-horse-battery-staple")
START_SECONDS = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What a server is asked to do: lines in by one door, out to the sink's `port` by another."""

    entrance: str = "tcp"  # tcp, tls, http
    exit: str = "tcp"  # tcp, tls, http
    port: int = 0
    channels: int = 1
    drains: int = 1  # of each channel
    tokens: int = 100  # over all channels
    durability: str = "commit"
    tls: dict[str, str] | None = None  # files of the sink's and the server's certificate
    environment: dict[str, str] = field(default_factory=dict)  # settings of this server beside the defaults


class Running:
    """A server under measurement: where lines go in, under which tokens, and what it has spent so far."""

    def __init__(self, pid: int, port: int, tokens: list[tuple[str, int]]) -> None:
        self.pid = pid
        self.port = port
        self.tokens = tokens
        self.authorization = ""  # of a credential that may write everywhere, where there is one

    def cpu_seconds(self) -> float:
        """Processor time of the process, its threads included, ended ones too."""
        return time.clock_gettime((~self.pid << 3) | 2)  # the clock id that clock_getcpuclockid(3) gives

    def memory(self, what: str = "VmHWM") -> int:
        """Bytes: `VmHWM` is the peak of the resident set, `VmRSS` what it is now."""
        found = re.search(rf"^{what}:\s+(\d+) kB", Path(f"/proc/{self.pid}/status").read_text(), re.MULTILINE)
        assert found is not None
        return int(found[1]) * 1024


class Api:
    """The management API of one running server, over one connection."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.connection = http.client.HTTPConnection(address, timeout=60)
        credential = base64.b64encode(":".join(ADMIN).encode()).decode()
        self.headers = {"Authorization": f"Basic {credential}", "Content-Type": "application/json"}

    def __call__(self, method: str, path: str, body: Any = None) -> Any:
        text = None if body is None else json.dumps(body)
        self.connection.request(method, path, body=text, headers=self.headers)
        answer = self.connection.getresponse()
        content = answer.read()
        if answer.status >= 300:
            raise RuntimeError(f"{method} {path}: {answer.status} {content!r}")
        return json.loads(content) if content else None


class RunningLogplex(Running):
    """Ours, with its API."""

    def __init__(self, process: subprocess.Popen[str], events: dict[str, str]) -> None:
        super().__init__(process.pid, 0, [])
        self.addresses = events
        self.api = Api(events["http"])
        self.authorization = self.api.headers["Authorization"]

    def port_of(self, listener: str) -> int:
        return int(self.addresses[listener].rpartition(":")[2])


def certificates(folder: Path) -> dict[str, str]:
    """Files of a certificate for 127.0.0.1, its key, and the authority that signed it."""
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1", "localhost")
    paths = {name: str(folder / f"{name}.pem") for name in ("ca", "cert", "key")}
    authority.cert_pem.write_to_path(paths["ca"])
    certificate.private_key_pem.write_to_path(paths["key"])
    Path(paths["cert"]).write_bytes(b"".join(blob.bytes() for blob in certificate.cert_chain_pems))
    return paths


@contextmanager
def serve(folder: Path, *, environment: dict[str, str], tls: dict[str, str] | None = None) -> Iterator[RunningLogplex]:
    """`logplex serve` from its `ready` event to the end of the block. `folder` holds its data directory and log."""
    options = ["--http", "127.0.0.1:0", "--syslog", "127.0.0.1:0", "--drain-allow", "127.0.0.0/8"]
    if tls:
        options += ["--syslog-tls", "127.0.0.1:0", "--tls-cert", tls["cert"], "--tls-key", tls["key"]]
        environment = {**environment, "LOGPLEX_DRAIN_CA_FILE": tls["ca"]}
    process = subprocess.Popen(
        [sys.executable, "-m", "logplex", "serve", "--data-dir", str(folder / "data"), *options],
        cwd=ROOT,
        env={**os.environ, "LOGPLEX_ADMIN": ":".join(ADMIN), "LOGPLEX_LOG_FORMAT": "json", **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=(folder / "log").open("w"),
        text=True,
        preexec_fn=lambda: pin_to(SERVER_CORE),
    )
    try:
        yield RunningLogplex(process, _ready(process, folder / "log"))
    finally:
        process.kill()
        process.wait()


def _ready(process: subprocess.Popen[str], log: Path) -> dict[str, str]:
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        for line in log.read_text().splitlines():
            if line.startswith("{") and '"ready"' in line:
                return {name: str(value) for name, value in json.loads(line).items()}
        time.sleep(0.01)
    raise RuntimeError(f"the server is not ready:\n{log.read_text()[-4000:]}")


@contextmanager
def start_logplex(work: Work, folder: Path) -> Iterator[Running]:
    """This server, its channels, tokens and drains made through its API."""
    environment = {"LOGPLEX_DURABILITY": work.durability, **work.environment}
    with serve(folder, environment=environment, tls=work.tls) as running:
        running.port = running.port_of({"tcp": "syslog", "tls": "syslog_tls", "http": "http"}[work.entrance])
        for channel in range(work.channels):
            names = [f"app-{number:05}" for number in range(channel, work.tokens, work.channels)]
            made = running.api("PUT", f"/v3/channels/bench-{channel:05}", {"tokens": names})
            running.tokens += [(token, channel) for token in made["tokens"].values()]
            for copy in range(work.drains):
                running.api("POST", f"/v3/channels/bench-{channel:05}/drains", {"url": drain_url(work, channel, copy)})
        yield running


def drain_url(work: Work, channel: int, copy: int) -> str:
    """Where the sink takes what a drain delivers; over HTTP the path tells which drain it is."""
    scheme = {"tcp": "syslog", "tls": "syslog+tls", "http": "http"}[work.exit]
    path = f"/{channel}/{copy}" if work.exit == "http" else ""
    return f"{scheme}://127.0.0.1:{work.port}{path}"


RSYSLOG = """\
global(workDirectory="{folder}" maxMessageSize="64k" parser.parseHostnameAndTag="on")
module(load="imptcp" threads="1")
main_queue(queue.type="LinkedList" queue.size="10000")
lookup_table(name="tok" file="{folder}/tokens.json")
template(name="fwd" type="list") {{
  constant(value="<") property(name="pri") constant(value=">1 ")
  property(name="timestamp" dateFormat="rfc3339") constant(value=" ") property(name="hostname")
  constant(value=" ") property(name="$.src") constant(value=" ") property(name="procid")
  constant(value=" ") property(name="msgid") constant(value=" ") property(name="structured-data")
  constant(value=" ") property(name="msg") }}
{outputs}
ruleset(name="r" queue.type="LinkedList" queue.size="100000" queue.dequeueBatchSize="1024" queue.workerThreads="1"
        queue.highWatermark="80000" queue.lowWatermark="50000" queue.fulldelaymark="90000") {{
  set $.src = lookup("tok", $app-name); if ($.src == "") then stop
  {action}
}}
input(type="imptcp" address="127.0.0.1" port="{port}" ruleset="r")
"""
RSYSLOG_FORWARD = (
    'action(type="omfwd" target="127.0.0.1" port="{out}" protocol="tcp" TCP_Framing="octet-counted" '
    'template="fwd" action.resumeRetryCount="-1" action.resumeInterval="1")'
)


def peer_tokens(work: Work) -> list[tuple[str, int]]:
    return [(f"t.{uuid.uuid4()}", number % work.channels) for number in range(work.tokens)]


def source_of(work: Work, number: int, channel: int) -> str:
    """What a peer routes by: the app where every app has its output, else a source of its own for each token."""
    return f"app-{channel if work.channels > 1 else number:05}"


@contextmanager
def start_rsyslog(work: Work, folder: Path) -> Iterator[Running]:
    """Rsyslog, forwarding all to one connection, or each app to its own."""
    tokens = peer_tokens(work)
    table = [{"index": token, "value": source_of(work, n, k)} for n, (token, k) in enumerate(tokens)]
    lookup = {"version": 1, "nomatch": "", "type": "string", "table": table}
    (folder / "tokens.json").write_text(json.dumps(lookup))
    forward = RSYSLOG_FORWARD.format(out=work.port)
    outputs = [f'ruleset(name="app-{k:05}") {{ {forward} }}' for k in range(work.channels)]
    port = peers.free_port()
    configuration = RSYSLOG.format(
        folder=folder,
        port=port,
        outputs="\n".join(outputs) if work.channels > 1 else "",
        action="call_indirect $.src;" if work.channels > 1 else forward,
    )
    command = peers.start_rsyslog(folder, configuration)
    ready = partial(peers.accepts, port)
    with peers.running(command, log=folder / "rsyslog.log", ready=ready, core=SERVER_CORE) as process:
        yield Running(process.pid, port, tokens)


SYSLOG_NG = """\
@version: 3.38
options {{ threaded(yes); use-dns(no); keep-hostname(yes); keep-timestamp(yes); chain-hostnames(no); stats-freq(0);
  frac-digits(6); ts-format(iso); log-msg-size(65536); use-fqdn(no); check-hostname(no); dns-cache(no); }};
source s_in {{ syslog(ip("127.0.0.1") port({port}) transport("tcp") max-connections(64) log-fetch-limit(1000)
  log-iw-size(64000) keep-hostname(yes)); }};
parser p_tok {{ add-contextual-data(selector("$PROGRAM") database("{folder}/tokens.csv") prefix(".tok.")); }};
filter f_known {{ "${{.tok.src}}" ne "" }};
rewrite r_src {{ set("${{.tok.src}}" value("PROGRAM")); }};
{outputs}
log {{ source(s_in); parser(p_tok); filter(f_known); rewrite(r_src); {action} flags(flow-control); }};
"""
SYSLOG_NG_FORWARD = (
    'syslog("127.0.0.1" port({out}) transport("tcp") persist-name("{name}") log-fifo-size(128000) flush-lines(100));'
)


@contextmanager
def start_syslog_ng(work: Work, folder: Path) -> Iterator[Running]:
    """syslog-ng, forwarding all to one connection, or each app to its own."""
    tokens = peer_tokens(work)
    rows = [f"{token},src,{source_of(work, n, k)}\n" for n, (token, k) in enumerate(tokens)]
    (folder / "tokens.csv").write_text("".join(rows))
    names = [f"app-{k:05}" for k in range(work.channels)]
    outputs, action = [], []
    for name in names:
        outputs.append(f"destination d_{name} {{ {SYSLOG_NG_FORWARD.format(out=work.port, name=name)} }};")
        condition = f'filter {{ "${{PROGRAM}}" eq "{name}" }}; ' if work.channels > 1 else ""
        action.append(f"log {{ {condition}destination(d_{name}); }};")
    port = peers.free_port()
    text = SYSLOG_NG.format(folder=folder, port=port, outputs="\n".join(outputs), action="\n  ".join(action))
    command = peers.start_syslog_ng(folder, text)
    ready = partial(peers.accepts, port)
    with peers.running(command, log=folder / "syslog-ng.log", ready=ready, core=SERVER_CORE) as process:
        yield Running(process.pid, port, tokens)


Start = Callable[[Work, Path], AbstractContextManager[Running]]
STARTS: dict[str, Start] = {"logplex": start_logplex, "rsyslog": start_rsyslog, "syslog-ng": start_syslog_ng}
PEERS = {"rsyslog": peers.rsyslogd, "syslog-ng": peers.syslog_ng}


def missing(contender: str) -> bool:
    """Whether a peer is not on this machine; its columns are then left out."""
    return contender in PEERS and PEERS[contender]() is None
