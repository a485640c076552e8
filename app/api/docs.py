"""The docs page: Swagger UI served from the installation, so that it works without internet."""

from __future__ import annotations

import html
import re
from typing import Any

from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, RedirectResponse, Response
from swagger_ui_bundle import swagger_ui_path

from app.api import errors
from app.api.openapi import downgrade
from app.api.routes import PlainRoute, public
from app.errors import NotFound

# Swagger UI sets styles on elements as it runs; scripts come from here alone, and none are inline.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {"Content-Security-Policy": _POLICY, "Referrer-Policy": "no-referrer", "X-Frame-Options": "DENY"}

_ASSETS = {
    "swagger-ui.css": "text/css",
    "swagger-ui-bundle.js": "text/javascript",
    "favicon-32x32.png": "image/png",
}

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Fovea: API</title>
<link rel="stylesheet" href="/docs/assets/swagger-ui.css">
<link rel="icon" type="image/png" href="/docs/assets/favicon-32x32.png">
</head>
<body>
<div id="swagger-ui"></div>
<noscript>This page needs JavaScript. The same is in <a href="/openapi.json">/openapi.json</a>.</noscript>
<script src="/docs/assets/swagger-ui-bundle.js"></script>
<script src="/docs/start.js"></script>
</body>
</html>
"""

_SCRIPT = """window.addEventListener("load", function () {
  window.ui = SwaggerUIBundle({
    url: "/docs/openapi.json",
    dom_id: "#swagger-ui",
    deepLinking: true,
    displayRequestDuration: true,
    validatorUrl: null,
    presets: [SwaggerUIBundle.presets.apis],
    layout: "BaseLayout"
  });
});
"""

_STYLE = """body{font:16px/1.5 system-ui,sans-serif;max-width:50rem;margin:2rem auto;padding:0 1rem}
code{font-size:1.05em}table{border-collapse:collapse}
td,th{text-align:left;vertical-align:top;padding:.4rem .8rem .4rem 0;
border-bottom:1px solid #ddd}:target{background:#fff3c4}"""

_CODE = re.compile(r"`([^`]+)`")


@public
async def home(request: Request) -> Response:
    """Leads people to the docs page. Programs it tells that the service is alive, in KServe's words: its client asks
    here, and says only that it takes anything."""
    headers = {"Vary": "Accept", "Cache-Control": "no-store"}
    if "text/html" in request.headers.get("accept", ""):
        return RedirectResponse("/docs", status_code=307, headers=headers)
    return JSONResponse({"status": "alive"}, headers=headers)


@public
async def docs(_request: Request) -> Response:
    """Swagger UI."""
    return HTMLResponse(_PAGE, headers=_HEADERS)


@public
async def script(_request: Request) -> Response:
    """What starts Swagger UI; a file of its own, since the content policy allows no inline scripts."""
    return Response(_SCRIPT, media_type="text/javascript", headers=_HEADERS)


@public
async def asset(request: Request) -> Response:
    """A file of Swagger UI."""
    name = request.path_params["file"]
    if name not in _ASSETS:
        raise NotFound("The docs page has no such file.")
    return FileResponse(
        str(swagger_ui_path / name),
        media_type=_ASSETS[name],
        headers={**_HEADERS, "Cache-Control": "public, max-age=86400"},
    )


@public
async def favicon(_request: Request) -> Response:
    """The icon, where browsers look for it whatever the page says."""
    name = "favicon-32x32.png"
    return FileResponse(
        str(swagger_ui_path / name), media_type=_ASSETS[name], headers={"Cache-Control": "public, max-age=86400"}
    )


@public
async def openapi(request: Request) -> Response:
    """The OpenAPI document, version 3.1."""
    return JSONResponse(request.app.openapi())


@public
async def openapi_for_page(request: Request) -> Response:
    """The OpenAPI document as the bundled Swagger UI understands it."""
    document: dict[str, Any] = downgrade(request.app.openapi())
    return JSONResponse(document)


@public
async def problem_page(_request: Request) -> Response:
    """What every `type` of a problem document leads to."""
    rows = "".join(
        f'<tr id="{code}"><td>{status}</td><td><code>{code}</code></td>'
        f"<td><b>{html.escape(title)}</b><br>{_marked_up(explanation)}</td></tr>"
        for code, (status, title, explanation) in errors.codes().items()
    )
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Fovea: errors</title>'
        f"<style>{_STYLE}</style></head><body>"
        "<h1>Errors</h1><p>Every error is a problem document (RFC 9457) with one of these codes.</p>"
        f"<table><tr><th>Status</th><th>Code</th><th>Meaning</th></tr>{rows}</table></body></html>"
    )
    return HTMLResponse(page, headers=_HEADERS)


def _marked_up(text: str) -> str:
    """Plain text with `code` in it, as HTML."""
    return _CODE.sub(r"<code>\1</code>", html.escape(text))


def routes() -> list[PlainRoute]:
    """All of the page; none of it is in the OpenAPI document."""
    return [
        PlainRoute("/", home),
        PlainRoute("/favicon.ico", favicon),
        PlainRoute("/docs", docs),
        PlainRoute("/docs/start.js", script),
        PlainRoute("/docs/openapi.json", openapi_for_page),
        PlainRoute("/docs/errors", problem_page),
        PlainRoute("/docs/assets/{file}", asset),
        PlainRoute("/openapi.json", openapi),
    ]
