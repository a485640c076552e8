"""Which processors gain by 8-bit integers."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.instructions import multiplies_int8


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("flags\t\t: fpu avx512f avx512_vnni", True),
        ("flags\t\t: fpu avx2 avx_vnni", True),
        ("flags\t\t: fpu avx2 fma", False),
        ("Features\t: fp asimd asimddp", True),
        ("Features\t: fp asimd", False),
        ("vmx flags\t: avx_vnni", False),
    ],
)
def test_int8_is_for_processors_that_add_it_up_in_32_bits(tmp_path: Path, line: str, expected: bool) -> None:
    """Others cut sums off, and answer otherwise than was measured."""
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"processor\t: 0\n{line}\n\nprocessor\t: 1\n{line}\n")
    assert multiplies_int8(cpuinfo) is expected
    assert not multiplies_int8(tmp_path / "none")
