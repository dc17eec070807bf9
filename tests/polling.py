"""A poller at work, and waiting for what nobody tells."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import trio

from logplex.poller import Poller


@asynccontextmanager
async def polling(poller: Poller | None = None) -> AsyncIterator[Poller]:
    """A poller that runs as long as the block, and is closed then."""
    poller = poller or Poller()
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(poller.run)
            yield poller
            nursery.cancel_scope.cancel()
    finally:
        poller.close()


async def until(condition: Callable[[], object]) -> None:
    """Until something holds that nobody announces; fails after a while."""
    with trio.fail_after(8):
        while not condition():  # noqa: ASYNC110 - kernel and threads tell nobody, one has to look
            await trio.sleep(0.002)
