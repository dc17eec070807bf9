"""Doors in: what is received is fed to the router, and nothing else is decided here.

`syslog.py` reads streams (TCP, TLS), `udp.py` datagrams, `logs.py` requests.
"""
