"""Doors out: one module per kind of drain, one delivery loop, one address policy.

`deliveries.Deliveries` is the way in; `url`, `policy` and `spec` are for whoever takes URLs and options from users.
A drain knows a channel's reading side and nothing else of logplex.
"""
