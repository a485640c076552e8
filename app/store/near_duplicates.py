"""Pictures that look the same though their bytes differ: re-encoded, resized, a little brighter.

A perceptual hash finds candidates, a comparison of small thumbnails decides. Neither sees mirrored, turned or
cropped copies.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from app.preprocessing import UInt8Array

SIDE = 32
"""Rows and columns of the pictures that are looked at."""
THUMB_SHAPE = (16, 16, 3)
"""Shape of what is kept of each for the comparison."""

_UInt64s = npt.NDArray[np.uint64]
_Positions = npt.NDArray[np.int64]

# Pictures with less contrast than this in each channel (standard deviation, in levels) look like any other flat one.
_FLAT = 4.0
# Hashes of look-alikes differ in at most six of 64 bits. They are found by one of five bands of bits being equal, which
# is certain up to four. Changes of the kind above make two, where the picture is not tiny.
_MOST_BITS = 6
_BANDS = ((0, 13), (13, 13), (26, 13), (39, 13), (52, 12))
# Look-alikes: thumbnails, less the mean of each channel, correlate this much, and these means are about the same.
# CIFAR-10 at 0.98 has pairs in which a person finds no difference; different handwritten digits rarely reach it.
_LEAST_CORRELATION = 0.98
_MOST_BRIGHTER = 32.0
# Bounds on the work for sets in which every picture has nearly the same hash.
_FULL_BUCKET = 1000
_WINDOW = 16
_PAIRS_PER_IMAGE = 16
_LEAST_PAIRS = 200_000
_BATCH = 4096


@dataclass(frozen=True, slots=True)
class Look:
    """What a picture looks like. `hash`: 64 bits, None for one that is flat. `thumb`: the bytes of `THUMB_SHAPE`."""

    hash: int | None
    thumb: bytes


@dataclass(frozen=True)
class LookAlikes:
    """Groups of positions, each ascending and of at least two, in order of their first.

    `complete`: whether all candidates could be compared; false for huge sets of very similar pictures.
    """

    groups: list[list[int]]
    complete: bool


def look_at(pixels: UInt8Array) -> Look:
    """The look of a picture, uint8 [32, 32, 3] (RGB).

    The hash is that of C. Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions" (2010): the
    lowest frequencies of the luma's cosine transform, each a bit that says whether it is above their median.
    """
    if pixels.shape != (SIDE, SIDE, 3) or pixels.dtype != np.uint8:
        raise ValueError(f"expected uint8 [{SIDE}, {SIDE}, 3], got {pixels.dtype} {list(pixels.shape)}")
    thumb = pixels.reshape(16, 2, 16, 2, 3).mean(axis=(1, 3), dtype=np.float32)
    encoded = np.rint(thumb).astype(np.uint8).tobytes()
    if thumb.std(axis=(0, 1)).max() < _FLAT:
        return Look(None, encoded)
    luma = pixels.astype(np.float32) @ _LUMA
    lowest = (_COSINES @ luma @ _COSINES.T)[_LOWEST]
    bits = lowest > np.median(lowest)
    return Look(int.from_bytes(np.packbits(bits).tobytes(), "big"), encoded)


def find_look_alikes(
    hashes: Sequence[int | None], thumbs: Callable[[Sequence[int]], UInt8Array], same: Sequence[Sequence[int]]
) -> LookAlikes:
    """Group pictures that look the same; what looks like one of a group belongs to it.

    Args:
        hashes: of n pictures.
        thumbs: gives those at k positions, uint8 [k, 16, 16, 3]; asked for some thousand at a time.
        same: groups of positions that are known to be the same (copies of one file); only their first ones are
            compared with others.
    """
    parents = _Forest(len(hashes))
    repeated = set()
    for first, *others in same:
        repeated.update(others)
        for other in others:
            parents.join(first, other)
    rows = np.array([row for row, value in enumerate(hashes) if value is not None and row not in repeated], np.int64)
    values = np.array([hashes[row] for row in rows.tolist()], np.uint64)
    budget = max(_LEAST_PAIRS, _PAIRS_PER_IMAGE * len(rows))
    complete = True
    for lower, upper, whole in _candidates(values):
        complete = complete and whole
        for start in range(0, len(lower), _BATCH):
            part = slice(start, start + _BATCH)
            pairs = zip(rows[lower[part]].tolist(), rows[upper[part]].tolist(), strict=True)
            # What was joined already needs no second look.
            batch = [(a, b) for a, b in pairs if parents.root(a) != parents.root(b)]
            budget -= len(batch)
            if budget < 0:
                return LookAlikes(parents.groups(), complete=False)
            for (a, b), alike in zip(batch, _alike(thumbs, batch), strict=True):
                if alike:
                    parents.join(a, b)
    return LookAlikes(parents.groups(), complete)


def _candidates(values: _UInt64s) -> Iterator[tuple[_Positions, _Positions, bool]]:
    """Pairs of positions whose hashes differ in few bits, bucket by bucket; and whether those were all of a bucket."""
    for offset, width in _BANDS:
        keys = (values >> np.uint64(offset)) & np.uint64(2**width - 1)
        # Within a bucket by the whole hash, so that the most similar ones are neighbours.
        order = np.lexsort((values, keys))
        borders = np.flatnonzero(np.diff(keys[order])) + 1
        for bucket in np.split(order, borders):
            if len(bucket) < 2:
                continue
            if len(bucket) <= _FULL_BUCKET:
                yield *_close(bucket, values, *np.triu_indices(len(bucket), 1)), True
                continue
            for distance in range(1, _WINDOW + 1):
                lower = np.arange(len(bucket) - distance)
                yield *_close(bucket, values, lower, lower + distance), False


def _close(
    bucket: _Positions, values: _UInt64s, lower: npt.NDArray[np.intp], upper: npt.NDArray[np.intp]
) -> tuple[_Positions, _Positions]:
    first, second = bucket[lower], bucket[upper]
    close = np.bitwise_count(values[first] ^ values[second]) <= _MOST_BITS
    return first[close], second[close]


def _alike(thumbs: Callable[[Sequence[int]], UInt8Array], pairs: Sequence[tuple[int, int]]) -> npt.NDArray[np.bool_]:
    """Whether the thumbnails of each pair show the same, give or take contrast and brightness."""
    if not pairs:
        return np.zeros(0, np.bool_)
    first, second = (thumbs(side).reshape(len(pairs), -1, 3).astype(np.float32) for side in zip(*pairs, strict=True))
    brightness = first.mean(axis=1, keepdims=True), second.mean(axis=1, keepdims=True)
    first -= brightness[0]
    second -= brightness[1]
    # Flat pictures never come here: no norm is zero.
    norms = np.sqrt(np.einsum("ijk,ijk->i", first, first) * np.einsum("ijk,ijk->i", second, second))
    correlation = np.einsum("ijk,ijk->i", first, second) / norms
    nearly_as_bright = np.abs(brightness[0] - brightness[1]).max(axis=(1, 2)) <= _MOST_BRIGHTER
    alike: npt.NDArray[np.bool_] = (correlation >= _LEAST_CORRELATION) & nearly_as_bright
    return alike


class _Forest:
    """Disjoint sets of positions; the root of each is its smallest."""

    def __init__(self, size: int) -> None:
        self._parents = list(range(size))

    def root(self, position: int) -> int:
        parents = self._parents
        while parents[position] != position:
            parents[position] = parents[parents[position]]
            position = parents[position]
        return position

    def join(self, one: int, other: int) -> None:
        low, high = sorted((self.root(one), self.root(other)))
        self._parents[high] = low

    def groups(self) -> list[list[int]]:
        groups: dict[int, list[int]] = {}
        for position in range(len(self._parents)):
            groups.setdefault(self.root(position), []).append(position)
        return [group for group in groups.values() if len(group) > 1]


# ITU-R 601, as Pillow's own conversion.
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)


def _cosines(rows: int) -> npt.NDArray[np.float32]:
    """The first rows of the orthonormal DCT-II of `SIDE` values."""
    frequency, position = np.mgrid[:rows, :SIDE]
    matrix = np.cos(np.pi * (2 * position + 1) * frequency / (2 * SIDE)) * np.sqrt(2 / SIDE)
    matrix[0] /= np.sqrt(2)
    cosines: npt.NDArray[np.float32] = matrix.astype(np.float32)
    return cosines


def _lowest(rows: int, count: int) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Row and column of the `count` lowest frequencies of [rows, rows], without the mean, the lowest first."""
    down, across = np.mgrid[:rows, :rows]
    order = np.lexsort((down.ravel(), (down + across).ravel()))[1 : count + 1]
    return order // rows, order % rows


_COSINES = _cosines(11)
_LOWEST = _lowest(11, 64)
