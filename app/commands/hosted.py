"""`fovea serve` on a platform that hosts models: its variables, and the model that it lays down."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from pathlib import Path

from app import platforms
from app.errors import ConfigurationError, FoveaError, InvalidRequest
from app.platforms import Platform
from app.settings import Settings

logger = logging.getLogger(__name__)

# Below the workspace: what was fetched, and the store that is made of it. Made anew at each start.
_PLACE = "platform"


def settle(settings: Settings, environment: Mapping[str, str]) -> tuple[Settings, Platform | None]:
    """The settings as the platform that started this process wants them, and which that is; logs what follows of it.

    Raises:
        ConfigurationError: a variable of the platform's that is wrong.
    """
    platform = platforms.detect(environment)
    if platform is None:
        return settings, None
    settled = platforms.settle(settings, platform)
    logger.info("Started by %s: listening on %s, port %d.", platform.name, settled.host, settled.port)
    if settled.api_keys is not None:
        logger.warning(
            "%s sends no keys of ours, but FOVEA_API_KEYS is set: its requests are refused. Unset it to leave to the "
            "platform who may call.",
            platform.name,
        )
    elif settled.allow_anonymous and not settled.loopback:
        logger.warning(
            "NO KEYS ARE ASKED FOR: %s decides who may call, and callers may %s. Whoever reaches port %d past it may "
            "do the same. FOVEA_API_KEYS or FOVEA_ALLOW_ANONYMOUS=false ends that.",
            platform.name,
            settled.anonymous_may,
            settled.port,
        )
    return settled, platform


def take_in(settings: Settings, platform: Platform) -> Settings:
    """The settings with the model store that the platform's model makes; what was set explicitly stays.

    A model store is served where it lies. Of one version's folder, a store with this version alone is made in the
    workspace. An empty folder says that the image brings the models itself.

    Raises:
        ConfigurationError: what was laid down is no model; the message says what is expected.
    """
    if "model_store" in settings.model_fields_set:
        if platform.model is not None:
            logger.warning(
                "FOVEA_MODEL_STORE is set: the models in %s are served, and not what %s names, %s.",
                settings.model_store,
                platform.name,
                platform.model,
            )
        return settings
    place = settings.workspace / _PLACE
    source = platform.model
    if source is None and platform.multi_model is None:
        return settings
    try:
        shutil.rmtree(place, ignore_errors=True)
        if source is None:
            return _with_store(settings, place / "store")
        folder = Path(source) if isinstance(source, Path) else _fetch(source, place / "fetched")
        return _with_store(settings, _store_of(folder, place / "store", platform) or settings.model_store)
    except FoveaError as error:
        raise ConfigurationError(f"The model that {platform.name} laid down cannot be used: {error}") from error


def _store_of(folder: Path, place: Path, platform: Platform) -> Path | None:
    """A model store with what a folder holds: itself, or one at `place`. None: it is empty."""
    from app.store.arrival import adopt, find_version, holds_production
    from app.store.registry import Registry

    if folder.is_dir() and not any(folder.iterdir()):
        logger.info("%s is empty: the models of the image are served.", folder)
        return None
    if holds_production(folder):
        return folder
    model, _ = adopt(find_version(folder), Registry(place), by=platform.name)
    logger.info("The version in %s is served as version 1 of %s.", folder, model)
    return place


def _fetch(address: str, place: Path) -> Path:
    from app.store.google_storage import download

    if "://" not in address:
        return Path(address)
    if not address.startswith("gs://"):
        raise InvalidRequest(
            f"AIP_STORAGE_URI is {address[:200]!r}. Allowed: gs://bucket/folder, or the path of a folder."
        )
    logger.info("Copying %s.", address)
    files, size = download(address, place)
    logger.info("Copied %d files, %.1f MB.", files, size / 1e6)
    return place


def _with_store(settings: Settings, store: Path) -> Settings:
    return settings.model_copy(update={"model_store": store})
