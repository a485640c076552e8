"""HTTP and nothing else: a server that reads the body and answers with a fixed document.

uvicorn benchmarks.peers.bare:app        a plain ASGI application
uvicorn benchmarks.peers.bare:routed     the same through a FastAPI route
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response

Message = MutableMapping[str, Any]

_ANSWER = Path(os.environ["BENCH_VERSION"]).joinpath("../../../answer.json").resolve().read_bytes()
_HEADERS = [(b"content-type", b"application/json"), (b"content-length", str(len(_ANSWER)).encode())]


async def app(
    scope: Message, receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]
) -> None:
    if scope["type"] != "http":
        return
    parts = []
    more = True
    while more:
        message = await receive()
        parts.append(message.get("body", b""))
        more = message.get("more_body", False)
    b"".join(parts)
    await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
    await send({"type": "http.response.body", "body": _ANSWER})


routed = FastAPI()


@routed.post("/predict")
async def predict(request: Request) -> Response:
    await request.body()
    return Response(_ANSWER, media_type="application/json")
