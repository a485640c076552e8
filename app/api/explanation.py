"""What the routes that explain answers have in common."""

from __future__ import annotations

from app.api.services import Services
from app.errors import InvalidRequest
from app.explanations import Findings, Question
from app.preprocessing import to_array
from app.serving.tensors import Image, Tensor, fit_input
from app.store.manifest import Manifest


def explain(services: Services, question: Question, image: Image | None, deadline: float) -> tuple[Findings, bytes]:
    """Decode an image here, as predict requests do, and let the explainer look at the pixels. For `Pools.explaining`.

    Args:
        image: None: the question is about none.
        deadline: by `time.monotonic`.

    Raises:
        FoveaError: of the image, or as `Explaining.ask`.
    """
    manifest = services.registry.manifest(question.model, question.version)
    pixels = b""
    if isinstance(image, Tensor):
        pixels = _pixels(image, manifest)
    elif image is not None:
        pixels = to_array(image, manifest.preprocessing, max_pixels=services.settings.max_pixels).tobytes()
    return services.explaining.ask(question, pixels, deadline=deadline)


def _pixels(tensor: Tensor, manifest: Manifest) -> bytes:
    if manifest.input.dtype != "uint8":
        raise InvalidRequest(
            f"The tensors of {manifest.model} are scaled already, and an explanation is drawn over the picture: send "
            "encoded images."
        )
    return fit_input(tensor, manifest).tobytes()
