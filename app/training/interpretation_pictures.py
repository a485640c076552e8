"""Pictures of what `interpretation` finds, as PNG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from app.preprocessing import UInt8Array
from app.training.interpretation import Heat, Maps
from app.training.pictures import as_png, enlarged, image_of

# The longer side of a picture, in pixels: small ones are enlarged by whole factors, each pixel staying a square.
_SIDE, _LARGEST = 320, 448
# How much of the picture the heat covers at most, and from which heat on; what part of the colour map is used, from
# green to red: its ends are too dark to see the picture through.
_OPAQUE, _COVERED = 0.58, 0.7
_COLDEST, _HOTTEST = 0.3, 0.92
_GRAY = (0.299, 0.587, 0.114)
# Of a grid: the side of a cell, the gap, and the height of the line over a cell. In pixels.
_CELL, _GAP, _LINE = 84, 8, 14
_HEAD = 26
_MARGIN = 12
_MOST_MAPS = 256
_DARK, _PALE = "#222222", "#666666"
# Level of a map whose values are all the same.
_FLAT = 225


def overlay(image: UInt8Array, heat: Heat) -> bytes:
    """The heat over the image [height, width, channels] that the network saw, at most 448 pixels a side.

    Red speaks most for the class; where nothing does, the picture is as it is, but paler, so that colours are heat.
    """
    picture = enlarged(image, _SIDE, _LARGEST).convert("RGB")
    values = Image.fromarray(heat.values).resize(picture.size, Image.Resampling.BICUBIC)
    hot = np.clip(np.asarray(values, np.float32), 0, 1)
    colors = mpl.colormaps["turbo"](_COLDEST + (_HOTTEST - _COLDEST) * hot)[..., :3] * 255
    covered = np.minimum(1, hot / _COVERED)[..., np.newaxis]
    pixels = np.asarray(picture, np.float32)
    pixels = 0.35 * pixels + 0.65 * (pixels @ np.array(_GRAY, np.float32))[..., np.newaxis]
    # Less contrast under the heat: on black it would not be seen.
    pixels += 0.35 * covered * (128 - pixels)
    return as_png(Image.fromarray(np.rint(pixels + _OPAQUE * covered * (colors - pixels)).astype(np.uint8)))


def activation_grid(image: UInt8Array, maps: Maps) -> bytes:
    """The maps of a layer, each on its own scale from its least to its largest value; of many the strongest."""
    height, width, channels = maps.values.shape
    strength = maps.values.max(axis=(0, 1)) - maps.values.min(axis=(0, 1))
    shown = np.sort(np.argsort(-strength, kind="stable")[:_MOST_MAPS])
    cells, notes = [], []
    for channel in shown:
        values = maps.values[..., channel]
        low, high = float(values.min()), float(values.max())
        if high > low:
            colors = mpl.colormaps["viridis"]((values - low) / (high - low), bytes=True)[..., :3]
            notes.append((str(channel), f"{_short(low)}…{_short(high)}"))
        else:
            colors = np.full((height, width, 3), _FLAT, np.uint8)
            notes.append((str(channel), _short(low)))
        cells.append(_fitted(colors))
    title = f"{maps.layer}: {channels} maps of {width} × {height}"
    if len(shown) < channels:
        title += f", the {len(shown)} that vary most"
    remark = "Each from its least value (dark) to its largest (yellow); grey where it is one throughout."
    return _grid(title, remark, cells, notes, enlarged(image, _CELL, _CELL))


def filter_grid(layer: str, filters: UInt8Array) -> bytes:
    """Filters [filters, height, width, 1 or 3] as `interpretation.filters` gives them."""
    count, height, width, channels = filters.shape
    cells = [_fitted(filter_) for filter_ in filters]
    title = f"{layer}: {count} filters of {width} × {height}{', in colour' if channels == 3 else ''}"
    return _grid(title, "Middle grey is 0; each on its own scale.", cells, [(str(at), "") for at in range(count)], None)


def _grid(
    title: str, remark: str, cells: Sequence[Image.Image], notes: Sequence[tuple[str, str]], image: Image.Image | None
) -> bytes:
    """Cells of one size under a title, a line of notes over each."""
    wide, tall = cells[0].width + _GAP, cells[0].height + _LINE + _GAP
    head = max(2 * _HEAD, image.height + _GAP if image else 0) + _GAP
    small, font, large = _font(9), _font(10), _font(15)
    indent = _MARGIN + (image.width + _MARGIN if image else 0)
    least = math.ceil(indent + max(large.getlength(title), font.getlength(remark))) + _MARGIN
    # A little wider than tall, as screens are; and at least as wide as what stands above.
    columns = max(math.ceil(math.sqrt(len(cells) * 1.6 * tall / wide)), math.ceil((least - 2 * _MARGIN) / wide))
    rows = math.ceil(len(cells) / columns)
    columns = min(columns, len(cells)) if rows == 1 else columns
    size = (max(2 * _MARGIN + columns * wide - _GAP, least), 2 * _MARGIN + head + rows * tall - _GAP)
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    if image is not None:
        sheet.paste(image, (_MARGIN, _MARGIN))
    draw.text((indent, _MARGIN), title, _DARK, large)
    draw.text((indent, _MARGIN + _HEAD), remark, _PALE, font)
    for at, (cell, (left, right)) in enumerate(zip(cells, notes, strict=True)):
        x = _MARGIN + at % columns * wide
        y = _MARGIN + head + at // columns * tall
        draw.text((x, y), left, _DARK, font)
        draw.text((x + cell.width, y + 1), right, _PALE, small, anchor="ra")
        sheet.paste(cell, (x, y + _LINE))
    return as_png(sheet)


def _fitted(pixels: UInt8Array) -> Image.Image:
    """In the size of a cell, which the longer side fills."""
    picture = image_of(pixels)
    factor = _CELL / max(picture.size)
    size = (max(1, round(picture.width * factor)), max(1, round(picture.height * factor)))
    resample = Image.Resampling.NEAREST if factor >= 1 else Image.Resampling.BOX
    return picture.resize(size, resample).convert("RGB")


def _font(size: int) -> ImageFont.FreeTypeFont:
    # Pillow's own has few signs beyond ASCII, and names of layers may have any.
    return ImageFont.truetype(str(Path(mpl.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")), size)


def _short(value: float) -> str:
    return f"{value:.2g}" if abs(value) < 100 else f"{value:.0f}"
