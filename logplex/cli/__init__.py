"""The command line: `logplex serve` and the commands that talk to it.

* main.py dispatches, and turns errors into one line and an exit code; each command has a module of its own.
* client.py finds the server and talks HTTP to it with the standard library; terminal.py writes for people.
"""
