"""MLServer: a runtime of the Open Inference Protocol with adaptive batching; images come as base64 in JSON."""

# Installed in an environment of its own, where mypy does not look.
# mypy: disable-error-code="import-not-found,misc,untyped-decorator"

from __future__ import annotations

import numpy as np
from mlserver import MLModel
from mlserver.codecs import Base64Codec, NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse

from benchmarks.peers.classification import Model

_TOP = 5


class Classifier(MLModel):
    async def load(self) -> bool:
        self.classifier = Model()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        images = Base64Codec.decode_input(payload.inputs[0])
        rows = self.classifier.probabilities([self.classifier.decode(image) for image in images])
        top = np.argsort(rows, axis=1)[:, ::-1][:, :_TOP]
        return InferenceResponse(
            model_name=self.name,
            outputs=[
                NumpyCodec.encode_output("class_index", top),
                NumpyCodec.encode_output("probability", np.take_along_axis(rows, top, axis=1)),
            ],
        )
