"""logplex routes log lines: syslog in, rings by app, tails and drains out."""

__version__ = "0.1.0"
