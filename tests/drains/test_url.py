"""Drain URLs."""

import pytest

from drains.url import Kind, parse
from logplex.errors import Unprocessable


@pytest.mark.parametrize(
    ("text", "kind", "tls", "host", "port", "target"),
    [
        ("http://example.com", Kind.HTTP, False, "example.com", 80, b"/"),
        ("HTTPS://Example.COM/logs?app=a&b=c", Kind.HTTP, True, "example.com", 443, b"/logs?app=a&b=c"),
        ("https://example.com?x=1", Kind.HTTP, True, "example.com", 443, b"/?x=1"),
        ("https://example.com:8443/a%20b#part", Kind.HTTP, True, "example.com", 8443, b"/a%20b"),
        ("https://example.com/ü", Kind.HTTP, True, "example.com", 443, b"/%C3%BC"),
        ("syslog://logs.example.com", Kind.SYSLOG, False, "logs.example.com", 601, b"/"),
        ("tcpsyslog://logs.example.com:514", Kind.SYSLOG, False, "logs.example.com", 514, b"/"),
        ("syslog+tcp://logs_1.example.com", Kind.SYSLOG, False, "logs_1.example.com", 601, b"/"),
        ("syslog+tls://logs.example.com", Kind.SYSLOG, True, "logs.example.com", 6514, b"/"),
        ("syslog+tls://logs.example.com:6515#insecure", Kind.SYSLOG, True, "logs.example.com", 6515, b"/"),
        ("syslog+udp://logs.example.com", Kind.UDP, False, "logs.example.com", 514, b"/"),
        ("udpsyslog://[2606:4700::1111]:1514", Kind.UDP, False, "2606:4700::1111", 1514, b"/"),
        ("http://8.8.8.8:81/", Kind.HTTP, False, "8.8.8.8", 81, b"/"),
        ("http://bücher.example/", Kind.HTTP, False, "xn--bcher-kva.example", 80, b"/"),
    ],
)
def test_a_url_says_how_and_where(text: str, kind: Kind, tls: bool, host: str, port: int, target: bytes) -> None:
    url = parse(text)
    assert (url.kind, url.tls, url.host, url.port, url.target) == (kind, tls, host, port, target)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "example.com",
        "example.com:514",
        "//example.com",
        "ftp://example.com",
        "file:///etc/passwd",
        "http://",
        "http:///path",
        "http://:80",
        "http://example.com:0",
        "http://example.com:65536",
        "http://example.com:+80",
        "http://example.com:８０",
        "http://example.com:80:80",
        "http://exa mple.com",
        "http://example.com/\r\nHost: other",
        "http://example.com/\n",
        "http://example.com\\@other.com",
        "http://exam%70le.com",
        "http://-example.com",
        "http://a..b",
        "http://" + "a" * 64 + ".com",
        "http://" + "a." * 127 + "com",
        "http://[::1",
        "http://[::1]x",
        "http://::1",
        "http://[127.0.0.1]",
        "http://[fe80::1%25eth0]/",
        "http://[fe80::1%eth0]/",
        "http://user:pa%0Ass@example.com",
        "http://a%3Ab:c@example.com",
        "http://example.com#insecure",
        "syslog://example.com/path",
        "syslog://example.com?x",
        "syslog://user@example.com",
        "syslog://example.com#insecure",
        "syslog+tls://example.com#INSECURE",
        "syslog+udp://example.com#insecure",
        "http://example.com/\ud800",
        "http://example.com/" + "a" * 5000,
    ],
)
def test_what_is_no_drain_url_is_refused_by_a_sentence(text: str) -> None:
    with pytest.raises(Unprocessable, match=r"^Invalid drain destination: [^\r\n]+$"):
        parse(text)


def test_userinfo_becomes_basic_authentication_and_is_shown_nowhere() -> None:
    url = parse("https://us%40er:p%C3%A4ss@example.com:444/path?key=secret#f")
    assert url.authorization == b"Basic dXNAZXI6cMOkc3M="
    assert url.shown == "https://example.com:444/path"
    assert url.target == b"/path?key=secret"
    assert url.authority == b"example.com:444"
    assert "dXNA" not in repr(url)
    assert "secret" not in repr(url)
    assert parse("https://example.com:443/").authority == b"example.com"
    assert parse("https://[2606:4700::1111]/").authority == b"[2606:4700::1111]"
    assert parse("http://example.com").authorization is None


@pytest.mark.parametrize("secret", ["pass\nword", "pa ss"])
def test_an_error_does_not_repeat_the_url(secret: str) -> None:
    with pytest.raises(Unprocessable) as caught:
        parse(f"https://user:{secret}@example.com")
    assert "pa" not in str(caught.value).removeprefix("Invalid drain destination: spaces, control characters, ba")
