"""Running the application on a socket: uvicorn, an orderly end, and several processes on one port."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import signal
import socket
import threading
import time
from collections.abc import Awaitable, Callable
from functools import partial
from types import FrameType

import uvicorn
from starlette.applications import Starlette

from app.api.accepting import Acceptor
from app.api.connection import Connection
from app.api.direct import Direct
from app.api.services import services_of_app
from app.api.stalling import Stalled

logger = logging.getLogger(__name__)

# Longer than the minute that load balancers keep idle connections: whoever closes first must be
# the one that sends, or a request can meet a connection that is just being closed.
_KEEP_ALIVE_SECONDS = 65
# What may still run after the grace (an archive being unpacked, say) is not waited for.
_LAST_RESORT_SECONDS = 5
# In which a client that has just connected sends the beginning of its request.
_HEAR_OUT_SECONDS = 0.5

Announce = Callable[[], Awaitable[None]]


def run(app: Starlette, listener: socket.socket, announce: Announce | None = None) -> None:
    """Serve until SIGTERM or SIGINT: not ready at once, requests in flight answered, then return.

    Args:
        app: made by `app.main`.
        listener: a listening socket; it is closed at the end.
        announce: awaited once the service listens, beside its work.
    """
    services = services_of_app(app)
    config = uvicorn.Config(
        app,
        lifespan="on",
        http="httptools",
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=math.ceil(services.settings.shutdown_grace),
    )
    _Server(config, announce).run([listener])


def end_with(parent_pipe: int) -> None:
    """End this process in good order when the other end of a pipe closes: when its parent is gone, however it went."""

    def wait() -> None:
        os.read(parent_pipe, 1)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, name="parent-watch", daemon=True).start()


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, announce: Announce | None) -> None:
        super().__init__(config)
        self._announce = announce
        self._announcing: asyncio.Future[None] | None = None
        self._services = services_of_app(config.app)
        self._stalled = Stalled(self._services.settings.body_timeout, _KEEP_ALIVE_SECONDS)
        self._acceptor: Acceptor | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup([])  # it listens to none: we accept ourselves
        if self.started and not self.should_exit:
            [listener] = sockets or []
            self._acceptor = self._accept(listener)
        if self.started and self._announce is not None:
            self._announcing = asyncio.ensure_future(self._announce())

    def _accept(self, listener: socket.socket) -> Acceptor:
        direct = Direct(self.config.app)
        make = partial(Connection, self.config, self.server_state, self.lifespan.state, direct=direct)
        crew = self._services.crew
        connections = self.server_state.connections
        return Acceptor(listener, connections, make, occupancy=crew.occupancy, process=crew.number)

    async def on_tick(self, counter: int) -> bool:
        # Called ten times a second.
        if self._acceptor is not None:
            self._acceptor.publish()
        if counter % 5 == 0:
            self._stalled.close(self.server_state.connections, time.monotonic())
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self._announcing is not None:
            self._announcing.cancel()
        logger.info(
            "Shutting down: requests in flight are answered, for at most %g s; a training job that runs goes on by "
            "itself.",
            self._services.settings.shutdown_grace,
        )
        if self._acceptor is not None:
            await self._acceptor.stop()
            await self._hear_out()
        await super().shutdown(sockets)

    async def _hear_out(self) -> None:
        """Wait a moment for the requests of connections that were just made: uvicorn would close them unheard."""
        deadline = time.monotonic() + _HEAR_OUT_SECONDS
        connections = self.server_state.connections
        while any(getattr(each, "cycle", True) is None for each in connections):
            if time.monotonic() > deadline:
                break
            await asyncio.sleep(0.01)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        # Not the parent's, which raises the signal again at the end: to have ended when asked to is no failure.
        services = self._services
        if self.should_exit:
            self.force_exit = self.force_exit or sig == signal.SIGINT
            return
        services.lifecycle.stopping = True
        self.should_exit = True
        # The kernel ends us if all else fails; no thread is needed for it, nor a working event loop.
        signal.alarm(math.ceil(services.settings.shutdown_grace) + _LAST_RESORT_SECONDS)
