"""The socket that the service listens on. Imports little: the port is taken before all else is loaded."""

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
    where = f"port {settings.port} of {settings.host}"
    try:
        family, _, _, _, address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.create_server(address[:2], family=family, backlog=_BACKLOG)
    except socket.gaierror as error:
        raise ConfigurationError(f"FOVEA_HOST={settings.host} is not an address of this machine.") from error
    except PermissionError as error:
        raise ConfigurationError(f"Not allowed to listen on {where}: choose a FOVEA_PORT from 1024 on.") from error
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise ConfigurationError(
                f"Cannot listen on {where}: it is in use. Stop what uses it, or choose another: "
                f"`PORT={settings.port + 1 if settings.port < 65535 else 8000} make serve`, or set FOVEA_PORT."
            ) from error
        # Python appends "(while attempting to bind on address …)" to what the system said.
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise ConfigurationError(f"Cannot listen on {where}: {reason}. Set FOVEA_HOST or FOVEA_PORT.") from error
    listener.setblocking(False)
    return listener
