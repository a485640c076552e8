"""The docs page and the OpenAPI document."""

from __future__ import annotations

import re
from typing import Any

from jsonschema import Draft202012Validator  # type: ignore[import-untyped]

from app.api.guarded import GuardedRoute
from app.api.openapi import downgrade
from app.api.routes import PlainRoute
from app.store.registry import Registry
from tests.api.conftest import API
from tests.serving.versions import gray

# Of other software, with capitals of their own.
NAMES = re.compile(
    r"\b(Prometheus|TensorFlow Serving|KServe|Triton|Open Inference Protocol|SageMaker|Vertex AI|V[12])\b"
)
# Pages for people, and the document itself.
UNDOCUMENTED = {
    "/",
    "/favicon.ico",
    "/docs",
    "/docs/start.js",
    "/docs/openapi.json",
    "/docs/errors",
    "/docs/assets/{file}",
    "/openapi.json",
}


async def test_page_loads_from_this_service_alone(api: API) -> None:
    """Everything that the docs page loads comes from the service itself, so that it works without internet."""
    page = await api.client.get("/docs")
    assert page.status_code == 200
    addresses = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert len(addresses) >= 4
    for address in addresses:
        assert address.startswith("/")
        response = await api.client.get(address)
        assert response.status_code == 200
        assert len(response.content) > 100
    script = (await api.client.get("/docs/start.js")).text
    [document] = re.findall(r'url: "([^"]+)"', script)
    assert (await api.client.get(document)).json()["paths"]


async def test_policy_allows_no_inline_script_and_no_other_host(api: API) -> None:
    """The content policy keeps scripts to the service's own files and forbids framing; the page has none inline."""
    page = await api.client.get("/docs")
    policy = page.headers["content-security-policy"]
    assert "script-src 'self';" in policy
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "http" not in policy
    assert not re.findall(r"<script>|\son\w+=", page.text)


async def test_only_files_of_the_page_can_be_had(api: API) -> None:
    """Nothing but the listed assets is served."""
    for name in ("index.html", "..%2F__init__.py", "%2e%2e", "swagger-ui.js.map", "%00"):
        assert (await api.client.get(f"/docs/assets/{name}")).status_code == 404


async def test_home_leads_to_the_page(api: API) -> None:
    """The bare address leads browsers to the docs page."""
    response = await api.client.get("/", headers={"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"})
    assert (response.status_code, response.headers["location"]) == (307, "/docs")


def operations(document: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    return {(path, method): found for path, item in document["paths"].items() for method, found in item.items()}


async def test_every_route_is_documented(api: API) -> None:
    """Every route and method is in the document, the bare ones included, and nothing else is."""
    routes = {
        (route.path_format, method.lower())
        for route in api.app.routes
        if isinstance(route, (GuardedRoute, PlainRoute)) and route.path_format not in UNDOCUMENTED
        for method in route.methods or ()
        if method != "HEAD"
    }
    assert set(operations(api.app.openapi())) == routes


def has_example(body: dict[str, Any]) -> bool:
    examples = [example["value"] for example in body.get("examples", {}).values()]
    return any([*examples, body.get("example")])


async def test_everything_is_explained_by_text_and_example(api: API) -> None:
    """Every operation has a summary, a description and a tag; every parameter a description; every request
    body, answer in JSON or text, and error an example."""
    for (path, method), operation in operations(api.app.openapi()).items():
        where = f"{method} {path}"
        assert re.fullmatch(r"[A-Z][^A-Z]+", NAMES.sub("", operation["summary"])), where  # by a person
        assert operation["description"], where
        assert operation["tags"], where
        for parameter in operation.get("parameters", []):
            assert parameter.get("description") or parameter["schema"].get("description"), (where, parameter["name"])
        for kind, body in operation.get("requestBody", {}).get("content", {}).items():
            assert has_example(body), (where, kind)
        for status, response in operation["responses"].items():
            assert response["description"], (where, status)
            for kind, body in response.get("content", {}).items():
                # A picture of an evaluation is itself; all else can be shown.
                assert has_example(body) or kind not in ("application/json", "text/plain", "text/event-stream"), (
                    where,
                    status,
                )
            if status >= "400" and path.startswith("/api"):
                assert response["content"]["application/problem+json"]["examples"], (where, status)
                assert "application/json" not in response["content"], (where, status)


async def test_icon_is_where_browsers_look_for_it(api: API) -> None:
    """A PNG, without a key."""
    response = await api.client.get("/favicon.ico")
    assert response.headers["content-type"] == "image/png"
    assert response.content.startswith(b"\x89PNG")


async def test_predict_documents_its_bodies_and_answers(api: API) -> None:
    """The hot route's raw and multipart bodies are in the document, and examples of one and several images."""
    operation = operations(api.app.openapi())["/api/v1/predict", "post"]
    assert set(operation["requestBody"]["content"]) == {"image/*", "application/octet-stream", "multipart/form-data"}
    answer = operation["responses"]["200"]["content"]["application/json"]
    assert set(answer["examples"]) == {"one", "several"}
    assert answer["examples"]["one"]["value"]["predictions"][0]["name"] == "image"
    assert {parameter["name"] for parameter in operation["parameters"]} == {
        "model",
        "version",
        "top_k",
        "Fovea-Timeout-Ms",
    }
    failures = {"400", "401", "403", "404", "408", "413", "415", "422", "429", "500", "503", "504"}
    assert failures <= set(operation["responses"])


async def test_guarded_operations_say_which_scope_they_need(api: API) -> None:
    """Where a key is needed the document says so, with the scopes; where none is, it does not."""
    found = operations(api.app.openapi())
    promote = found["/api/v1/models/{model}/promote", "post"]
    assert promote["security"] == [{"bearer": []}, {"header": []}]
    assert promote["description"].endswith("scope `admin`.")
    assert found["/api/v1/predict", "post"]["description"].endswith("scope `predict` or `admin`.")
    assert "security" not in found["/health/live", "get"]
    guarded = {path for path, operation in found.items() if "security" in operation}
    probes = {where for where in found if re.search(r"^/(health/|metrics$|ping$)|^/v2/.*(/ready|/live)$", where[0])}
    assert guarded == set(found) - probes


def resolve(document: dict[str, Any], schema: dict[str, Any]) -> Draft202012Validator:
    """A validator for a schema whose references point into the document."""
    return Draft202012Validator({**schema, "components": document["components"]})


async def test_real_answers_fit_their_documentation(api: API, registry: Registry) -> None:
    """What the service really answers is valid by the schemas of its own document."""
    document = api.app.openapi()
    found = operations(document)
    calls: list[tuple[str, str, str, dict[str, Any]]] = [
        ("/api/v1/predict", "post", "/api/v1/predict?top_k=0", {"content": gray(0)}),
        ("/api/v1/predict", "post", "/api/v1/predict", {"files": [("a", ("a", gray(0))), ("b", ("b", b"x"))]}),
        ("/api/v1/predict", "post", "/api/v1/predict", {"content": b"x"}),
        ("/api/v1/models", "get", "/api/v1/models", {}),
        ("/api/v1/models/{model}", "get", "/api/v1/models/shapes", {}),
        ("/api/v1/models/{model}", "get", "/api/v1/models/none", {}),
        ("/api/v1/models/{model}/versions/{version}", "get", "/api/v1/models/shapes/versions/1", {}),
        ("/api/v1/models/{model}/promotions", "get", "/api/v1/models/shapes/promotions", {}),
        ("/api/v1/models/{model}/promote", "post", "/api/v1/models/shapes/promote", {"json": {"version": 2}}),
        ("/api/v1/models/{model}/rollback", "post", "/api/v1/models/shapes/rollback", {}),
        ("/api/v1/datasets", "get", "/api/v1/datasets", {}),
        ("/api/v1/datasets/{name}", "get", "/api/v1/datasets/digits", {}),
        ("/api/v1/training-jobs", "post", "/api/v1/training-jobs", {"json": {"dataset": "digits"}}),
        ("/api/v1/training-jobs", "post", "/api/v1/training-jobs", {"json": {}}),
        ("/api/v1/training-jobs", "get", "/api/v1/training-jobs", {}),
    ]
    for template, method, path, options in calls:
        response = await api.client.request(method, path, **options)
        documented = found[template, method]["responses"][str(response.status_code)]["content"]
        [media_type] = [kind for kind in documented if response.headers["content-type"].startswith(kind)]
        resolve(document, documented[media_type]["schema"]).validate(response.json())


async def test_examples_fit_their_schemas(api: API) -> None:
    """Every example of a body or answer is valid by the schema beside it."""
    document = api.app.openapi()
    checked = 0
    for (path, method), operation in operations(document).items():
        contents = [operation.get("requestBody", {}).get("content", {})]
        contents += [response.get("content", {}) for response in operation["responses"].values()]
        for content in contents:
            for media in content.values():
                for name, example in media.get("examples", {}).items():
                    errors = list(resolve(document, media["schema"]).iter_errors(example["value"]))
                    assert not errors, (path, method, name, errors)
                    checked += 1
    assert checked > 50


async def test_older_document_has_no_newer_words(api: API) -> None:
    """The document for the bundled Swagger UI is 3.0.3 and uses no keyword that came later."""
    older = downgrade(api.app.openapi())
    assert older["openapi"] == "3.0.3"
    assert set(operations(older)) == set(operations(api.app.openapi()))

    def walk(node: Any, path: str = "") -> None:
        if isinstance(node, list):
            for index, item in enumerate(node):
                walk(item, f"{path}/{index}")
        elif isinstance(node, dict):
            if path.endswith("/schema") or "/schemas/" in path:
                assert node.get("type") != "null", path
                assert not isinstance(node.get("type"), list), path
                assert not {"const", "prefixItems", "contentMediaType"} & set(node) - PROPERTIES, path
                assert not isinstance(node.get("exclusiveMinimum"), (int, float)) or node["exclusiveMinimum"] is True
            for key, value in node.items():
                if key not in ("example", "examples", "value", "default"):
                    walk(value, f"{path}/{key}")

    walk(older)


PROPERTIES = {"properties"}
