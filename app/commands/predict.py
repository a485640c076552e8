"""`fovea predict`: classify image files without a server, by the code that a server runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from app.commands.environment import FAILED, load_settings, open_registry, open_version
from app.errors import FoveaError, InferenceFailed, InvalidRequest, ModelNotFound, NotReady

if TYPE_CHECKING:
    from app.serving.versions import LoadedVersion
    from app.settings import Settings
    from app.store.registry import Registry


@click.command()
@click.argument("images", metavar="IMAGE...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--model", help="Model to ask.  [default: FOVEA_DEFAULT_MODEL, or the only one there is]")
@click.option("--version", type=click.IntRange(min=1), help="Version of it.  [default: the one in production]")
@click.option("--top-k", default=5, show_default=True, type=click.IntRange(min=0), help="Classes to list; 0: all.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document, like that of POST /api/v1/predict.")
def predict(images: tuple[Path, ...], model: str | None, version: int | None, top_k: int, as_json: bool) -> None:
    """Classify images without a server.

    The IMAGE files go through a model of the local store (FOVEA_MODEL_STORE), just as in a server.

    Exit status: 0 if every image was classified, 1 if one was not, 2 for wrong usage or input.
    """
    settings = load_settings()
    registry = open_registry(settings)
    loaded = _load(settings, registry, model, version)
    try:
        predictions = [_predict(loaded, path, settings.max_pixels, top_k) for path in images]
    finally:
        loaded.runtime.close()
    if as_json:
        document = {"model": loaded.model, "version": loaded.version, "predictions": predictions}
        click.echo(json.dumps(document, allow_nan=False, indent=2))
    else:
        click.echo(f"{loaded.model}, version {loaded.version}", err=True)
        for prediction in predictions:
            _print(prediction)
    if any("error" in prediction for prediction in predictions):
        click.get_current_context().exit(FAILED)


def _load(settings: Settings, registry: Registry, model: str | None, version: int | None) -> LoadedVersion:
    model = model or settings.default_model or _only_model(registry)
    if version is None:
        production = registry.production(model)
        if production is None:
            versions = ", ".join(map(str, registry.versions(model)))
            raise NotReady(f"No version of {model} is in production. Name one with --version; it has: {versions}.")
        version = production.version
    return open_version(settings, registry, model, version)


def _only_model(registry: Registry) -> str:
    models = registry.models()
    if not models:
        raise ModelNotFound("The model store has no model. Set FOVEA_MODEL_STORE, or train or import one.")
    if len(models) > 1:
        raise InvalidRequest(f"Several models are there; name one with --model: {', '.join(models)}.")
    return models[0]


def _predict(loaded: LoadedVersion, path: Path, max_pixels: int, top_k: int) -> dict[str, Any]:
    """The entry of one image, in the form that the API gives it."""
    import numpy as np

    from app.api.predict import render_answer
    from app.preprocessing import to_array
    from app.serving.classifier import Answer

    try:
        array = to_array(path.read_bytes(), loaded.manifest.preprocessing, max_pixels=max_pixels)
        probabilities = loaded.runtime.predict(array[np.newaxis])[0]
        if not np.isfinite(probabilities).all():
            raise InferenceFailed("The model's answer is not finite (NaN or infinite).")
    except FoveaError as error:
        return {"name": str(path), "error": {"code": error.code, "detail": str(error)}}
    except OSError as error:
        detail = f"The file cannot be read: {error.strerror or error}."
        return {"name": str(path), "error": {"code": "unreadable_file", "detail": detail}}
    # Rendered by the API's own function, so that the two cannot come to differ.
    answer = Answer.of(loaded, [probabilities])
    entry: dict[str, Any] = json.loads(render_answer(answer, [str(path)], top_k, None))["predictions"][0]
    return entry


def _print(prediction: dict[str, Any]) -> None:
    if "error" in prediction:
        click.echo(f"{prediction['name']}: {prediction['error']['detail']}", err=True)
        return
    click.echo(f"{prediction['name']}  (unknown)" if prediction.get("unknown") else prediction["name"])
    width = max(len(entry["label"]) for entry in prediction["top"])
    for entry in prediction["top"]:
        click.echo(f"  {entry['label'].ljust(width)}  {entry['probability']:7.2%}")
