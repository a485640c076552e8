"""What a manifest says of the precisions that a version may be served in."""

from __future__ import annotations

import pytest

from app.store.manifest import PrecisionCheck
from tests.serving.versions import manifest


@pytest.mark.parametrize(
    ("accuracy", "agreement", "allowed"),
    [
        (0.9, 1.0, True),
        (0.91, 0.995, True),
        (0.899, 0.99, True),
        (0.8989, 1.0, False),
        (0.9, 0.9899, False),
    ],
)
def test_bf16_is_allowed_where_it_lost_nothing_that_matters(accuracy: float, agreement: float, allowed: bool) -> None:
    """At most 0.1 points of accuracy, and at most one image in a hundred in another class."""
    check = PrecisionCheck(accuracy=accuracy, images=1000, agreement=agreement, max_difference=0.01)
    document = manifest("shapes", metrics={"accuracy": 0.9}, precisions={"bf16": check})
    assert document.allows("bf16") is allowed
    assert document.allows("f32")


def test_what_was_not_measured_is_not_allowed() -> None:
    """Versions that were imported, or trained where no processor has bf16."""
    check = PrecisionCheck(accuracy=1.0, images=1000, agreement=1.0, max_difference=0.0)
    assert not manifest("shapes", metrics={"accuracy": 0.9}).allows("bf16")
    assert not manifest("shapes", precisions={"bf16": check}).allows("bf16")
