"""The whole server, built and supervised: `serve` runs it, `reset_admin` mends a lost credential."""

from .admin import reset_admin
from .server import serve

__all__ = ["reset_admin", "serve"]
