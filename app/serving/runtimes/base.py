"""What every inference engine must do, whatever it is made of."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from app.preprocessing import Float32Array, UInt8Array
from app.store.manifest import Manifest


class Runtime(Protocol):
    """A loaded model. Thread-safe: `predict` may be called from several threads at a time."""

    name: str
    """Engine and precision, as metrics and the API show them: "openvino-f32"."""

    def predict(self, batch: UInt8Array) -> Float32Array:
        """Classify a batch.

        Args:
            batch: uint8 [n, height, width, channels], preprocessed but not scaled.

        Returns:
            float32 [n, classes]; each row sums to 1.

        Raises:
            InferenceFailed: the engine failed.
        """
        ...

    def close(self) -> None:
        """Free what the engine holds. No call may follow."""
        ...


class RuntimeLoader(Protocol):
    """Opens the SavedModel in `folder`.

    Raises:
        VersionRefused: with the reason that this engine cannot run it.
    """

    def __call__(self, folder: Path, manifest: Manifest, *, threads: int) -> Runtime: ...
