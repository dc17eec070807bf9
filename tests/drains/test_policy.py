"""The address policy: as a table, and through a resolver and a dialler that never leave loopback."""

import socket

import pytest
import trio

from drains.alarms import Alarms
from drains.dial import Dialler
from drains.limits import Limits
from drains.link import Watch
from drains.policy import Policy
from drains.spec import DrainSpec
from drains.status import Failure
from drains.tls import Contexts
from drains.url import Kind, parse
from logplex.errors import SetupError, Unprocessable
from logplex.poller import Poller

from .world import TOKEN, NoResolver

REFUSED = [
    # IPv4: unspecified, private, carrier, loopback, metadata, link-local, documentation, reserved, multicast
    "0.0.0.0", "0.1.2.3", "10.0.0.1", "10.255.255.255", "100.64.0.1", "100.100.100.200", "100.127.255.255",
    "127.0.0.1", "127.1.2.3", "127.255.255.254", "168.63.129.16", "169.254.0.1", "169.254.169.254",
    "172.16.0.1", "172.31.255.255", "192.0.0.1", "192.0.0.8", "192.0.0.170", "192.0.2.1", "192.31.196.1",
    "192.52.193.1", "192.88.99.1", "192.168.0.1", "192.168.255.255", "192.175.48.1", "198.18.0.1",
    "198.19.255.255", "198.51.100.1", "203.0.113.1", "224.0.0.1", "239.255.255.250", "240.0.0.1",
    "255.255.255.255",
    # IPv6: unspecified, loopback, private, link-local, site-local, multicast, documentation, discard, Teredo
    "::", "::1", "0:0:0:0:0:0:0:1", "fc00::1", "fd00:ec2::254", "fd12:3456:789a::1", "fe80::1", "fe80::1%eth0",
    "fe80::1%1", "febf::1", "fec0::1", "ff02::1", "ff0e::1", "2001:db8::1", "3fff::1", "100::1", "100:0:0:1::1",
    "2001::1", "2001:0:4136:e378:8000:63bf:3fff:fdd2", "2001:10::1", "2001:20::1", "2001:2::1", "2620:4f:8000::1",
    "5f00::1", "4000::1", "1::1", "e000::1", "2606:4700::1111%eth0",
    # IPv4 inside IPv6: mapped, compatible, translated, NAT64, 6to4, ISATAP
    "::ffff:127.0.0.1", "::ffff:7f00:1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "::ffff:0.0.0.0",
    "0:0:0:0:0:ffff:a9fe:a9fe", "::127.0.0.1", "::8.8.8.8", "::ffff:0:127.0.0.1", "::ffff:0:8.8.8.8",
    "64:ff9b::127.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b::192.168.0.1", "64:ff9b:1::8.8.8.8",
    "2002:7f00:1::", "2002:a00:1::1", "2002:a9fe:a9fe::1", "2002:c0a8:1::", "2606:4700::5efe:127.0.0.1",
    "2606:4700::200:5efe:10.0.0.1",
    # no addresses at all
    "", "localhost", "127.1", "2130706433", "0x7f000001", "0177.0.0.1", "127.0.0.1:80", "127.0.0.1/8", " 127.0.0.1",
]  # fmt: skip

ALLOWED = [
    "1.1.1.1", "8.8.8.8", "9.255.255.255", "11.0.0.1", "100.63.255.255", "100.128.0.1", "126.255.255.255",
    "128.0.0.1", "168.63.129.17", "169.253.1.1", "172.15.255.255", "172.32.0.1", "192.167.1.1", "192.169.1.1",
    "198.17.1.1", "198.20.0.1", "223.255.255.255", "2606:4700:4700::1111", "2001:4860:4860::8888",
    "2a00:1450:4001::1", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8", "2002:808:808::1", "2606:4700::5efe:8.8.8.8",
]  # fmt: skip

SPELLINGS = [
    # host part of a URL, all of them some way to say 127.0.0.1, 169.254.169.254 or another place inside
    "127.0.0.1", "127.1", "127.0.1", "2130706433", "017700000001", "0x7f000001", "0x7f.0.0.1", "0177.0.0.1",
    "0177.0.0.01", "127.0.0.0x1", "127.0.0.01", "0x7f.1", "00000177.1", "127.0.0.1.", "①②⑦.⓪.⓪.①",
    "１２７.０.０.１", "127。0。0。1", "0", "0.0.0.0", "0x0", "2852039166", "0xa9fea9fe", "0xa9.0xfe.0xa9.0xfe",
    "0251.0376.0251.0376", "169.254.43518", "[::1]", "[0:0:0:0:0:0:0:1]", "[::]", "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]", "[::127.0.0.1]", "[::7f00:1]", "[64:ff9b::127.0.0.1]", "[64:ff9b::7f00:1]", "[2002:7f00:1::]",
    "[fe80::1]", "[fe80::1%25eth0]", "[fe80::1%eth0]", "[fd00::1]", "[::1%25lo]", "[::ffff:0:127.0.0.1]",
    "[2001:0:0:0:0:0:7f00:1]", "10.1", "10.0.0.1", "192.168.1", "3232235521", "0xc0a80001", "127.0.0.1:80",
    "user@127.0.0.1", "8.8.8.8@127.0.0.1", "user:pass@[::1]:80", "127.0.0.1#@8.8.8.8", "127.0.0.1?@8.8.8.8",
    "4294967296", "127.0.0.256", "999.1.1.1", "0x", "0b1111111.0.0.1", "127.0.0.1%00", "%31%32%37.0.0.1",
    "127.0.0.1\\@8.8.8.8", "127.0.0.1 ", "\t127.0.0.1", "[v1.127.0.0.1]", "[127.0.0.1]", "::1", "[::1]:0",
    "[0000:0000:0000:0000:0000:0000:0000:0001]", "[::ffff:0x7f.1]", "１２７．１", "0300.0250.0.1",
]  # fmt: skip


@pytest.mark.parametrize("address", REFUSED)
def test_an_address_that_is_not_public_unicast_is_refused(address: str) -> None:
    assert Policy().refusal(address, 443)


@pytest.mark.parametrize("address", ALLOWED)
def test_public_unicast_is_allowed(address: str) -> None:
    assert Policy().refusal(address, 443) is None


def test_there_are_enough_spellings() -> None:
    assert len(set(SPELLINGS)) >= 60
    assert len(set(REFUSED)) >= 60


@pytest.mark.parametrize("host", SPELLINGS)
def test_no_spelling_of_an_inner_address_gets_into_a_url(host: str) -> None:
    with pytest.raises(Unprocessable):
        Policy().check(parse(f"http://{host}/"))


@pytest.mark.parametrize("address", [a for a in REFUSED if a and ":" in a and "%" not in a and "/" not in a])
def test_a_literal_ipv6_address_that_is_refused_makes_no_drain(address: str) -> None:
    with pytest.raises(Unprocessable):
        Policy().check(parse(f"syslog://[{address}]:601"))


def dialler(resolver: NoResolver, dialled: list[str], policy: Policy | None = None) -> Dialler:
    async def connect(address: str, port: int, kind: Kind) -> socket.socket:
        await trio.lowlevel.checkpoint()
        dialled.append(address)
        if address == "9.9.9.9":
            raise ConnectionRefusedError(111, "refused")
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        theirs.close()
        return ours

    limits = Limits()
    return Dialler(limits, policy or Policy(), resolver, Contexts(), Watch(Poller(), Alarms()), connect=connect)


@pytest.mark.parametrize("address", REFUSED)
async def test_a_name_that_resolves_to_a_refused_address_is_not_dialled(address: str) -> None:
    dialled: list[str] = []
    resolver = NoResolver(**{"evil.example": [address]})
    with pytest.raises(Failure) as caught:
        await dialler(resolver, dialled).dial(DrainSpec.parse(1, TOKEN, "http://evil.example/"), 1)
    assert caught.value.kind == "policy"
    assert dialled == []


async def test_of_several_addresses_only_the_allowed_ones_are_dialled() -> None:
    dialled: list[str] = []
    resolver = NoResolver(**{"mixed.example": ["127.0.0.1", "9.9.9.9", "::1", "10.0.0.1", "8.8.8.8", "8.8.4.4"]})
    link = await dialler(resolver, dialled).dial(DrainSpec.parse(1, TOKEN, "http://mixed.example/"), 1)
    link.close()
    assert dialled == ["9.9.9.9", "8.8.8.8"]


async def test_a_name_that_changes_between_look_ups_is_judged_by_what_is_dialled() -> None:
    dialled: list[str] = []
    resolver = NoResolver(**{"moving.example": ["8.8.8.8"]})
    door = dialler(resolver, dialled)
    spec = DrainSpec.parse(1, TOKEN, "http://moving.example/")
    (await door.dial(spec, 1)).close()
    resolver.names["moving.example"] = ["127.0.0.1"]
    with pytest.raises(Failure, match="loopback"):
        await door.dial(spec, 1)
    assert dialled == ["8.8.8.8"]
    assert resolver.asked == ["moving.example"] * 2


async def test_a_literal_address_is_judged_at_connect_too() -> None:
    dialled: list[str] = []
    with pytest.raises(Failure, match="private"):
        await dialler(NoResolver(), dialled).dial(DrainSpec.parse(1, TOKEN, "http://10.0.0.1/"), 1)
    assert dialled == []


def test_an_operator_lets_ranges_in() -> None:
    policy = Policy(["127.0.0.0/8", " fd00::/8 ", "10.1.0.0/16"])
    assert policy.refusal("127.0.0.1", 80) is None
    assert policy.refusal("::ffff:127.0.0.1", 80) is None
    assert policy.refusal("fd00::1", 80) is None
    assert policy.refusal("10.1.2.3", 80) is None
    assert policy.refusal("10.2.2.3", 80)
    assert policy.refusal("::1", 80)
    policy.check(parse("http://127.0.0.1:9/"))


def test_the_servers_own_listeners_are_refused_whatever_is_allowed() -> None:
    own = [("127.0.0.1", 8001), ("0.0.0.0", 6001), ("::", 6514)]
    policy = Policy(["0.0.0.0/0", "::/0"], own)
    assert policy.refusal("127.0.0.1", 8001)
    assert policy.refusal("::ffff:127.0.0.1", 8001)
    assert policy.refusal("127.0.0.2", 8001) is None
    assert policy.refusal("127.0.0.2", 6001)
    assert policy.refusal("::1", 6514)
    assert policy.refusal("127.0.0.1", 6514)
    assert policy.refusal("8.8.8.8", 6001) is None
    with pytest.raises(Unprocessable, match="listener"):
        policy.check(parse("http://127.0.0.1:8001/"))


def test_ports_can_be_restricted() -> None:
    policy = Policy(ports=["443", "1024-2048"])
    assert policy.refusal("8.8.8.8", 443) is None
    assert policy.refusal("8.8.8.8", 2048) is None
    assert policy.refusal("8.8.8.8", 80)
    assert Policy().refusal("8.8.8.8", 0)
    with pytest.raises(Unprocessable, match="port 25"):
        policy.check(parse("http://example.com:25/"))


@pytest.mark.parametrize(
    "given", [{"allow": ["10.0.0.1/8"]}, {"allow": ["x"]}, {"ports": ["x"]}, {"ports": ["0"]}, {"ports": ["9-1"]}]
)
def test_a_policy_that_cannot_be_read_is_a_setup_error(given: dict[str, list[str]]) -> None:
    with pytest.raises(SetupError, match="--drain-"):
        Policy(**given)  # type: ignore[arg-type]
