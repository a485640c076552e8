"""What commands share: the settings, the rooms that they open, and how they fail and print."""

from __future__ import annotations

import getpass
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from app.errors import (
    ConfigurationError,
    DatasetNotFound,
    FoveaError,
    InvalidDataset,
    InvalidImage,
    InvalidRequest,
    JobNotFound,
    ModelNotFound,
    NotFound,
    PayloadTooLarge,
    VersionNotFound,
)

if TYPE_CHECKING:
    from pydantic import ValidationError

    from app.serving.versions import LoadedVersion
    from app.settings import Settings
    from app.store.datasets import Datasets
    from app.store.registry import Registry

_Command = TypeVar("_Command", bound=Callable[..., Any])

FAILED, USAGE, UNREACHABLE = 1, 2, 3


class Unreachable(FoveaError):
    """No server answers at the address."""

    code = "unreachable"


class _Failure(click.ClickException):
    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.exit_code = status  # type: ignore[misc]  # click reads it from the instance


class Commands(click.Group):
    """A group whose commands end with one sentence and an exit status instead of a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command, turning the domain's errors into click's."""
        try:
            return super().invoke(ctx)
        except FoveaError as error:
            raise _Failure(f"{error}{_looked_in(error)}", exit_status(error)) from error
        except BrokenPipeError:
            raise  # click ends quietly when the reader of a pipe has gone
        except OSError as error:
            where = f": {error.filename}" if error.filename else ""
            raise click.ClickException(f"The system refused: {error.strerror or error}{where}.") from error


# What was given cannot be used, or is not there: the same command fails again until it is given something else.
_INPUT = (InvalidRequest, ConfigurationError, NotFound, InvalidDataset, InvalidImage, PayloadTooLarge)


def exit_status(error: FoveaError) -> int:
    """2 for wrong usage, settings or input, 3 for a server that does not answer, 1 for all else that failed."""
    if isinstance(error, Unreachable):
        return UNREACHABLE
    return USAGE if isinstance(error, _INPUT) else FAILED


def _looked_in(error: FoveaError) -> str:
    """Where it was looked for in vain: a server on another workspace or store may well have it.

    What a server did not find is told by `app.commands.remote`.
    """
    if isinstance(error, DatasetNotFound | JobNotFound):
        return f" Looked in {load_settings().workspace.absolute()} (FOVEA_WORKSPACE)."
    if isinstance(error, ModelNotFound | VersionNotFound):
        return f" Looked in {load_settings().model_store.absolute()} (FOVEA_MODEL_STORE)."
    return ""


def load_settings(**overrides: object) -> Settings:
    """The settings of the environment; options that were given (not None) win.

    Raises:
        ConfigurationError: naming each variable that is wrong, and how.
    """
    from pydantic import ValidationError

    from app.settings import Settings

    try:
        return Settings(**{name: value for name, value in overrides.items() if value is not None})  # type: ignore[arg-type]
    except ValidationError as error:
        raise ConfigurationError(explain(error, lambda path: f"FOVEA_{path.upper()}")) from error


def explain(error: ValidationError, name: Any = str) -> str:
    """A sentence for each field that is wrong; `name` turns a field's dotted path into what the user wrote."""
    from app.asked import plain

    return " ".join(
        f"{name('.'.join(map(str, detail['loc'])))}: {plain(detail).rstrip('.')}."
        for detail in error.errors(include_url=False)
    )


def open_registry(settings: Settings) -> Registry:
    """The model store."""
    from app.store.registry import Registry

    return Registry(settings.model_store)


def open_version(settings: Settings, registry: Registry, model: str, version: int) -> LoadedVersion:
    """A version loaded and checked as a server would. To be closed: `runtime.close()`.

    Raises:
        ModelNotFound, VersionNotFound: there is no such version.
        VersionRefused: with the reason.
    """
    from app.cores import available_cores
    from app.metrics import Metrics
    from app.serving.engine_choice import EngineChoice
    from app.serving.versions import load_version

    return load_version(
        registry,
        model,
        version,
        choice=EngineChoice.of(settings),
        lanes=settings.lanes or available_cores(),
        threads=settings.inference_threads or available_cores(),
        metrics=Metrics(),
    )


def open_datasets(settings: Settings) -> Datasets:
    """The datasets of the workspace."""
    from app.store.datasets import Datasets

    return Datasets(
        settings.workspace / "datasets",
        max_bytes=settings.max_dataset_bytes,
        max_files=settings.max_dataset_files,
        max_pixels=settings.max_pixels,
    )


def user() -> str:
    """Who runs this command, for the logs that say who did what."""
    try:
        return f"{getpass.getuser()} (command line)"
    except (OSError, KeyError):  # a container's user may have no name
        return "command line"


def backend_options(command: _Command) -> _Command:
    """The options that say who runs training jobs: `server`, `key` and `local`."""
    for option in (
        click.option("--local", is_flag=True, help="Need no server: use the workspace (FOVEA_WORKSPACE) directly."),
        click.option("--key", envvar="FOVEA_API_KEY", show_envvar=True, help="API key for the server."),
        click.option("--server", help="Address of a running server.  [default: http://127.0.0.1:FOVEA_PORT]"),
    ):
        command = option(command)
    return command


def print_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Columns under a header, the same on a terminal and in a pipe."""
    table = [tuple(map(str, row)) for row in [header, *rows]]
    widths = [max(len(cell) for cell in column) for column in zip(*table, strict=True)]
    for row in table:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
