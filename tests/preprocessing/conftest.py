from __future__ import annotations

import pytest

from app.preprocessing import ignore_decoder_warnings


@pytest.fixture(autouse=True)
def _warnings_as_in_production() -> None:
    """Pillow's remarks on odd metadata pass, as they do once an entry point has said so; pytest undoes it after."""
    ignore_decoder_warnings()
