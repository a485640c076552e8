"""`fovea models import`: make a model from elsewhere a version of the store."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import click

from app.commands.environment import USAGE, load_settings, open_registry, user
from app.commands.models import check, print_promotion
from app.errors import FoveaError, InvalidName, InvalidRequest
from app.names import check_name

if TYPE_CHECKING:
    from app.settings import Settings


class NotImported(FoveaError):
    """The importer failed; the message is its own."""

    code = "not_imported"


@click.command("import")
@click.argument("source", metavar="PATH", type=click.Path(exists=True, path_type=Path))
@click.option("--name", required=True, help="Model to add a version to.")
@click.option(
    "--labels",
    help="A file with one class name a line, or the names joined by commas; in the order of the output.  "
    "[default: the numbers of the classes]",
)
@click.option("--size", metavar="HxW|N", help="Rows and columns of the input, in pixels.  [default: as the model says]")
@click.option("--color", type=click.Choice(["rgb", "grayscale"]), help="[default: as the model's channels say]")
@click.option(
    "--scaling",
    type=click.Choice(["in_model", "0..1", "-1..1", "imagenet", "caffe"]),
    help="What the model expects pixels to be. in_model: 0 to 255, it scales them itself.  "
    "[default: in_model, if the model shows that it does]",
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
    help="An image of the kind that it classifies, to check every load by; can be given several times.  "
    "[default: synthetic ones]",
)
@click.option("--promote", is_flag=True, help="Make it the production version.")
def import_(
    source: Path,
    name: str,
    labels: str | None,
    size: str | None,
    images: tuple[Path, ...],
    promote: bool,
    **preprocessing: str | None,
) -> None:
    """Import a SavedModel or .keras file.

    The SavedModel folder or .keras file at PATH becomes the next version of the model. A SavedModel
    is a program: import only what you trust. Needs the training part of Fovea.
    """
    _check_model(name)
    settings = load_settings()
    height, width = _size(size)
    request: dict[str, object] = {
        "source": str(source.resolve()),
        "model": name,
        "labels": _labels(labels),
        "height": height,
        "width": width,
        "images": [str(image.resolve()) for image in images],
        **preprocessing,
    }
    click.echo("Importing: loads TensorFlow, computes golden examples, registers …", err=True)
    version = _run_importer(settings, request)
    click.echo(f"Imported {source} as {name} version {version}.")
    if not promote:
        click.echo(f"Promote:  fovea models promote {name} {version}")
        return
    registry = open_registry(settings)
    check(settings, registry, name, version)
    print_promotion(name, registry.promote(name, version, by=user(), reason=f"imported from {source.name}"))


def _run_importer(settings: Settings, request: dict[str, object]) -> int:
    """Run the importer in a process of its own: it needs TensorFlow, and this one shall not load it.

    Raises:
        InvalidRequest: the model or what was said of it is at fault, with the importer's reason.
        NotImported: it failed otherwise.
    """
    from app.jobs.executors.local_process import trainer_environment

    with tempfile.NamedTemporaryFile("w", suffix=".json", encoding="utf-8") as file:
        json.dump(request, file)
        file.flush()
        ended = subprocess.run(
            [sys.executable, "-m", "app.training.importer", file.name],
            env={**os.environ, **trainer_environment(settings)},
            capture_output=True,
            text=True,
            check=False,
        )
    answer = ended.stdout.strip().splitlines()
    if ended.returncode == 0 and answer:
        return int(json.loads(answer[-1])["version"])
    said = ended.stderr.strip().splitlines()
    reason = said[-1] if said else f"The importer ended with exit status {ended.returncode}."
    raise (InvalidRequest if ended.returncode == USAGE else NotImported)(reason)


def _check_model(name: str) -> None:
    """Refuse a name before anything is loaded, with one like it that would do.

    Raises:
        InvalidName.
    """
    try:
        check_name(name, "model")
    except InvalidName as error:
        like = re.sub(r"[^a-z0-9_-]+", "-", name.lower()).strip("-_")[:63]
        raise InvalidName(f"{error} Like it: --name {like}" if like else str(error)) from error


def _size(text: str | None) -> tuple[int | None, int | None]:
    if text is None:
        return None, None
    parts = text.lower().split("x")
    if len(parts) > 2 or not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise InvalidRequest(f"--size {text!r} is not allowed: rows x columns, like 224x224, or one number for both.")
    return int(parts[0]), int(parts[-1])


def _labels(text: str | None) -> list[str] | None:
    if text is None:
        return None
    path = Path(text)
    lines = path.read_text("utf-8").splitlines() if path.is_file() else text.split(",")
    names = [name for line in lines if (name := line.strip())]
    if len(names) < 2:
        raise InvalidRequest(
            f"--labels {text!r} is neither a file of class names, one a line, nor two or more names joined by commas."
        )
    return names
