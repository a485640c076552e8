"""What every inference engine must do, whatever it is made of."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from app.preprocessing import Float32Array, UInt8Array
from app.store.manifest import Manifest

Batch = UInt8Array | Float32Array


class Runtime(Protocol):
    """A loaded model. Thread-safe: as many calls of `predict` as it has lanes run at a time, of a small model one more
    (see `spare`), and others wait.
    """

    name: str
    """Engine and precision, as metrics and the API show them: "openvino-f32"."""

    def predict(self, batch: Batch, *, alone: bool = False) -> Float32Array:
        """Classify a batch.

        Args:
            batch: uint8 [n, height, width, channels], preprocessed but not scaled; or float32, as the graph takes it.
            alone: nothing else runs or waits, so that the call may take the threads of all lanes.

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

    Args:
        lanes: calls of `predict` that run at a time.
        threads: threads that the engine may use in all; each lane gets `threads // lanes` of them, at least one.

    Raises:
        VersionRefused: with the reason that this engine cannot run it.
    """

    def __call__(self, folder: Path, manifest: Manifest, *, lanes: int, threads: int) -> Runtime: ...
