"""`python -m tests.chaos --seconds N --seed S`: a long run, or a replay of one that failed."""

import argparse
import random
import sys
import tempfile
import time
from pathlib import Path

from .conductor import Conductor
from .oracle import judge


def main() -> int:
    """Print the seed, what is done, what was counted and what is wrong; 1 when something is."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="how long troubles are made [default: 60]")
    parser.add_argument("--seed", type=int, help="of the plan [default: another each time]")
    parser.add_argument("--without", default="", metavar="STEP", help="leave out steps that begin so, as in: disk")
    parser.add_argument("--quiet", action="store_true", help="print no steps")
    options = parser.parse_args()
    seed = random.SystemRandom().randrange(10**6) if options.seed is None else options.seed
    print(f"seed {seed}", flush=True)
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="logplex-chaos-") as directory:
        say = (lambda text: None) if options.quiet else (lambda text: print(text, flush=True))
        conductor = Conductor(Path(directory) / "data", seed, options.seconds, say, options.without)
        try:
            journal = conductor.run()
        except BaseException:
            print(conductor.server.output())
            raise
    faults = judge(journal)
    for name, number in sorted(journal.counts.items()):
        print(f"{number:8} {name}")
    for fault in faults:
        print(f"WRONG: {fault}")
    print(f"seed {seed}: {len(faults)} faults, {time.monotonic() - begun:.1f} s")
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())
