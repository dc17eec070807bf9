"""README's promises name tests; those tests exist."""

import re

from .conftest import ROOT


def test_every_test_that_a_promise_names_is_there() -> None:
    text = (ROOT / "README.md").read_text()
    section = text.partition("## What is promised\n")[2].partition("\n## ")[0]
    named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", section)
    promises = section.split("\n* ")[1:]
    assert len(promises) >= 9
    assert all("tests/" in promise for promise in promises)
    for path, name in named:
        source = (ROOT / path).read_text()
        found = re.search(rf"^(async def|def|class) {name}\b|^{name} = ", source, re.MULTILINE)
        assert found or not name, (path, name)
