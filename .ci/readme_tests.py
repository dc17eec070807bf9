"""Print the command of README that runs the tests: the one line of its code blocks that names pytest.

CI runs what README says, so that README stays right. A line that ends in a backslash goes on in the next one.
"""

import re
import sys
from pathlib import Path


def commands(text: str) -> list[str]:
    """The lines of all fenced blocks, continued lines joined, a leading prompt removed."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line.strip().removeprefix("$ ") for line in lines]


def main() -> None:
    found = [line for line in commands(Path(sys.argv[1]).read_text()) if "pytest" in line]
    if len(found) != 1:
        sys.exit(f"{sys.argv[1]}: one command that runs pytest is expected, {len(found)} found")
    sys.stdout.write(found[0] + "\n")


main()
