"""Drawings of a report's page as inline SVG: sharp on paper and small on a telephone, without a script."""

from __future__ import annotations

import base64
import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from html import escape
from typing import Any, Literal

import numpy as np
from PIL import Image

from app.training.pictures import as_png
from app.training.wording import counted

_INK, _GREY, _GRID = "#1f2937", "#6b7280", "#e5e7eb"
_BLUE, _ORANGE = "#1d4ed8", "#c2410c"

# A line through more points than this looks the same.
_MOST_POINTS = 400

# Beyond so many classes a matrix has no room for numbers, and becomes a picture.
MOST_CELLS = 30

_LONGEST_LABEL = 16


def curve(name: str, training: list[float], validation: list[float], chosen: int, *, percent: bool) -> str:
    """A figure over the epochs, from 1, on training and validation data, with the chosen epoch marked."""
    width, height, left, right, top, bottom = 520, 300, 52, 16, 34, 42
    ticks = _ticks(min([*training, *validation]), max([*training, *validation]), percent=percent)
    low, high = ticks[0], ticks[-1]
    epochs = len(training)

    def x(epoch: float) -> float:
        share = (epoch - 1) / (epochs - 1) if epochs > 1 else 0.5
        return left + share * (width - left - right)

    def y(value: float) -> float:
        return height - bottom - (value - low) / (high - low) * (height - top - bottom)

    def shown(value: float) -> str:
        return f"{100 * value:g}%" if percent else f"{value:g}"

    parts = [_grid(left, width - right, [(y(tick), shown(tick)) for tick in ticks])]
    # Not so near to the first and the last that they would run into each other.
    room = 0.06 * (epochs - 1)
    marks = sorted({1, epochs, *(round(tick) for tick in _ticks(1, epochs) if 1 + room < tick < epochs - room)})
    parts += [_text(x(epoch), height - bottom + 18, str(epoch), anchor="middle") for epoch in marks]
    parts.append(_text((left + width - right) / 2, height - 8, "Epoch", anchor="middle"))
    parts.append(
        f'<line x1="{x(chosen):.1f}" x2="{x(chosen):.1f}" y1="{top}" y2="{height - bottom}" stroke="{_INK}" '
        'stroke-dasharray="4 3"/>'
    )
    for values, color in ((training, _BLUE), (validation, _ORANGE)):
        points = _thinned([(x(epoch), y(value)) for epoch, value in enumerate(values, 1)])
        parts.append(_line(points, color))
        if epochs < 3:
            parts += [_dot(*point, 3, color) for point in points]
    parts.append(_dot(x(chosen), y(validation[chosen - 1]), 5, _ORANGE))
    value = f"{validation[chosen - 1]:.2%}" if percent else f"{validation[chosen - 1]:.4f}"
    legend = [("Training", _BLUE), ("Validation", _ORANGE)]
    parts.append(_legend(left, 14, legend))
    parts.append(_text(width - right, 18, f"chosen: epoch {chosen}, {value}", anchor="end", color=_INK))
    return _svg(
        width, height, f"{name} over {counted(epochs, 'epoch')}, {value} on validation at the chosen one", parts
    )


@dataclass(frozen=True)
class Curve:
    """A line of `curves`: its name, and its value after each epoch from 1."""

    name: str
    values: list[float]
    kind: Literal["best", "whole", "broken off"]


def curves(name: str, lines: list[Curve], *, percent: bool) -> str:
    """A figure over the epochs, for many runs: the best one in front, those that were broken off behind."""
    width, height, left, right, top, bottom = 520, 300, 52, 16, 34, 42
    values = [value for line in lines for value in line.values]
    # A run that diverged would press all others flat.
    most = max(values) if percent else min(max(values), 3 * statistics.median(values))
    ticks = _ticks(min(values), most, percent=percent)
    low, high = ticks[0], ticks[-1]
    epochs = max(len(line.values) for line in lines)

    def x(epoch: float) -> float:
        return left + ((epoch - 1) / (epochs - 1) if epochs > 1 else 0.5) * (width - left - right)

    def y(value: float) -> float:
        return height - bottom - (min(value, high) - low) / (high - low) * (height - top - bottom)

    parts = [_grid(left, width - right, [(y(tick), f"{100 * tick:g}%" if percent else f"{tick:g}") for tick in ticks])]
    room = 0.06 * (epochs - 1)
    marks = sorted({1, epochs, *(round(tick) for tick in _ticks(1, epochs) if 1 + room < tick < epochs - room)})
    parts += [_text(x(epoch), height - bottom + 18, str(epoch), anchor="middle") for epoch in marks]
    parts.append(_text((left + width - right) / 2, height - 8, "Epoch", anchor="middle"))
    for line in sorted(lines, key=lambda line: ("broken off", "whole", "best").index(line.kind)):
        color, opacity = {"best": (_ORANGE, 1.0), "whole": (_BLUE, 0.45), "broken off": (_GREY, 0.5)}[line.kind]
        points = _thinned([(x(epoch), y(value)) for epoch, value in enumerate(line.values, 1)])
        shown = f"{line.values[-1]:.2%}" if percent else f"{line.values[-1]:.4f}"
        parts.append(
            f'<g stroke-opacity="{opacity}"><title>{escape(line.name)}: {shown}</title>{_line(points, color)}'
            # Where a line ends that others go on from.
            f"{_dot(*points[-1], 4 if line.kind == 'best' else 2.5, color)}</g>"
        )
    named = {"best": "Best", "whole": "Others", "broken off": "Broken off"}
    colors = {"best": _ORANGE, "whole": _BLUE, "broken off": _GREY}
    parts.append(
        _legend(left, 14, [(named[kind], colors[kind]) for kind in named if kind in {line.kind for line in lines}])
    )
    return _svg(width, height, f"{name} over the epochs of {counted(len(lines), 'trial')}", parts)


def shares(parts_of: dict[str, float]) -> str:
    """Shares of a whole as bars, each with its name."""
    row, left, right = 26, 12 + round(6.6 * max(map(len, parts_of))), 52
    width, height = max(420, left + right + 160), row * len(parts_of) + 8
    drawn = []
    for number, (name, share) in enumerate(parts_of.items()):
        y, long = 4 + row * number, share * (width - left - right)
        drawn.append(_text(left - 8, y + row / 2 + 4, name, anchor="end", color=_INK))
        drawn.append(
            f'<rect x="{left}" y="{y + 5}" width="{max(long, 1):.1f}" height="{row - 10}" fill="{_BLUE}" '
            'fill-opacity="0.75"/>'
        )
        drawn.append(_text(left + max(long, 1) + 8, y + row / 2 + 4, f"{share:.0%}"))
    said = ", ".join(f"{name} {share:.0%}" for name, share in parts_of.items())
    return _svg(width, height, f"Importances: {said}", drawn)


def standalone(svg: str) -> str:
    """An inline drawing as a file of its own."""
    return svg.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" font-family="sans-serif" font-size="12" ', 1)


def reliability(bins: list[dict[str, Any]], before: list[dict[str, Any]]) -> str:
    """Accuracy over confidence, before and after calibration, and beneath how many images each confidence has."""
    width, height, left, right, top, bottom = 520, 400, 52, 16, 34, 116
    strip = 46

    def x(share: float) -> float:
        return left + share * (width - left - right)

    def y(share: float) -> float:
        return height - bottom - share * (height - top - bottom)

    marks = [0, 0.2, 0.4, 0.6, 0.8, 1.0]
    parts = [_grid(left, width - right, [(y(mark), f"{mark:.0%}") for mark in marks])]
    parts.append(
        f'<line x1="{x(0):.1f}" y1="{y(0):.1f}" x2="{x(1):.1f}" y2="{y(1):.1f}" stroke="{_GREY}" '
        'stroke-dasharray="5 4"/>'
    )
    images = sum(bin_["images"] for bin_ in bins)
    for diagram, color in ((before, _ORANGE), (bins, _BLUE)):
        points = [(x(bin_["confidence"]), y(bin_["accuracy"])) for bin_ in diagram]
        if diagram is bins:
            parts += [
                f'<line x1="{across:.1f}" x2="{across:.1f}" y1="{y(bin_["interval"][0]):.1f}" '
                f'y2="{y(bin_["interval"][1]):.1f}" stroke="{color}" stroke-opacity="0.3" stroke-width="3"/>'
                for (across, _), bin_ in zip(points, diagram, strict=True)
            ]
        parts.append(_line(points, color))
        parts += [
            _dot(*point, 2.5 + 7 * math.sqrt(bin_["images"] / images), color, f"{_of(bin_)}")
            for point, bin_ in zip(points, diagram, strict=True)
        ]
    base = height - 40
    most = max(bin_["images"] for bin_ in bins)
    for bin_ in bins:
        tall, start, end = strip * bin_["images"] / most, x(bin_["low"]), x(bin_["high"])
        parts.append(
            f'<rect x="{start + 1:.1f}" y="{base - tall:.1f}" width="{end - start - 2:.1f}" '
            f'height="{tall:.1f}" fill="{_BLUE}" fill-opacity="0.35"><title>{_of(bin_)}</title></rect>'
        )
    parts.append(f'<line x1="{left}" x2="{width - right}" y1="{base}" y2="{base}" stroke="{_GREY}"/>')
    parts += [_text(x(mark), base + 16, f"{mark:.0%}", anchor="middle") for mark in marks[:-1]]
    parts.append(_text(x(1), base + 16, "100%", anchor="end"))
    parts.append(_text((left + width - right) / 2, height - 6, "Highest probability", anchor="middle"))
    parts.append(_text(left - 8, base - strip + 10, "images", anchor="end"))
    parts.append(_legend(left, 14, [("Calibrated", _BLUE), ("Before", _ORANGE)]))
    parts.append(_text(width - right, 18, "share that is right; bars: 95% intervals", anchor="end"))
    return _svg(width, height, "Share of right answers over the highest probability", parts)


def interval(value: float, ends: list[float], *, low: float) -> str:
    """A share with its interval, as a dot on a bar, on a scale from `low` to 1."""
    width, height = 120, 14

    def x(share: float) -> float:
        return 4 + (max(share, low) - low) / (1 - low) * (width - 8)

    middle = height / 2
    parts = [
        f'<line x1="4" x2="{width - 4}" y1="{middle}" y2="{middle}" stroke="{_GRID}" stroke-width="2"/>',
        f'<line x1="{x(ends[0]):.1f}" x2="{x(ends[1]):.1f}" y1="{middle}" y2="{middle}" stroke="{_BLUE}" '
        f'stroke-width="{height * 0.36:.1f}" stroke-opacity="0.35"/>',
        _dot(x(value), middle, height * 0.28, _BLUE),
    ]
    return _svg(width, height, f"{value:.1%}, between {ends[0]:.1%} and {ends[1]:.1%}", parts, css="bar")


def matrix(counts: list[list[int]], labels: list[str]) -> str:
    """Counts of true classes (rows) against answers (columns): right ones blue, mistakes orange."""
    if len(labels) > MOST_CELLS:
        return _matrix_picture(counts)
    count = len(labels)
    cell = 40 if count <= 12 else 30
    names = [label if len(label) <= _LONGEST_LABEL else f"{label[: _LONGEST_LABEL - 1]}…" for label in labels]
    longest = max(map(len, names))
    left, top = 44 + round(7.2 * longest), 34 + round(5.2 * longest)
    width, height = left + count * cell + 8 + round(3 * longest), top + count * cell + 8
    parts = [
        _text(left, 12, "answered as →", color=_GREY),
        f'<text transform="translate(12 {top + 4}) rotate(90)" fill="{_GREY}">true class →</text>',
    ]
    for number, name in enumerate(names):
        across, down = left + (number + 0.5) * cell, top + (number + 0.5) * cell
        parts.append(_text(left - 8, down + 4, name, anchor="end", color=_INK))
        parts.append(
            f'<text transform="translate({across:.0f} {top - 8}) rotate(-45)" fill="{_INK}">{escape(name)}</text>'
        )
    for row, values in enumerate(counts):
        total = max(1, sum(values))
        for column, images in enumerate(values):
            fill, ink = _shade(images / total, right=row == column)
            across, down = left + column * cell, top + row * cell
            title = f"{labels[row]} answered as {labels[column]}: {images:,} of {total:,} ({images / total:.1%})"
            parts.append(
                f'<rect x="{across}" y="{down}" width="{cell - 1}" height="{cell - 1}" fill="{fill}">'
                f"<title>{escape(title)}</title></rect>"
            )
            if images:
                size = 12 if images < 1000 else 10
                parts.append(
                    f'<text x="{across + (cell - 1) / 2}" y="{down + cell / 2 + 4}" text-anchor="middle" '
                    f'font-size="{size}" fill="{ink}">{images}</text>'
                )
    drawn = _svg(width, height, "Confusion matrix", parts, css="matrix")
    # Cells keep a size that can be read; what is wider than the page is scrolled.
    return drawn.replace("<svg ", f'<svg style="min-width:{round(width * 0.72)}px;max-width:{width}px" ', 1)


def _matrix_picture(counts: list[list[int]]) -> str:
    """The matrix as a picture with a pixel a cell: with many classes most cells are empty."""
    values = np.array(counts, np.float64)
    shares = values / np.maximum(values.sum(axis=1, keepdims=True), 1)
    pixels = np.full((*shares.shape, 3), 255, np.uint8)
    for row, column in np.argwhere(values > 0):
        fill, _ = _shade(float(shares[row, column]), right=bool(row == column))
        pixels[row, column] = [int(fill[start : start + 2], 16) for start in (1, 3, 5)]
    source = png(as_png(Image.fromarray(pixels), optimize=True))
    return f'<img class="matrix pixels" alt="Confusion matrix, a pixel a cell" src="{source}">'


def png(content: bytes) -> str:
    """A PNG file as a data URL."""
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"


def _shade(share: float, *, right: bool) -> tuple[str, str]:
    """Colours of a cell and of its number. Mistakes are few: their scale is stretched so that they can be seen."""
    if share == 0:
        return "#f8fafc", _INK
    strength = share if right else min(1.0, 0.12 + 0.88 * math.sqrt(share))
    full = (29, 78, 216) if right else (194, 65, 12)
    mixed = [round(255 + (channel - 255) * (0.08 + 0.87 * strength)) for channel in full]
    return "#{:02x}{:02x}{:02x}".format(*mixed), "#ffffff" if strength > 0.55 else _INK


def _ticks(low: float, high: float, *, percent: bool = False) -> list[float]:
    """Round numbers, about five, that enclose both ends."""
    spread = max(high - low, 0.02 if percent else 1e-6)
    raw = spread / 4
    power = 10 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw - 1e-12)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    if first == last:
        first, last = (first - 1 if percent else first), last + 1
    ticks = [round(number * step, 10) for number in range(first, last + 1)]
    return [tick for tick in ticks if not percent or 0 <= tick <= 1]


def _thinned(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    step = math.ceil(len(points) / _MOST_POINTS)
    return points if step == 1 else [*points[:-1:step], points[-1]]


def _grid(left: float, right: float, lines: Iterable[tuple[float, str]]) -> str:
    return "".join(
        f'<line x1="{left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}" stroke="{_GRID}"/>'
        + _text(left - 8, y + 4, label, anchor="end")
        for y, label in lines
    )


def _legend(left: float, y: float, entries: list[tuple[str, str]]) -> str:
    parts = []
    for name, color in entries:
        parts.append(
            f'<line x1="{left}" x2="{left + 18}" y1="{y}" y2="{y}" stroke="{color}" stroke-width="3"/>'
            + _text(left + 24, y + 4, name, color=_INK)
        )
        left += 36 + 7 * len(name)
    return "".join(parts)


def _line(points: list[tuple[float, float]], color: str) -> str:
    joined = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline points="{joined}" fill="none" stroke="{color}" stroke-width="2" stroke-linejoin="round"/>'


def _dot(x: float, y: float, radius: float, color: str, title: str = "") -> str:
    inside = f"<title>{escape(title)}</title>" if title else ""
    return (
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}" fill="{color}" fill-opacity="0.85" stroke="#ffffff">'
        f"{inside}</circle>"
    )


def _text(x: float, y: float, text: str, *, anchor: str = "start", color: str = _GREY) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{color}">{escape(text)}</text>'


def _of(bin_: dict[str, Any]) -> str:
    return f"{counted(bin_['images'], 'image')}: {bin_['confidence']:.1%} sure, {bin_['accuracy']:.1%} right"


def _svg(width: float, height: float, label: str, parts: Iterable[str], css: str = "chart") -> str:
    return (
        f'<svg class="{css}" viewBox="0 0 {width} {height}" role="img" aria-label="{escape(label)}">'
        f"{''.join(parts)}</svg>"
    )
