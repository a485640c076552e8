"""The size of the images that a network is given, and which networks it is too small for."""

from __future__ import annotations

from app.jobs.networks import Architecture, Pretrained, SimpleCNN
from app.jobs.spec import PreprocessingSpec

# Sides that are chosen between, in pixels: no smaller than what two poolings can work with, no larger than what trains
# in reasonable time on processors. Medians in between stay what they are, and those above the second become the third.
_SMALLEST, _SMALL, _LARGE = 28, 64, 96

# The networks of `keras.applications` halve an image five times.
_LEAST_SIDE = 32


def choose_size(chosen: PreprocessingSpec, *, width: float, height: float) -> tuple[int, int]:
    """Height and width of the input; what `chosen` leaves open follows from the median `width` and `height`."""
    input_width = chosen.width or _default_side(width)
    input_height = chosen.height or _default_side(height)
    if chosen.width is None and chosen.height is None and max(input_width, input_height) >= _SMALL:
        input_width = input_height = max(input_width, input_height)
    return input_height, input_width


def too_small(architecture: Architecture, *, height: int, width: int) -> str | None:
    """Why images of `height` rows and `width` columns do not do for a network, and what is allowed; None: they do."""
    least = min(height, width)
    if isinstance(architecture, Pretrained):
        if least >= _LEAST_SIDE:
            return None
        return (
            f"{architecture.name} needs images of at least {_LEAST_SIDE} x {_LEAST_SIDE} pixels, these are "
            f"{width} x {height}: set preprocessing.height and preprocessing.width."
        )
    pool = architecture.pool_size if isinstance(architecture, SimpleCNN) else 2
    stages, room = len(architecture.filters), 0
    while least >= pool:
        least, room = least // pool, room + 1
    if stages <= room:
        return None
    ways = "use fewer stages, a smaller pool_size" if pool > 2 else "use fewer stages"
    return (
        f"architecture.filters asks for {stages} stages, each of which pools squares of {pool} x {pool} pixels: images "
        f"of {width} x {height} have room for {room}. Either {ways} or larger images (preprocessing.height and "
        "preprocessing.width)."
    )


def _default_side(median: float) -> int:
    side = round(median)
    return max(_SMALLEST, side) if side <= _SMALL else _LARGE
