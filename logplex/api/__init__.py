"""The management APIs: v1 and v2 (v2.py), v3 (v3*.py), and what both are made of (resource.py, guard.py)."""

from .application import create_api
from .services import Channels, Drains, Health, Pages, Services, ValidDrain

__all__ = ["Channels", "Drains", "Health", "Pages", "Services", "ValidDrain", "create_api"]
