"""API keys: who may call what.

The file of keys has one key a line, `name sha256-of-the-key scope,scope`, and comments
after `#`. It holds digests only, so reading it gives nobody a key.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from starlette.datastructures import Headers
from starlette.types import Scope as ASGIScope

from app.errors import ConfigurationError, Forbidden, InvalidName, Unauthorized
from app.names import check_name
from app.settings import Anonymous

logger = logging.getLogger(__name__)

Scope = Literal["predict", "train", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)

_DIGEST = re.compile(r"[0-9a-f]{64}")
# Longer than any key that `make_key` makes; bounds the work of hashing what a stranger sends.
_LONGEST_KEY = 512
_RELOAD_SECONDS = 0.5
_PREFIX = "fovea_"


@dataclass(frozen=True)
class Key:
    """A key that may call. The key itself is not known, only the SHA-256 of it."""

    name: str
    digest: str
    scopes: frozenset[Scope]

    def may(self, allowed: frozenset[Scope]) -> bool:
        """Whether one of this key's scopes is among `allowed`; `admin` may do everything."""
        return "admin" in self.scopes or not self.scopes.isdisjoint(allowed)


def make_key(name: str, scopes: Iterable[str]) -> tuple[str, str]:
    """A new random key, and its line for the file of keys.

    Raises:
        InvalidName: for the name.
        ConfigurationError: for a scope that does not exist.
    """
    key = _PREFIX + secrets.token_urlsafe(32)
    line = f"{check_name(name, 'key')} {_digest(key)} {','.join(sorted(_scopes(scopes)))}"
    return key, line


def parse_keys(text: str) -> tuple[Key, ...]:
    """Read the lines of a file of keys.

    Raises:
        ConfigurationError: naming the line; never its content, which might be a key by mistake.
    """
    keys: dict[str, Key] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        fields = line.partition("#")[0].split()
        if not fields:
            continue
        try:
            name, digest, scopes = fields
            if _DIGEST.fullmatch(digest) is None:
                raise ConfigurationError("the second field is not a SHA-256 in 64 lower-case hexadecimal digits")
            key = Key(check_name(name, "key"), digest, _scopes(scopes.split(",")))
        except ValueError:
            reason = "expected three fields: a name, the SHA-256 of the key, and scopes joined by commas"
            raise ConfigurationError(f"Line {number} of the API keys: {reason}.") from None
        except InvalidName:
            raise ConfigurationError(f"Line {number} of the API keys: the first field is not a valid name.") from None
        except ConfigurationError as error:
            raise ConfigurationError(f"Line {number} of the API keys: {error}.") from None
        if key.name in keys:
            raise ConfigurationError(f"Line {number} of the API keys: the name {key.name!r} is there twice.")
        keys[key.name] = key
    if not keys:
        raise ConfigurationError("The file of API keys holds no key. Make one with `fovea keys new`.")
    return tuple(keys.values())


class Keys:
    """The keys of a file, read again when it changes. A broken new file keeps the old keys."""

    def __init__(self, path: Path) -> None:
        """Read the file.

        Raises:
            ConfigurationError: the file cannot be read, or is wrong.
        """
        self._path = path
        self._seen = self._stamp()
        self._keys = self._read()

    def find(self, presented: str) -> Key | None:
        """The key whose digest is that of `presented`. Takes the same time wherever it is in the file."""
        if len(presented) > _LONGEST_KEY:
            return None
        digest = _digest(presented)
        found: Key | None = None
        for key in self._keys:
            if hmac.compare_digest(digest, key.digest):
                found = key
        return found

    def reload(self) -> None:
        """Read the file again if it changed; log, and keep the keys there are, if it is broken now."""
        stamp = self._stamp()
        if stamp == self._seen:
            return
        self._seen = stamp
        try:
            self._keys = self._read()
        except ConfigurationError as error:
            logger.error("The API keys stay as they were: %s", error)
        else:
            logger.info("The API keys were read again; there are %d.", len(self._keys))

    async def follow(self) -> None:
        """Look for changes until cancelled."""
        while True:
            await asyncio.sleep(_RELOAD_SECONDS)
            await asyncio.to_thread(self.reload)

    def _stamp(self) -> tuple[int, int, int] | None:
        try:
            stat = self._path.stat()
        except OSError:
            return None
        return (stat.st_mtime_ns, stat.st_size, stat.st_ino)

    def _read(self) -> tuple[Key, ...]:
        try:
            text = self._path.read_text("utf-8")
        except OSError as error:
            raise ConfigurationError(
                f"FOVEA_API_KEYS={self._path}: the file cannot be read: {error.strerror}. `fovea keys new` makes keys."
            ) from None
        except UnicodeDecodeError:
            raise ConfigurationError(f"FOVEA_API_KEYS={self._path}: the file is not UTF-8 text.") from None
        return parse_keys(text)


def presented_key(scope: ASGIScope) -> str | None:
    """What the client sent as its key: `Authorization: Bearer …` or `X-API-Key: …`."""
    headers = Headers(scope=scope)
    kind, _, credentials = headers.get("authorization", "").partition(" ")
    if kind.lower() == "bearer" and credentials:
        return credentials.strip()
    return headers.get("x-api-key")


def authorize(
    keys: Keys | None,
    scope: ASGIScope,
    allowed: frozenset[Scope],
    *,
    anonymous: Anonymous = "all",
) -> None:
    """Let the request through, or raise; remembers the key's name in `scope` for those who ask who called.

    Without `keys` everybody may do everything, or no more than what the scope `predict` allows (`anonymous`): such a
    service listens on loopback only, unless it was told otherwise (`Settings.check`).

    Raises:
        Unauthorized: no key, or an unknown one.
        Forbidden: the key has none of the scopes in `allowed`, or callers without keys may not.
    """
    if keys is None:
        if anonymous != "all" and "predict" not in allowed:
            raise Forbidden(
                f"Without API keys this service only classifies images (FOVEA_ANONYMOUS={anonymous}). What changes "
                "models or trains needs FOVEA_API_KEYS, or FOVEA_ANONYMOUS=all."
            )
        return
    presented = presented_key(scope)
    if presented is None:
        raise Unauthorized("This needs an API key: send 'Authorization: Bearer KEY' or 'X-API-Key: KEY'.")
    key = keys.find(presented)
    if key is None:
        raise Unauthorized("The API key is not known here.")
    if not key.may(allowed):
        raise Forbidden(
            f"The key {key.name!r} has the scope {_join(key.scopes)}; this needs {_join(allowed | {'admin'})}."
        )
    scope["fovea.key"] = key


def caller(scope: ASGIScope) -> str:
    """Name of the key that the request was let through with, or "anonymous"."""
    key: Key | None = scope.get("fovea.key")
    return "anonymous" if key is None else key.name


def has_scope(scope: ASGIScope, wanted: Scope) -> bool:
    """Whether the caller may also do what needs `wanted`; without keys everybody may."""
    key: Key | None = scope.get("fovea.key")
    return key is None or key.may(frozenset({wanted}))


def _scopes(names: Iterable[str]) -> frozenset[Scope]:
    wanted = frozenset(name.strip() for name in names)
    known: frozenset[Scope] = frozenset(scope for scope in SCOPES if scope in wanted)
    if not wanted or known != wanted:
        raise ConfigurationError(f"scopes are one or more of {', '.join(SCOPES)}, joined by commas")
    return known


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


def _join(scopes: Iterable[Scope]) -> str:
    return " or ".join(scope for scope in SCOPES if scope in frozenset(scopes))
