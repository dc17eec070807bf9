"""`python -m logplex`, the same as the command `logplex`."""

from .cli.main import main

main()
