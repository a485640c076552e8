"""Versions that arrive from elsewhere as folders: found in what was laid down, and taken into a store."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from pydantic import ValidationError

from app.errors import InvalidRequest, StorageFailed, VersionRefused
from app.store.manifest import MANIFEST, Manifest
from app.store.registry import Registry


def holds_production(folder: Path) -> bool:
    """Whether a folder is a model store that can be served as it is: one of its models has a version in production."""
    registry = Registry(folder)
    return any(registry.production(model) is not None for model in registry.models())


def find_version(folder: Path) -> Path:
    """The one version that a folder holds: it is a version's own folder, or a model store with one model of which one
    version is in production, or which has only one.

    Raises:
        InvalidRequest: it holds none, or several that nothing chooses from; the message says what is expected.
        StorageFailed: it cannot be read.
    """
    if (folder / MANIFEST).is_file():
        return folder
    registry = Registry(folder)
    models = registry.models()
    expected = (
        f"Expected: one version's folder (with {MANIFEST}, as in model_store/MODEL/VERSION), or a folder of a model "
        "store (MODEL/VERSION/…, with MODEL/promotions)."
    )
    if not models:
        found = ", ".join(sorted(entry.name for entry in folder.iterdir())[:5]) if folder.is_dir() else "no such folder"
        raise InvalidRequest(f"There is no model in {folder} ({found or 'it is empty'}). {expected}")
    if len(models) > 1:
        raise InvalidRequest(f"{folder} holds several models, {', '.join(models[:5])}; one is allowed here. {expected}")
    [model] = models
    production = registry.production(model)
    versions = [production.version] if production else registry.versions(model)
    if len(versions) > 1:
        raise InvalidRequest(
            f"{folder} holds {len(versions)} versions of {model}, and none is in production. Leave one, or add "
            f"{model}/promotions. {expected}"
        )
    return registry.folder(model, versions[0])


def adopt(folder: Path, registry: Registry, *, by: str, name: str | None = None) -> tuple[str, int]:
    """Copy a version's folder into a store, and make it production there; returns its model and number.

    Its files are checked against its manifest, as always when a version is loaded; its golden examples are, when it is.

    Args:
        folder: as from `find_version`.
        by: who did it, for the promotion log.
        name: that its model is to have in the store; None: its own.

    Raises:
        VersionRefused: its manifest cannot be read, or its files are not those of its manifest.
        InvalidName, InvalidRequest, StorageFailed.
    """
    try:
        manifest = Manifest.model_validate_json((folder / MANIFEST).read_bytes())
    except OSError as error:
        raise StorageFailed(f"The {MANIFEST} in {folder} cannot be read: {error.strerror or error}.") from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise VersionRefused(f"The {MANIFEST} in {folder} is not valid: {where}: {first['msg']}.") from error
    model = name or manifest.model
    with registry.staging() as staged:
        try:
            shutil.copytree(folder, staged, symlinks=True, dirs_exist_ok=True, copy_function=_link)
        except OSError as error:
            # Of several files at once it has a list of them, each with its reason.
            reason = error.args[0][0][2] if isinstance(error, shutil.Error) else error.strerror
            raise StorageFailed(f"{folder} cannot be copied: {reason or error}.") from error
        version = registry.register(staged, manifest.model_copy(update={"model": model}))
    if (files := registry.manifest(model, version).files) != manifest.files:
        differing = sorted(file for file, _ in files.items() ^ manifest.files.items())
        registry.remove(model)
        raise VersionRefused(f"{folder} is not what its {MANIFEST} says: {', '.join(dict.fromkeys(differing[:5]))}.")
    registry.promote(model, version, by=by)
    return model, version


def _link(source: str, target: str) -> None:
    """A second name for a file, or a copy where that cannot be: on another file system, or of another user's."""
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:
        shutil.copyfile(source, target, follow_symlinks=False)
