"""TLS drains: what is verified, and what a failure tells whom."""

import datetime
import hashlib
import ssl

import pytest
import trio
import trustme

from drains.limits import Limits
from drains.spec import DrainSpec
from drains.tls import TlsOptions, make_context
from logplex.errors import Unprocessable

from ..polling import until
from .world import TOKEN, NoResolver, World, http_receiver, running, serve, settled, spec, syslog_receiver

QUICK = Limits(backoff_seconds=0.1, max_backoff_seconds=0.2, connect_seconds=2.0)
CA = trustme.CA()
OTHER_CA = trustme.CA()
CERT = CA.issue_cert("localhost", "127.0.0.1")
PEM = CA.cert_pem.bytes().decode()
YESTERDAY = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)


def server_context(cert: trustme.LeafCert = CERT, *, client_ca: trustme.CA | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    cert.configure_cert(context)
    if client_ca is not None:
        client_ca.configure_trust(context)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def fingerprint(cert: trustme.LeafCert) -> str:
    der = ssl.PEM_cert_to_DER_cert(cert.cert_chain_pems[0].bytes().decode())
    return hashlib.sha256(der).hexdigest()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
async def test_syslog_over_tls_arrives_when_chain_and_name_are_right(version: ssl.TLSVersion, host: str) -> None:
    world = World()
    context = server_context()
    context.minimum_version = context.maximum_version = version
    async with syslog_receiver(context=context) as receiver, running(world) as deliveries:
        deliveries.add(spec(f"syslog+tls://{host}:{receiver.port}", ca=PEM), world.channel, None)
        expected = world.numbers(3000)
        assert await receiver.until(3000) == expected
        for number in range(20):
            world.write(b"later %d" % number)
            assert (await receiver.until(3001 + number))[-1] == b"later %d" % number
        await settled(deliveries)
        seen = deliveries.status(7)
        assert seen is not None
        assert (seen.delivered, seen.pending, seen.error) == (3020, 0, None)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_https_arrives_over_one_connection(version: ssl.TLSVersion) -> None:
    world = World(ring_lines=100_000)
    context = server_context()
    context.minimum_version = context.maximum_version = version
    async with http_receiver(context=context) as receiver, running(world) as deliveries:
        expected = world.numbers(20_000)
        drain = spec(f"https://localhost:{receiver.port}", ca=PEM, start="oldest")
        deliveries.add(drain, world.channel, None)
        got: list[bytes] = []
        while len(got) < 20_000:
            got += (await receiver.post()).texts
        assert got == expected
        for number in range(20):
            world.write(b"%d" % number)
            assert (await receiver.post()).texts == [b"%d" % number]
        await settled(deliveries)
        assert receiver.connections == 1
        assert deliveries.status(7).error is None  # type: ignore[union-attr]


BAD = {
    "unknown authority": (OTHER_CA.issue_cert("localhost"), PEM, "unable to get local issuer certificate"),
    "another name": (CA.issue_cert("other.example"), PEM, "Hostname mismatch"),
    "expired": (CA.issue_cert("localhost", not_after=YESTERDAY), PEM, "certificate has expired"),
    "not in the system's store": (CERT, "", "unable to get local issuer certificate"),
}


@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("scheme", ["https", "syslog+tls"])
async def test_a_certificate_that_does_not_verify_is_l14_and_retried(case: str, scheme: str) -> None:
    cert, ca, text = BAD[case]
    world = World()
    async with syslog_receiver(context=server_context(cert)) as receiver, running(world, limits=QUICK) as deliveries:
        options = {"ca": ca} if ca else {}
        deliveries.add(spec(f"{scheme}://localhost:{receiver.port}", **options), world.channel, None)
        world.write(b"a")
        await until(lambda: deliveries.status(7).retried >= 2)  # type: ignore[union-attr]
        seen = deliveries.status(7)
        assert seen is not None
        assert seen.error is not None
        assert seen.error.kind == "certificate"
        assert text in seen.error.text
        assert seen.pending == 1
        assert len(world.told) == 1
        pri, line, tails_only = world.told[0]
        assert (pri, tails_only) == (188, True)
        assert line.startswith(b'Error L14 (certificate validation): error="')
        assert line.endswith(f'" uri="{scheme}://localhost:{receiver.port}'.encode() + (b'"'))
        assert receiver.received == b""


async def test_insecure_takes_any_certificate() -> None:
    world = World()
    cert = OTHER_CA.issue_cert("other.example")
    async with syslog_receiver(context=server_context(cert)) as receiver, running(world) as deliveries:
        deliveries.add(spec(f"syslog+tls://localhost:{receiver.port}#insecure"), world.channel, None)
        world.write(b"a")
        assert await receiver.until(1) == [b"a"]


async def test_a_pinned_certificate_is_taken_and_no_other() -> None:
    world = World()
    cert = OTHER_CA.issue_cert("other.example")
    async with syslog_receiver(context=server_context(cert)) as receiver, running(world, limits=QUICK) as deliveries:
        url = f"syslog+tls://localhost:{receiver.port}"
        deliveries.add(spec(url, fingerprint=fingerprint(CERT)), world.channel, None)
        world.write(b"a")
        await until(lambda: deliveries.status(7).error is not None)  # type: ignore[union-attr]
        error = deliveries.status(7).error  # type: ignore[union-attr]
        assert error is not None
        assert (error.kind, error.text) == ("certificate", "the certificate is not the pinned one")
        deliveries.change(spec(url, fingerprint="SHA256:" + fingerprint(cert).upper()))
        assert await receiver.until(1) == [b"a"]


async def test_a_client_certificate_is_shown_when_it_is_asked_for() -> None:
    world = World()
    mine = CA.issue_cert("client.example")
    cert = "".join(pem.bytes().decode() for pem in mine.cert_chain_pems)
    context = server_context(client_ca=CA)
    async with syslog_receiver(context=context) as receiver, running(world) as deliveries:
        url = f"syslog+tls://localhost:{receiver.port}"
        key = mine.private_key_pem.bytes().decode()
        deliveries.add(spec(url, ca=PEM, client_cert=cert, client_key=key), world.channel, None)
        world.write(b"a")
        assert await receiver.until(1) == [b"a"]


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("scheme", ["https", "syslog+tls"])
async def test_a_missing_client_certificate_is_an_alert_that_is_retried_and_loses_nothing(
    scheme: str, version: ssl.TLSVersion
) -> None:
    world = World()
    context = server_context(client_ca=CA)
    context.minimum_version = context.maximum_version = version
    async with syslog_receiver(context=context) as receiver, running(world, limits=QUICK) as deliveries:
        deliveries.add(spec(f"{scheme}://localhost:{receiver.port}", ca=PEM), world.channel, None)
        world.write(b"a")
        await until(lambda: deliveries.status(7).retried >= 3)  # type: ignore[union-attr]
        seen = deliveries.status(7)
        assert seen is not None
        assert seen.error is not None
        assert seen.error.kind in ("tls", "reset", "closed")
        assert seen.pending == 1


async def test_a_receiver_that_speaks_no_tls_is_a_failure_in_our_own_words() -> None:
    world = World()

    async def plain(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.receive_some(1000)
            await stream.send_all(b"HTTP/1.1 400 secret words\r\n\r\n")

    async with trio.open_nursery() as nursery, running(world, limits=QUICK) as deliveries:
        listeners = await nursery.start(serve, plain)
        port = listeners[0].socket.getsockname()[1]
        deliveries.add(spec(f"https://localhost:{port}"), world.channel, None)
        world.write(b"a")
        await until(lambda: deliveries.status(7).error is not None)  # type: ignore[union-attr]
        error = deliveries.status(7).error  # type: ignore[union-attr]
        assert error is not None
        assert error.kind == "tls"
        assert "secret" not in error.text
        nursery.cancel_scope.cancel()


async def test_a_receiver_that_hangs_in_its_handshake_is_given_up() -> None:
    world = World()

    async def hang(stream: trio.SocketStream) -> None:
        await trio.sleep_forever()

    limits = Limits(connect_seconds=0.2)
    async with trio.open_nursery() as nursery, running(world, limits=limits) as deliveries:
        listeners = await nursery.start(serve, hang)
        port = listeners[0].socket.getsockname()[1]
        deliveries.add(spec(f"syslog+tls://localhost:{port}"), world.channel, None)
        world.write(b"a")
        await until(lambda: deliveries.status(7).error is not None)  # type: ignore[union-attr]
        error = deliveries.status(7).error  # type: ignore[union-attr]
        assert error is not None
        assert (error.kind, error.text) == ("timeout", "no TLS within 0.2 s")
        nursery.cancel_scope.cancel()


async def test_the_name_is_sent_and_the_address_is_the_one_that_was_checked() -> None:
    world = World()
    names: list[str | None] = []
    context = server_context(CA.issue_cert("logs.example"))
    context.sni_callback = lambda sock, name, ctx: names.append(name)  # type: ignore[assignment]
    resolver = NoResolver(**{"logs.example": ["127.0.0.1"]})
    async with syslog_receiver(context=context) as receiver, running(world, resolver=resolver) as deliveries:
        deliveries.add(spec(f"syslog+tls://logs.example:{receiver.port}", ca=PEM), world.channel, None)
        world.write(b"a")
        assert await receiver.until(1) == [b"a"]
        assert names == ["logs.example"]


def test_contexts_verify_unless_told_otherwise() -> None:
    usual = make_context(TlsOptions())
    assert usual.verify_mode is ssl.CERT_REQUIRED
    assert usual.check_hostname
    assert usual.minimum_version is ssl.TLSVersion.TLSv1_2
    assert make_context(TlsOptions(insecure=True)).verify_mode is ssl.CERT_NONE


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"ca": "nonsense"}, "ca"),
        ({"ca": "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"}, "ca"),
        ({"ca": 5}, "ca"),
        ({"client_cert": "/etc/passwd"}, "client_cert"),
        ({"client_cert": PEM}, "client_cert"),
        ({"client_key": "-----BEGIN PRIVATE KEY-----"}, "client_key"),
        ({"fingerprint": "abc"}, "fingerprint"),
        ({"fingerprint": "z" * 64}, "fingerprint"),
    ],
)
def test_certificates_that_cannot_be_read_are_refused_by_field(options: dict[str, object], field: str) -> None:
    with pytest.raises(Unprocessable, match=f"^{field}: "):
        DrainSpec.parse(1, TOKEN, "syslog+tls://localhost", options)
