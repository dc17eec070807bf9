"""The registry: channels, tokens, drains, credentials and sessions, in memory over a config store.

`records` says what there is, `store` what a config store must do, `tokens` and `sessions` what memory holds,
`credentials` and `authentication` who is asking; `registry` is the one object that everybody else is handed.
"""

from .records import (
    Change,
    ChannelInfo,
    ChannelRecord,
    CredentialRecord,
    DrainRecord,
    Principal,
    ServiceState,
    SessionRecord,
    Token,
)
from .registry import Registry

__all__ = [
    "Change",
    "ChannelInfo",
    "ChannelRecord",
    "CredentialRecord",
    "DrainRecord",
    "Principal",
    "Registry",
    "ServiceState",
    "SessionRecord",
    "Token",
]
