"""Importing OpenVINO, for the rooms that use it."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import cast


def import_openvino() -> ModuleType:
    """Import OpenVINO without its converter, which reports each import to its maker and writes in the home folder."""
    converter = "openvino.tools.ovc"
    if "openvino" in sys.modules:
        import openvino

        return cast(ModuleType, openvino)
    # The package carries on where the converter cannot be imported, and None says that it cannot.
    modules = cast("dict[str, ModuleType | None]", sys.modules)
    modules[converter] = None
    try:
        import openvino
    finally:
        del modules[converter]
    return cast(ModuleType, openvino)
