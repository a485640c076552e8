"""The OpenAPI document: what FastAPI derives, completed by what it cannot know."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from app.api import errors, predict_document
from app.api.guarded import GuardedRoute
from app.api.protocols import documents as protocols
from app.api.routes import PlainRoute
from app.api.security import SCOPES
from app.settings import Settings

_PROBLEM_REF = {"$ref": "#/components/schemas/Problem"}
_EVERYWHERE = ("unauthorized", "forbidden", "error")

PROBLEM_SCHEMA: dict[str, Any] = {
    "title": "Problem",
    "description": "What went wrong (RFC 9457), served as `application/problem+json`.",
    "type": "object",
    "required": ["type", "title", "status", "detail", "code"],
    "properties": {
        "type": {"type": "string", "description": "Relative address of the page that explains the code."},
        "title": {"type": "string", "description": "The same for every problem of one code."},
        "status": {"type": "integer", "description": "The HTTP status."},
        "detail": {"type": "string", "description": "What is wrong with this request, and what is allowed."},
        "code": {"type": "string", "description": "Stable name of the kind of problem, for programs."},
        "id": {"type": "string", "description": "The request's id, as in the `X-Request-Id` header and the log."},
        "errors": {
            "type": "array",
            "description": "With `validation_failed`: each thing that is wrong.",
            "items": {
                "type": "object",
                "properties": {
                    "loc": {"type": "array", "items": {}, "description": "Where: body or query, then the field."},
                    "msg": {"type": "string", "description": "Why."},
                    "allowed": {"type": "object", "description": "The bounds or values that are allowed."},
                },
            },
        },
    },
}


def problems(*codes: str) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route that can end in problems of these codes, one example each."""
    table = errors.codes()
    responses: dict[int | str, dict[str, Any]] = {}
    for code in sorted({*codes, *_EVERYWHERE}, key=lambda code: (table[code][0], code)):
        status, title, explanation = table[code]
        response = responses.setdefault(
            status,
            {"description": "", "content": {errors.MEDIA_TYPE: {"schema": _PROBLEM_REF, "examples": {}}}},
        )
        response["description"] = f"{response['description']}; {title}".removeprefix("; ")
        response["content"][errors.MEDIA_TYPE]["examples"][code] = {
            "summary": title,
            "value": {
                "type": f"/docs/errors#{code}",
                "title": title,
                "status": status,
                "detail": explanation,
                "code": code,
                "id": "9f1c6b0a4e2d7f38",
            },
        }
    return responses


def build(app: FastAPI) -> dict[str, Any]:
    """The whole document, OpenAPI 3.1."""
    document = get_openapi(
        title=app.title,
        version=app.version,
        openapi_version="3.1.0",
        summary=app.summary,
        description=app.description,
        routes=app.routes,
        tags=app.openapi_tags,
    )
    paths: dict[str, Any] = document["paths"]
    _drop_foreign_errors(paths)
    _restore_examples(app, paths)
    _add_refusals(app, paths)
    settings: Settings = app.state.services.settings
    # A route that the settings name may be one that is there already.
    there = {route.path_format for route in app.routes if isinstance(route, (GuardedRoute, PlainRoute))}
    others = {path: item for path, item in protocols.paths(settings).items() if path in there}
    document["paths"] = {**others, **predict_document.paths(problems), **paths, **_PLAIN}
    components = document.setdefault("components", {})
    components.setdefault("schemas", {}).update(
        {"Problem": PROBLEM_SCHEMA, **predict_document.SCHEMAS, **protocols.SCHEMAS}
    )
    for leftover in ("HTTPValidationError", "ValidationError"):
        components["schemas"].pop(leftover, None)
    components["securitySchemes"] = {
        "bearer": {"type": "http", "scheme": "bearer", "description": "`Authorization: Bearer KEY`"},
        "header": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "`X-API-Key: KEY`"},
    }
    _add_security(app, document["paths"])
    return document


def _drop_foreign_errors(paths: dict[str, Any]) -> None:
    """Take out the 422 that FastAPI adds to every route with parameters: ours name their problems themselves."""
    for item in paths.values():
        for operation in item.values():
            if "application/json" in operation["responses"].get("422", {}).get("content", {}):
                del operation["responses"]["422"]


def _restore_examples(app: FastAPI, paths: dict[str, Any]) -> None:
    """Put the examples of answers in as they were written: FastAPI leaves out every null, in examples too."""
    for route in app.routes:
        if not isinstance(route, GuardedRoute):
            continue
        for method in route.methods or ():
            documented = paths[route.path_format][method.lower()]["responses"]
            for status, response in route.responses.items():
                for kind, body in response.get("content", {}).items():
                    if "examples" in body:
                        documented[str(status)]["content"][kind]["examples"] = body["examples"]


def _add_refusals(app: FastAPI, paths: dict[str, Any]) -> None:
    """Add what `GuardedRoute` and FastAPI refuse before an endpoint of ours sees the request."""
    for route in app.routes:
        if not isinstance(route, GuardedRoute):
            continue
        refusals = ["invalid_request"]  # a query parameter that there is not
        if route.body_field is not None:
            refusals += ["request_timeout", "payload_too_large", "unsupported_media_type", "validation_failed"]
        elif route.dependant.query_params:
            refusals.append("validation_failed")
        for method in route.methods or ():
            responses = paths[route.path_format][method.lower()]["responses"]
            for code in refusals:
                status = errors.codes()[code][0]
                _add_problem(responses, status, problems(code)[status], code)


def _add_problem(responses: dict[str, Any], status: int, response: dict[str, Any], code: str) -> None:
    """Add the problem `code`, as `problems` describes it, to what an operation can end in."""
    there = responses.setdefault(str(status), response)
    examples = there["content"][errors.MEDIA_TYPE]["examples"]
    if code not in examples:
        there["description"] += f"; {response['description']}"
        examples |= response["content"][errors.MEDIA_TYPE]["examples"]


def _add_security(app: FastAPI, paths: dict[str, Any]) -> None:
    needed = {
        (route.path_format, method.lower()): route.scopes
        for route in app.routes
        if isinstance(route, (GuardedRoute, PlainRoute))
        for method in route.methods or ()
    }
    for (path, method), scopes in needed.items():
        operation = paths.get(path, {}).get(method)
        if operation is None or scopes is None:
            continue
        operation["security"] = [{"bearer": []}, {"header": []}]
        names = " or ".join(f"`{scope}`" for scope in SCOPES if scope in scopes | {"admin"})
        operation["description"] = f"{operation.get('description', '')}\n\nWhere keys are on: scope {names}.".strip()


def _probe(
    summary: str, description: str, *, failing: tuple[str, dict[str, Any]] | None, example: Mapping[str, Any]
) -> dict[str, Any]:
    responses: dict[str, Any] = {
        "200": {"description": "Yes.", "content": {"application/json": {"example": dict(example)}}}
    }
    if failing is not None:
        why, body = failing
        responses["503"] = {"description": why, "content": {"application/json": {"example": body}}}
    return {"get": {"tags": ["health"], "summary": summary, "description": description, "responses": responses}}


_PLAIN: dict[str, Any] = {
    "/health/live": _probe(
        "Is the process alive?",
        "200 as long as the process can answer at all. Needs no key.",
        failing=None,
        example={"status": "live"},
    ),
    "/health/ready": _probe(
        "Can every model in production be answered for?",
        "200 when they can, and the service is not shutting down. Needs no key.",
        failing=(
            "Not now; `reason` and `models` say why.",
            {"status": "not ready", "reason": "The models are still loading.", "models": {}},
        ),
        example={
            "status": "ready",
            "reason": None,
            "models": {"cifar10": {"state": "ready", "production": 1, "serving": 1, "reason": None}},
        },
    ),
    "/health/startup": _probe(
        "Is the start over?",
        "200 once every model was loaded or refused. Needs no key.",
        failing=("Models are still being loaded.", {"status": "starting"}),
        example={"status": "started"},
    ),
    "/metrics": {
        "get": {
            "tags": ["health"],
            "summary": "Metrics for Prometheus",
            "description": "In Prometheus' text format, or in that of OpenMetrics for who asks for it. Needs no key.",
            "responses": {
                "200": {
                    "description": "All metrics.",
                    "content": {
                        "text/plain": {"example": 'fovea_model_ready{model="cifar10"} 1.0\n'},
                        "application/openmetrics-text": {"example": 'fovea_model_ready{model="cifar10"} 1.0\n# EOF\n'},
                    },
                }
            },
        }
    },
}


def downgrade(document: dict[str, Any]) -> dict[str, Any]:
    """The same document in OpenAPI 3.0.3, which is the newest that the bundled Swagger UI can show."""
    older = _downgrade(document)
    assert isinstance(older, dict)
    older["openapi"] = "3.0.3"
    older["info"].pop("summary", None)
    return older


# Holds data, not schemas; what looks like a keyword in there is none.
_DATA = ("example", "value", "default")


def _downgrade(node: Any) -> Any:
    if isinstance(node, list):
        return [_downgrade(item) for item in node]
    if not isinstance(node, dict):
        return node
    result = {key: value if key in _DATA else _downgrade(value) for key, value in node.items()}
    if isinstance(result.get("anyOf"), list) and {"type": "null"} in result["anyOf"]:
        rest = [option for option in result.pop("anyOf") if option != {"type": "null"}]
        if len(rest) == 1 and "$ref" not in rest[0]:
            result = {**rest[0], **result}
        elif len(rest) == 1:
            result["allOf"] = rest
        else:
            result["anyOf"] = rest
        result["nullable"] = True
    if "const" in result and isinstance(result.get("type"), str):
        result["enum"] = [result.pop("const")]
    for bound, exclusive in (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")):
        if isinstance(result.get(exclusive), (int, float)) and not isinstance(result[exclusive], bool):
            result[bound], result[exclusive] = result[exclusive], True
    if isinstance(result.get("propertyNames"), dict):
        result.pop("propertyNames")
    if isinstance(result.get("prefixItems"), list):
        result.pop("prefixItems")
        result.setdefault("items", {})
    if isinstance(result.get("examples"), list):
        examples = result.pop("examples")
        result.setdefault("example", examples[0] if examples else None)
    if result.get("contentMediaType") == "application/octet-stream":
        result.pop("contentMediaType")
        result["format"] = "binary"
    return result
