"""`fovea models`: the versions of the local model store, and which of them is production."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import click

from app.commands.environment import Commands, load_settings, open_registry, print_table, user
from app.errors import FoveaError, InvalidRequest, VersionRefused

if TYPE_CHECKING:
    from app.settings import Settings
    from app.store.manifest import Promotion
    from app.store.registry import Registry


@click.group(cls=Commands)
def models() -> None:
    """Inspect, promote and import models.

    They are those of the model store (FOVEA_MODEL_STORE). No server is needed; those that serve the
    same store follow within seconds.
    """


@models.command("list")
def list_() -> None:
    """List the models and their versions."""
    registry = open_registry(load_settings())
    rows = []
    for model in registry.models():
        production = registry.production(model)
        versions = registry.versions(model)
        accuracy = _accuracy(registry, model, production.version) if production else "-"
        rows.append((model, production.version if production else "-", accuracy, ", ".join(map(str, versions))))
    print_table(("MODEL", "PRODUCTION", "ACCURACY", "VERSIONS"), rows)


@models.command()
@click.argument("model")
@click.argument("version", required=False, type=click.IntRange(min=1))
@click.option("--json", "as_json", is_flag=True, help="Print the version's manifest as JSON.")
def show(model: str, version: int | None, as_json: bool) -> None:
    """Show a model, or one of its versions."""
    registry = open_registry(load_settings())
    if version is None and not as_json:
        _show_model(registry, model)
        return
    if version is None:
        raise InvalidRequest("--json prints one version's manifest: name the version.")
    manifest = registry.manifest(model, version)
    if as_json:
        click.echo(manifest.model_dump_json(indent=2))
        return
    production = registry.production(model)
    note = ", in production" if production and production.version == version else ""
    click.echo(f"{model} version {version}{note}")
    click.echo(f"  made      {manifest.created_at:%Y-%m-%d %H:%M} by {manifest.created_by}")
    height, width, _ = manifest.preprocessing.shape
    click.echo(f"  input     {height} x {width} {manifest.preprocessing.color}, {manifest.preprocessing.fit}")
    click.echo(f"  labels    {', '.join(manifest.labels)}")
    for name, value in manifest.metrics.items():
        click.echo(f"  {name.replace('_', ' ').ljust(9)} {value:,.6g}")
    if manifest.data:
        counts = ", ".join(f"{count:,} {split}" for split, count in manifest.data.counts.items())
        click.echo(f"  data      {manifest.data.dataset} ({counts})")
    click.echo(f"  files     {registry.folder(model, version)}")


@models.command()
@click.argument("model")
@click.argument("version", type=click.IntRange(min=1))
@click.option("--reason", default="", help="Why, for the promotion log.")
def promote(model: str, version: int, reason: str) -> None:
    """Make a version the production version.

    Before, VERSION of MODEL goes through the checks that a server makes when it loads it.
    """
    settings = load_settings()
    registry = open_registry(settings)
    check(settings, registry, model, version)
    _print_promotion(model, registry.promote(model, version, by=user(), reason=reason))


@models.command()
@click.argument("model")
@click.option("--reason", default="", help="Why, for the promotion log.")
def rollback(model: str, reason: str) -> None:
    """Go back to the version before.

    Makes that version of MODEL production which was so before the present one.
    """
    settings = load_settings()
    registry = open_registry(settings)
    check(settings, registry, model, registry.previous(model))
    _print_promotion(model, registry.rollback(model, by=user(), reason=reason))


@models.command("import")
@click.argument("source", metavar="PATH", type=click.Path(exists=True, path_type=Path))
@click.option("--name", required=True, help="Model to add a version to.")
@click.option("--labels", required=True, help="A file with one class name a line, or the names joined by commas.")
@click.option("--size", required=True, metavar="HxW|N", help="Rows and columns of the input, in pixels.")
@click.option("--color", default="rgb", show_default=True, type=click.Choice(["rgb", "grayscale"]))
@click.option(
    "--scaling",
    default="in_model",
    show_default=True,
    type=click.Choice(["in_model", "0..1", "-1..1", "imagenet", "caffe"]),
    help="What the model expects pixels to be. in_model: 0 to 255, it scales them itself.",
)
@click.option(
    "--resample",
    default="bilinear",
    show_default=True,
    type=click.Choice(["nearest", "bilinear", "bicubic", "lanczos", "box"]),
    help="Filter that resizes images to the input.",
)
@click.option(
    "--fit",
    default="stretch",
    show_default=True,
    type=click.Choice(["stretch", "crop", "pad"]),
    help="What happens to images of another aspect ratio.",
)
@click.option(
    "--golden",
    "images",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="An image of the kind that it classifies, to check every load by; can be given several times.",
)
@click.option("--promote", "then_promote", is_flag=True, help="Make it the production version.")
def import_(
    source: Path,
    name: str,
    labels: str,
    size: str,
    color: str,
    scaling: str,
    resample: str,
    fit: str,
    images: tuple[Path, ...],
    then_promote: bool,
) -> None:
    """Import a SavedModel or .keras file.

    The SavedModel folder or .keras file at PATH becomes the next version of the model. A SavedModel
    is a program: import only what you trust. Needs the training part of Fovea.
    """
    settings = load_settings()
    height, width = _size(size)
    request = {
        "source": str(source.resolve()),
        "model": name,
        "labels": _labels(labels),
        "height": height,
        "width": width,
        "color": color,
        "resample": resample,
        "fit": fit,
        "scaling": scaling,
        "images": [str(image.resolve()) for image in images],
    }
    click.echo("Importing: loads TensorFlow, computes golden examples, registers …", err=True)
    version = _run_importer(settings, request)
    click.echo(f"Imported {source} as {name} version {version}.")
    if not then_promote:
        click.echo(f"Serve it: fovea models promote {name} {version}")
        return
    registry = open_registry(settings)
    check(settings, registry, name, version)
    _print_promotion(name, registry.promote(name, version, by=user(), reason=f"imported from {source.name}"))


def check(settings: Settings, registry: Registry, model: str, version: int) -> None:
    """Load a version as a server would, and replay its golden examples.

    Raises:
        ModelNotFound, VersionNotFound: there is no such version.
        VersionRefused: with the reason.
    """
    from app.metrics import Metrics
    from app.serving.runtimes.loading import runtime_loader
    from app.serving.versions import load_version

    loaded = load_version(
        registry,
        model,
        version,
        load_runtime=runtime_loader(settings.runtime),
        threads=settings.inference_threads,
        metrics=Metrics(),
    )
    loaded.runtime.close()
    for warning in loaded.warnings:
        click.echo(f"Warning: {warning}", err=True)


def _run_importer(settings: Settings, request: dict[str, object]) -> int:
    """Run the importer in a process of its own: it needs TensorFlow, and this one shall not load it."""
    import os

    from app.jobs.executors.local_process import trainer_environment

    with tempfile.NamedTemporaryFile("w", suffix=".json", encoding="utf-8") as file:
        json.dump(request, file)
        file.flush()
        ended = subprocess.run(
            [sys.executable, "-m", "app.training.importer", file.name],
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2", **trainer_environment(settings)},
            capture_output=True,
            text=True,
            check=False,
        )
    lines = ended.stdout.strip().splitlines()
    if ended.returncode == 0 and lines:
        return int(json.loads(lines[-1])["version"])
    messages = ended.stderr.strip().splitlines()
    reason = messages[-1] if messages else f"the importer ended with exit status {ended.returncode}"
    raise VersionRefused(f"Not imported: {reason.rstrip('.')}.")


def _size(text: str) -> tuple[int, int]:
    parts = text.lower().split("x")
    if len(parts) > 2 or not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise InvalidRequest(f"--size {text!r} is not allowed: rows x columns, like 224x224, or one number for both.")
    return int(parts[0]), int(parts[-1])


def _labels(text: str) -> list[str]:
    path = Path(text)
    if path.is_file():
        names = [line.strip() for line in path.read_text("utf-8").splitlines()]
    else:
        names = [name.strip() for name in text.split(",")]
    names = [name for name in names if name]
    if len(names) < 2:
        raise InvalidRequest(
            f"--labels {text!r} is neither a file of class names, one a line, nor two or more names joined by commas."
        )
    return names


def _show_model(registry: Registry, model: str) -> None:
    production = registry.production(model)
    rows = []
    for version in registry.versions(model):
        mark = "production" if production and production.version == version else ""
        rows.append((version, _accuracy(registry, model, version), _made(registry, model, version), mark))
    print_table(("VERSION", "ACCURACY", "MADE", ""), rows)
    promotions = registry.promotions(model)
    if promotions:
        click.echo()
        log = [
            (f"{entry.at:%Y-%m-%d %H:%M}", entry.action, entry.version, entry.by, entry.reason) for entry in promotions
        ]
        print_table(("WHEN", "WHAT", "VERSION", "WHO", "WHY"), log)


def _accuracy(registry: Registry, model: str, version: int) -> str:
    try:
        accuracy = registry.manifest(model, version).metrics.get("accuracy")
    except FoveaError:
        return "unreadable"
    return "-" if accuracy is None else f"{accuracy:.4f}"


def _made(registry: Registry, model: str, version: int) -> str:
    try:
        manifest = registry.manifest(model, version)
    except FoveaError:
        return "unreadable"
    return f"{manifest.created_at:%Y-%m-%d %H:%M} by {manifest.created_by}"


def _print_promotion(model: str, entry: Promotion) -> None:
    click.echo(f"Version {entry.version} of {model} is in production.")
