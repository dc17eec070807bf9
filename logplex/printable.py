"""Text that may be shown to a person: without secrets, and without power over the terminal.

* A secret keeps its kind and loses its value: userinfo of URLs goes; of tokens (`t.<uuid>`), drain tokens
  (`d.<uuid>`) and session uuids the first 8 characters stay, enough to tell two of them apart.
* Control characters are shown escaped (`\\x1b`), so that a log line, a source, an error or a URL cannot move the
  cursor, set a title or hide what stands before it. That includes C1, which terminals obey too, and the
  direction marks of Unicode, which show a text in another order than it has.
"""

import re

_CONTROL = {
    code: f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
    for code in (
        *range(0x20),
        *range(0x7F, 0xA0),
        *(0x061C, 0x200E, 0x200F, 0x2028, 0x2029),
        *range(0x202A, 0x202F),
        *range(0x2066, 0x206A),
        *range(0xD800, 0xE000),  # lone surrogates cannot be written to any terminal
    )
}
_CONTROL |= {ord("\n"): "\\n", ord("\r"): "\\r", ord("\t"): "\\t"}

_USERINFO = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://)[^/?#\s]*@")
_UUID = re.compile(r"([0-9A-Fa-f]{8})-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{12}")


def printable(text: str) -> str:
    """`text` with every control character escaped; one line stays one line."""
    return text.translate(_CONTROL)


def without_secrets(text: str) -> str:
    """`text` without the userinfo of URLs, and with every uuid cut to its first 8 characters."""
    return _UUID.sub(r"\1", _USERINFO.sub(r"\1", text))


def shown_url(url: str) -> str:
    """A URL as it may stand in a table or an error: many services take their key as userinfo or in the query."""
    return _USERINFO.sub(r"\1", url).partition("?")[0]
