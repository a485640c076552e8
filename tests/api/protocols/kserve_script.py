"""What KServe's own client gets from a server, as JSON. Run by the Python that has the package, which is not ours.

    python kserve_script.py http://127.0.0.1:8000 photo.png ROWS COLUMNS CHANNELS LEVEL

The photo is one of the model `shapes`, and a tensor of LEVEL in each place is the same picture.
"""

from __future__ import annotations

import asyncio
import base64
import json
import sys
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig

MODEL = "shapes"


async def main(url: str, photo: bytes, tensor: Any) -> dict[str, Any]:
    """Ask for all that the client can ask for."""
    answers: dict[str, Any] = {}
    encoded = {"b64": base64.b64encode(photo).decode()}
    async with InferenceRESTClient(RESTConfig(protocol="v1")) as v1:
        answers["v1 live"] = await v1.is_server_live(url)
        answers["v1 ready"] = await v1.is_model_ready(url, MODEL)
        instances = {"instances": [encoded, tensor.tolist()]}
        answers["v1 predict"] = await v1.infer(url, instances, model_name=MODEL)
        answers["v1 missing"] = await refusal(v1.infer(url, instances, model_name="roses"))
        answers["v1 explain"] = await refusal(v1.explain(url, MODEL, {"instances": []}))
    async with InferenceRESTClient(RESTConfig(protocol="v2")) as v2:
        answers["v2 live"] = await v2.is_server_live(url)
        answers["v2 ready"] = await v2.is_server_ready(url)
        answers["v2 model ready"] = await v2.is_model_ready(url, MODEL)
        answers["v2 missing ready"] = await v2.is_model_ready(url, "roses")
        bytes_tensor = np.array([photo], dtype=np.object_)
        texts = np.array([encoded["b64"]], dtype=np.object_)
        for name, values, datatype, binary in (
            ("image", tensor[np.newaxis], "UINT8", False),
            ("image", tensor[np.newaxis], "UINT8", True),
            ("image_bytes", texts, "BYTES", False),
            ("image_bytes", bytes_tensor, "BYTES", True),
        ):
            for binary_output in (False, True):
                tensor_input = InferInput(name, list(values.shape), datatype)
                tensor_input.set_data_from_numpy(values, binary_data=binary)
                request = InferRequest(
                    MODEL, [tensor_input], request_id="an id", parameters={"binary_data_output": binary_output}
                )
                told: dict[str, str] = {}
                response = await v2.infer(url, request, model_name=MODEL, response_headers=told)
                [output] = response.outputs
                answers[f"v2 {name} binary={binary} output={binary_output}"] = {
                    "id": response.id,
                    "model": response.model_name,
                    "name": output.name,
                    "datatype": output.datatype,
                    "probabilities": output.as_numpy().tolist(),
                    "type": told["content-type"],
                }
        answers["v2 missing"] = await refusal(v2.infer(url, request, model_name="roses"))
    return answers


async def refusal(call: Any) -> str:
    """What the client says of an error."""
    try:
        return f"no error, but {await call}"
    except httpx.HTTPStatusError as error:
        return str(error)


if __name__ == "__main__":
    address, path, *shape, level = sys.argv[1:]
    picture = np.full([int(size) for size in shape], int(level), np.uint8)
    json.dump(asyncio.run(main(address, Path(path).read_bytes(), picture)), sys.stdout)
