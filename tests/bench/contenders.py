"""The servers that are measured: this one, rsyslog and syslog-ng, each doing the same work.

* Each is a function that yields a `Running` server of its own process, pinned to the server's core, in a folder that
  ends with the block.
* The peers' configurations are those that were found fastest: one worker each (two were not faster and reorder within
  an app), look-up table from token to source, octet-counted out. They keep no history, this server does.
"""

import json
import os
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path

from ..peers import programs as peers
from ..ports import free_port
from .ours import start_logplex
from .programs import SERVER_CORE
from .work import Running, Work

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
    port = free_port()
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
    port = free_port()
    text = SYSLOG_NG.format(folder=folder, port=port, outputs="\n".join(outputs), action="\n  ".join(action))
    command = peers.start_syslog_ng(folder, text)
    ready = partial(peers.accepts, port)
    with peers.running(command, log=folder / "syslog-ng.log", ready=ready, core=SERVER_CORE) as process:
        yield Running(process.pid, port, tokens)


@contextmanager
def start_relay(work: Work, folder: Path) -> Iterator[Running]:
    """A relay in Python that looks at nothing (relay.py): what it takes, no server in Python can save."""
    port = free_port()
    command = [sys.executable, "-m", "tests.bench.relay", str(port), str(work.port)]
    ready = partial(peers.accepts, port)
    with peers.running(command, log=folder / "relay.log", ready=ready, core=SERVER_CORE) as process:
        yield Running(process.pid, port, peer_tokens(work))


@contextmanager
def start_nothing(work: Work, folder: Path) -> Iterator[Running]:
    """No server at all: the generator sends to the sink. What it reaches bounds what can be measured."""
    yield Running(os.getpid(), work.port, peer_tokens(work))


Start = Callable[[Work, Path], AbstractContextManager[Running]]
STARTS: dict[str, Start] = {
    "logplex": start_logplex,
    "rsyslog": start_rsyslog,
    "syslog-ng": start_syslog_ng,
    "relay": start_relay,
    "nothing": start_nothing,
}
PEERS = {"rsyslog": peers.rsyslogd, "syslog-ng": peers.syslog_ng}


def missing(contender: str) -> bool:
    """Whether a peer is not on this machine; its columns are then left out."""
    return contender in PEERS and PEERS[contender]() is None
