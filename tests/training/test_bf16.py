"""Whether training gains from bfloat16 here."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.training.bf16 import computes_bf16


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("fpu avx2 avx512f avx512_bf16", True),
        ("fpu amx_tile amx_bf16", True),
        ("fpu avx2 avx512f", False),
        (None, False),
    ],
    ids=["AVX-512", "AMX", "neither", "no such file"],
)
def test_a_processor_that_lacks_bf16_is_not_made_to_emulate_it(
    tmp_path: Path, flags: str | None, expected: bool
) -> None:
    """The flags of the processor decide; where there are none to read, it is float32."""
    cpuinfo = tmp_path / "cpuinfo"
    if flags is not None:
        cpuinfo.write_text(f"processor\t: 0\nmodel name\t: Some CPU\nflags\t\t: {flags}\n\nprocessor\t: 1\n")
    assert computes_bf16(cpuinfo) is expected
