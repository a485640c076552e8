"""What a manifest says of the precisions that a version may be served in."""

from __future__ import annotations

import pytest

from app.store.manifest import Golden, PrecisionCheck
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


def test_the_bound_is_the_version_s_own() -> None:
    """What its spec puts up with; an older version, which has none, has the usual one."""
    old = PrecisionCheck.model_validate({"accuracy": 0.896, "images": 1000, "agreement": 0.97, "max_difference": 0.3})
    assert old.bound == 0.001
    assert not old.harmless(0.9)
    assert old.model_copy(update={"bound": 0.005}).harmless(0.9)
    assert not old.model_copy(update={"bound": 0.0025}).harmless(0.9)


def test_golden_examples_may_differ_by_what_a_precision_takes() -> None:
    """Or by the version's own tolerance where that is larger."""
    golden = Golden(images=["0.png"])
    assert [golden.allowed("f32"), golden.allowed("bf16"), golden.allowed("int8")] == [1e-4, 0.05, 0.2]
    assert golden.model_copy(update={"tolerance": 0.1}).allowed("bf16") == 0.1
