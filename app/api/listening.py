"""The sockets that the service listens on. Imports little: the port is taken before all else is loaded."""

from __future__ import annotations

import errno
import os
import socket

from app.errors import ConfigurationError
from app.settings import Settings

_BACKLOG = 2048


def listen(settings: Settings) -> socket.socket:
    """A socket that listens on the host and port of the settings.

    Raises:
        ConfigurationError: the address is not this machine's, or in use; the message says the way out.
    """
    listener = _bind(settings.host, settings.port, "FOVEA_PORT")
    listener.setblocking(False)
    return listener


def hold_grpc_port(settings: Settings) -> socket.socket | None:
    """A socket that holds the port for gRPC, without listening, until it is closed; None: there is to be no gRPC.

    gRPC opens its sockets itself, each serving process one, and the system spreads connections over them. That way
    nobody would learn of a port that is in use already: another service may share it too.

    Raises:
        ConfigurationError: as of `listen`.
    """
    if settings.grpc_port is None:
        return None
    # One that shares with nobody tells whether the port is free.
    with _bind(settings.host, settings.grpc_port, "FOVEA_GRPC_PORT") as alone:
        family, address = alone.family, alone.getsockname()
    held = socket.socket(family, socket.SOCK_STREAM)
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    held.bind(address)
    return held


def _bind(host: str, port: int, variable: str) -> socket.socket:
    where = f"port {port} of {host}"
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return socket.create_server(address[:2], family=family, backlog=_BACKLOG)
    except socket.gaierror as error:
        raise ConfigurationError(f"FOVEA_HOST={host} is not an address of this machine.") from error
    except PermissionError as error:
        raise ConfigurationError(f"Not allowed to listen on {where}: choose a {variable} from 1024 on.") from error
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            other = port + 1 if port < 65535 else 8000
            way = f"`PORT={other} make serve`, or set FOVEA_PORT" if variable == "FOVEA_PORT" else f"{variable}={other}"
            raise ConfigurationError(
                f"Cannot listen on {where}: it is in use. Stop what uses it, or choose another: {way}."
            ) from error
        # Python appends "(while attempting to bind on address …)" to what the system said.
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise ConfigurationError(f"Cannot listen on {where}: {reason}. Set FOVEA_HOST or {variable}.") from error
