"""What `logplex bench` measures with: a load generator, a sink that checks, and a server between them.

* Server, generator and sink are processes of their own, so that what is counted as the server's is the server's alone.
* Every message carries a number of its stream (frames.py). The sink finds what is lost, repeated and reordered
  message by message (marks.py, sequences.py), at a fraction of what the server spends.
* The generator is never more than a window ahead of the sink (window.py): a slow sink slows the load down, and makes
  the server lose nothing.
* Loopback only; nothing outlives the command, neither a process (parts.py) nor a file (run.py).
"""
