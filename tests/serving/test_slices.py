"""How many images are answered at a time on the event loop."""

from __future__ import annotations

from app.serving.slices import Slices


def test_a_slice_takes_about_as_long_as_it_may() -> None:
    """As many images as fit by what one is expected to take, in a power of two, and never more than allowed."""
    for expected, images in ((0.0001, 16), (0.0003, 8), (0.0004, 4), (0.0011, 2), (0.002, 1), (1.0, 1), (0.0, 32)):
        assert Slices(0.0025, expected=expected, most=32).images == images, expected
    assert Slices(0.0025, expected=0.0001, most=12).images == 8


def test_a_slice_follows_what_images_take() -> None:
    """Twice as many or half as many at a time, until they fit."""
    slices = Slices(0.002, expected=0.001, most=32)
    sizes = []
    for _ in range(5):
        sizes.append(slices.images)
        slices.took(slices.images, slices.images * 0.0001)
    assert sizes == [2, 4, 8, 16, 16]
    slices.took(16, 0.5)
    assert slices.images == 8
    for _ in range(5):
        slices.took(slices.images, slices.images * 0.01)
    assert slices.images == 1


def test_a_slice_that_is_not_full_says_nothing() -> None:
    """A lone image costs more than one among others."""
    slices = Slices(0.002, expected=0.0002, most=32)
    assert slices.images == 8
    slices.took(1, 0.001)
    assert slices.images == 8
