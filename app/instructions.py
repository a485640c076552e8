"""Which instructions the processor has, where engines do not say."""

from __future__ import annotations

from pathlib import Path

_FLAGS = ("flags", "Features")
# Instructions that multiply 8-bit integers and add up in 32 bits: of x86, then of Arm.
_INT8 = frozenset({"avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm"})


def multiplies_int8(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether the processor adds up products of 8-bit integers without overflow, and so gains by them.

    Older ones add up in 16 bits, where sums are cut off. On systems without /proc/cpuinfo it cannot be told: False.
    """
    try:
        lines = cpuinfo.read_text("utf-8", errors="replace").splitlines()
    except OSError:
        return False
    values = (line.partition(":")[2].split() for line in lines if line.split(":")[0].strip() in _FLAGS)
    return bool(_INT8 & set(next(values, [])))
