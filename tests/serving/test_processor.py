"""What was measured on one kind of processor holds for its kind only."""

from __future__ import annotations

from pathlib import Path

from app.serving.processor import processor

X86 = """processor\t: 0
model name\t: Some CPU
model\t\t: 17
flags\t\t: fpu avx512f

processor\t: 1
model name\t: Other
"""


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "cpuinfo"
    path.write_text(text)
    return path


def test_a_kind_is_its_name_and_its_instructions(tmp_path: Path) -> None:
    """The clock, which changes from look to look, does not count; a masked instruction does."""
    one = processor(write(tmp_path, X86))
    assert one.name == "Some CPU"
    assert processor(write(tmp_path, X86.replace("flags", "cpu MHz\t: 2400.1\nflags"))) == one
    assert processor(write(tmp_path, X86.replace(" avx512f", ""))).key != one.key
    assert processor(write(tmp_path, X86.replace("17", "18"))).key != one.key


def test_arm_and_systems_without_the_file_have_one_too(tmp_path: Path) -> None:
    """As far as the system tells."""
    arm = processor(write(tmp_path, "processor\t: 0\nFeatures\t: asimd bf16\nCPU part\t: 0xd40\n"))
    assert arm.name == "0xd40"
    assert processor(tmp_path / "missing").key not in ("", arm.key)
    assert processor() == processor()
