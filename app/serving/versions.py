"""Loading a version: verify its files, open the engine, replay the golden examples."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from app.errors import FoveaError, StorageFailed, VersionRefused
from app.metrics import Metrics
from app.serving.engine_choice import EngineChoice, Opening, breathe
from app.serving.golden import decoder_difference, read_expected
from app.serving.runtimes.base import Runtime
from app.serving.tuning import Tuning
from app.store.manifest import Manifest
from app.store.registry import Registry

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoadedVersion:
    """A version that passed its checks and is warm."""

    model: str
    version: int
    manifest: Manifest
    runtime: Runtime
    tuning: Tuning
    warnings: tuple[str, ...] = ()
    """What was odd, but no ground to refuse it; for people."""


def load_version(
    registry: Registry,
    model: str,
    version: int,
    *,
    choice: EngineChoice,
    lanes: int,
    threads: int,
    metrics: Metrics,
    beside: bool = False,
) -> LoadedVersion:
    """Load and check a version. Blocks for as long as that takes; safe to call from threads.

    Args:
        lanes: calls of the engine that run at a time.
        threads: threads that the engine may use in all.
        beside: others are being answered meanwhile: what takes long is done by a process aside, at the lowest priority.

    Raises:
        ModelNotFound, VersionNotFound: there is no such version.
        VersionRefused: with the reason.
        StorageFailed: the store cannot be read; the version may be fine.
    """
    with _failures(model, version, metrics):
        manifest = registry.verify(model, version)
        breathe(beside=beside)
        folder = registry.folder(model, version)
        try:
            expected = read_expected(folder, manifest)
            # Of this thread: beside others the clock on the wall would count what they take.
            begin = time.thread_time()
            difference = decoder_difference(folder, manifest, expected)
            decode_seconds = (time.thread_time() - begin) / len(expected.images)
            breathe(beside=beside)
            runtime, tuning = choice.open(Opening(folder, manifest, expected, lanes, threads, decode_seconds, beside))
        except VersionRefused as error:
            raise VersionRefused(f"Version {version} of {model} is refused: {error}") from error
        except (FoveaError, OSError):
            raise
        except Exception as error:
            # Whatever else a graph runs its engine into is the version's fault, and must not end what follows the log.
            _log.exception("loading version %d of %s", version, model)
            raise VersionRefused(
                f"Version {version} of {model} is refused: loading it failed with {type(error).__name__}: {error}"
            ) from error
        warnings: tuple[str, ...] = ()
        if difference:
            warnings = (
                f"Images decode here to pixels that differ by up to {difference} of 255 levels from those that version "
                f"{version} was trained with: another build of the image decoder.",
            )
            metrics.golden_warning(model)
            _log.warning("%s: %s", model, warnings[0])
        _log.info("loaded version %d of %s with %s", version, model, runtime.name)
        return LoadedVersion(model, version, manifest, runtime, tuning, warnings)


@contextmanager
def _failures(model: str, version: int, metrics: Metrics) -> Iterator[None]:
    """Counts and logs a refusal in the block; what cannot be read is the store's failure, and not the version's."""
    try:
        yield
    except VersionRefused as refusal:
        metrics.refused(model)
        _log.warning("%s", refusal)
        raise
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise StorageFailed(f"Version {version} of {model} cannot be read from the model store: {reason}.") from error
