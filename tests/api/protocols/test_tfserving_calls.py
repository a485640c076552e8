"""TensorFlow Serving's documented calls by curl, at a real server."""

from __future__ import annotations

import base64
import json
import subprocess
from typing import Any

import numpy as np

from tests.server import Server
from tests.serving.versions import SIZE, gray
from tests.system import require_tool

IMAGE = gray(200)
ENCODED = {"b64": base64.b64encode(IMAGE).decode()}
TENSOR = np.full((SIZE, SIZE, 1), 200).tolist()


def curl(*arguments: str) -> dict[str, Any]:
    """The JSON that an address answers curl with."""
    done = subprocess.run([require_tool("curl"), "-sS", *arguments], capture_output=True, text=True, check=True)
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def native(server: Server) -> list[float]:
    """Our own route's probabilities, by class."""
    answer = server.client.post("/api/v1/predict?top_k=0", content=IMAGE)
    top = sorted(answer.json()["predictions"][0]["top"], key=lambda entry: entry["class_index"])
    return [entry["probability"] for entry in top]


def test_documented_calls_of_tensorflow_serving(server: Server) -> None:
    """As its pages have them, but for the model's name and the numbers."""
    model = f"{server.url}/v1/models/shapes"
    status = curl(model)["model_version_status"]
    assert {"version": "1", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}} in status
    assert curl(f"{model}/versions/1")["model_version_status"][0]["state"] == "AVAILABLE"
    assert curl(f"{model}/metadata")["model_spec"] == {"name": "shapes", "signature_name": "", "version": "1"}
    expected = native(server)
    rows = json.dumps({"instances": [TENSOR, TENSOR]})
    assert curl("-d", rows, "-X", "POST", f"{model}:predict") == {"predictions": [expected, expected]}
    named = json.dumps({"signature_name": "serving_default", "instances": [{"image_bytes": ENCODED}]})
    assert curl("-X", "POST", "-d", named, f"{model}/labels/stable:predict") == {"predictions": [expected]}
    columns = json.dumps({"inputs": {"image": [TENSOR]}})
    assert curl("-X", "POST", "-d", columns, f"{model}/versions/1:predict") == {"outputs": [expected]}
    examples = json.dumps({"examples": [{"image_bytes": ENCODED}]})
    [[first, *_]] = curl("-X", "POST", "-d", examples, f"{model}:classify")["results"]
    assert first == ["diagonal", expected[2]]
    assert "takes uint8" in curl("-d", '{"instances": [1.0, 2.0, 5.0]}', "-X", "POST", f"{model}:predict")["error"]
    assert curl(f"{server.url}/v1/models/half_plus_two").keys() == {"error"}
