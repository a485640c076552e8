"""The endpoint of a way: admission, body, answer, on the ordinary way of ASGI messages."""

from __future__ import annotations

import asyncio
import time

from starlette.types import Receive, Scope, Send

from app.api.bodies import gather_body
from app.api.deadlines import TIMEOUT, parse_deadline
from app.api.departure import Departure
from app.api.errors import request_id_of
from app.api.services import services_of
from app.api.ways import Head, Way
from app.errors import DeadlineExceeded
from app.serving.ticket import Stage

# Larger bodies are parsed in a thread: smaller ones take less time than handing them over.
_LARGE = 64 * 1024


class Answering:
    """The ASGI application behind a way's route. Raises the domain's errors."""

    def __init__(self, way: Way) -> None:
        self._way = way

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or raise the domain's error."""
        begin = time.perf_counter()
        services = services_of(scope)
        settings, metrics = services.settings, services.metrics
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        try:
            head = Head(scope.get("path_params", {}), scope["query_string"], headers, settings.max_files)
            inquiry = self._way.begin(head)
            deadline = parse_deadline(headers.get(TIMEOUT), settings)
            services.classifier.check_admission(model=inquiry.model, version=inquiry.version, deadline=deadline)
        finally:
            # Of those that are refused too: they are the most when it matters.
            admitted = time.perf_counter()
            metrics.stage("admission", admitted - begin)
        stages: list[Stage] | None = scope.get("fovea.stages")
        read: float | None = None
        try:
            with services.bodies.hold() as take, Departure(receive, settings.body_timeout, deadline) as departure:
                body = await gather_body(receive, headers, settings.max_body_bytes, take)
                departure.body_came()
                if self._way.weight is not None:
                    take(self._way.weight(head, body))
                if len(body) > _LARGE:
                    images = await asyncio.to_thread(inquiry.images, body)
                else:
                    images = inquiry.images(body)
                del body
                deadline = self._way.earlier(deadline, inquiry)
                read = time.perf_counter()
                answer = await services.classifier.classify(
                    images, model=inquiry.model, version=inquiry.version, deadline=deadline, stages=stages
                )
        except DeadlineExceeded as error:
            if read is None:
                # The classifier, which counts those that it gave up, has not seen it.
                metrics.rejected(error.code)
            raise
        answered = time.perf_counter()
        reply = inquiry.render(answer, request_id_of(scope) or "")
        await send({"type": "http.response.start", "status": 200, "headers": reply.head()})
        await send({"type": "http.response.body", "body": reply.body})
        sent = time.perf_counter()
        metrics.stage("read", read - admitted)
        metrics.stage("render", sent - answered)
        if stages is not None:
            scope["fovea.model"], scope["fovea.version"] = answer.model, answer.version
            stages += [("admission", begin, admitted), ("read", admitted, read), ("render", answered, sent)]
