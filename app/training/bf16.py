"""Whether training gains from bfloat16 on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tensorflow as tf

# Instructions that multiply bfloat16. Elsewhere it would be emulated, which is many times slower than float32.
_FLAGS = frozenset({"avx512_bf16", "amx_bf16"})

# NVIDIA's from Ampere on.
_CAPABILITY = (8, 0)


def computes_bf16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether the graphics card, if TensorFlow uses one, or else the processor multiplies bfloat16 itself."""
    graphics = tf.config.list_physical_devices("GPU")
    if graphics:
        return all(_capability(device) >= _CAPABILITY for device in graphics)
    return bool(_FLAGS & _flags(cpuinfo))


def _flags(cpuinfo: Path) -> frozenset[str]:
    """The flags of the first processor; none where the system does not say."""
    try:
        lines = cpuinfo.read_text("utf-8", errors="replace").splitlines()
    except OSError:
        return frozenset()
    return next((frozenset(line.partition(":")[2].split()) for line in lines if line.startswith("flags")), frozenset())


def _capability(device: Any) -> tuple[int, int]:
    major, minor = tf.config.experimental.get_device_details(device).get("compute_capability", (0, 0))
    return int(major), int(minor)
