"""Benchmarks: this server beside rsyslog and syslog-ng, in one run. `python -m tests.bench --help` says how."""
