"""Copying a folder of Google Cloud Storage, by its JSON API: three kinds of requests, for which no client is needed.

The token is that of the machine's service account, from the metadata server, which every machine of Google's has.
`STORAGE_EMULATOR_HOST` names another server, as it does to Google's own clients; it is asked without a token.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx

from app.errors import InvalidRequest, StorageFailed

_SERVER = "https://storage.googleapis.com"
_TOKEN = "http://metadata.google.internal/computeMetadata/v1/instance/service-accounts/default/token"  # noqa: S105
_ADDRESS = re.compile(r"gs://([a-z0-9][a-z0-9._-]{1,220})/?(.*)", re.DOTALL)
_PART = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")
_SECONDS = 60.0


def download(address: str, target: Path) -> tuple[int, int]:
    """Copy all files below `address` into the new folder `target`; returns how many they are, and their bytes.

    Raises:
        InvalidRequest: the address is none, nothing is there, or a file has a name that cannot be one of ours.
        StorageFailed: the bucket or the metadata server refuses or is away.
    """
    match = _ADDRESS.fullmatch(address)
    if match is None:
        raise InvalidRequest(f"{address[:200]!r} is not an address like gs://bucket/folder.")
    bucket, folder = match[1], match[2].strip("/")
    prefix = f"{folder}/" if folder else ""
    files = size = 0
    try:
        with httpx.Client(timeout=_SECONDS, trust_env=True) as client:
            server, headers = _access(client)
            for item in _objects(client, f"{server}/storage/v1/b/{bucket}/o", headers, prefix):
                name = item["name"].removeprefix(prefix)
                # Consoles keep folders as empty objects with such names.
                if not name or name.endswith("/"):
                    continue
                file = _place(target, name)
                url = f"{server}/storage/v1/b/{bucket}/o/{quote(item['name'], safe='')}?alt=media"
                size += _copy(client, url, headers, file)
                files += 1
    except httpx.HTTPStatusError as error:
        raise StorageFailed(
            f"{address} cannot be read: the server answered {error.response.status_code}. The service account of the "
            "container needs the role Storage Object Viewer on the bucket."
        ) from error
    except (httpx.HTTPError, KeyError, ValueError) as error:
        raise StorageFailed(f"{address} cannot be read: {error or type(error).__name__}.") from error
    except OSError as error:
        raise StorageFailed(f"{address} cannot be copied: {error.strerror or error}.") from error
    if files == 0:
        raise InvalidRequest(f"There is nothing at {address}.")
    return files, size


def _access(client: httpx.Client) -> tuple[str, dict[str, str]]:
    """The server, and the headers that it is to be asked with."""
    if emulator := os.environ.get("STORAGE_EMULATOR_HOST"):
        return emulator.rstrip("/") if "://" in emulator else f"http://{emulator}", {}
    try:
        answer = client.get(_TOKEN, headers={"Metadata-Flavor": "Google"}, timeout=10)
        token = answer.raise_for_status().json()["access_token"]
    except (httpx.HTTPError, KeyError, ValueError) as error:
        raise StorageFailed(
            "Google Cloud Storage cannot be read: the metadata server, from which machines of Google Cloud have their "
            f"tokens, gives none ({error or type(error).__name__}). Elsewhere copy the folder (gcloud storage cp "
            "--recursive), and name the copy."
        ) from error
    return _SERVER, {"Authorization": f"Bearer {token}"}


def _objects(client: httpx.Client, url: str, headers: dict[str, str], prefix: str) -> Iterator[dict[str, Any]]:
    page: str | None = None
    while True:
        query = {"prefix": prefix, "fields": "items(name),nextPageToken", **({"pageToken": page} if page else {})}
        document = client.get(url, params=query, headers=headers).raise_for_status().json()
        yield from document.get("items", [])
        page = document.get("nextPageToken")
        if not page:
            return


def _place(target: Path, name: str) -> Path:
    """Where a file goes. No name leads out of the folder."""
    parts = name.split("/")
    if any(_PART.fullmatch(part) is None for part in parts):
        raise InvalidRequest(f"The bucket has an object {name[:200]!r} there, which is no file of a model store.")
    return target.joinpath(*parts)


def _copy(client: httpx.Client, url: str, headers: dict[str, str], file: Path) -> int:
    file.parent.mkdir(parents=True, exist_ok=True)
    size = 0
    with client.stream("GET", url, headers=headers) as answer, file.open("xb") as out:
        for piece in answer.raise_for_status().iter_bytes():
            size += out.write(piece)
    return size
