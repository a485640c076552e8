"""Which pictures look the same."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import pytest
from PIL import Image, ImageDraw

from app.jobs.spec import Shapes
from app.preprocessing import Preprocessing, UInt8Array, to_array
from app.store import near_duplicates
from app.store.near_duplicates import SIDE, THUMB_SHAPE, Look, LookAlikes, find_look_alikes, look_at
from app.training import builtin
from tests.store.archives import encoded, photo, twins

_SPEC = Preprocessing(height=SIDE, width=SIDE)


def look(data: bytes) -> Look:
    return look_at(to_array(data, _SPEC))


def find(looks: Sequence[Look], same: Sequence[Sequence[int]] = ()) -> LookAlikes:
    thumbs = np.array([np.frombuffer(one.thumb, np.uint8).reshape(THUMB_SHAPE) for one in looks])
    return find_look_alikes([one.hash for one in looks], lambda chosen: thumbs[list(chosen)], same)


def test_copies_that_were_changed_on_the_way_are_found() -> None:
    """Re-encoded, resized and brightened pictures are one group each, among two hundred others."""
    looks = [look(encoded(photo(seed))) for seed in range(100, 300)]
    expected = []
    for seed in range(20):
        copies = [look(data) for data in twins(photo(seed)).values()]
        expected.append(list(range(len(looks), len(looks) + len(copies))))
        looks += copies
    assert find(looks) == LookAlikes(expected, complete=True)


def test_the_same_drawing_in_another_colour_is_another_picture() -> None:
    """What only colour tells apart is not the same: a class may be told by it."""
    drawings = []
    for colour in ("red", "blue", "lime"):
        image = Image.new("RGB", (64, 64), "white")
        ImageDraw.Draw(image).ellipse((10, 16, 50, 60), fill=colour)
        drawings.append(look(encoded(image)))
    assert find(drawings).groups == []


def test_flat_pictures_look_like_no_other() -> None:
    """Thousands of blank pictures are not one group, unless they are copies of one file; nor do they take long."""
    blank = [look(encoded(Image.new("RGB", (20, 20), (shade, 0, 0)))) for shade in range(40)]
    assert all(one.hash is None for one in blank)
    assert find(blank).groups == []
    many = [blank[0]] * 10_000
    assert find(many).groups == []
    assert find(many, same=[range(10_000)]).groups == [list(range(10_000))]


def test_drawn_lines_and_digits_do_not_collapse_into_a_few_groups() -> None:
    """Small simple images are alike in many ways; different ones are told apart all the same."""
    lines = {data: label for _, label, data in builtin.shapes(Shapes(images=300, noise=0.2), seed=0)}
    assert find([look(data) for data in lines]).groups == []
    digits = [data for _, _, data in builtin.digits()]
    found = find([look(data) for data in digits])
    assert sum(map(len, found.groups)) < 0.05 * len(digits)


def test_a_chain_of_look_alikes_is_one_group() -> None:
    """Frames of a film: each looks like the next, and none may be tested on while its neighbour trains."""
    first, last = (np.asarray(photo(seed), np.float32) for seed in (1, 2))
    frames = [first + (last - first) * step / 40 for step in range(41)]
    looks = [look(encoded(Image.fromarray(np.rint(frame).astype(np.uint8)))) for frame in frames]
    assert find(looks).groups == [list(range(41))]
    assert find([looks[0], looks[-1]]).groups == []


def test_copies_of_a_file_bring_their_look_alikes_together() -> None:
    """Positions that are known to be the same are one group with whatever looks like the first of them."""
    one, other = photo(1), photo(2)
    looks = [look(encoded(one)), look(encoded(other)), look(encoded(one)), look(encoded(one, "JPEG", quality=70))]
    assert find(looks, same=[[0, 2]]).groups == [[0, 2, 3]]


def test_a_huge_set_of_similar_pictures_is_compared_in_part_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """The work is bounded however the pictures are chosen; that not all were compared is known."""
    base = np.asarray(photo(3, size=(SIDE, SIDE)))
    noise = np.random.default_rng(0).integers(-3, 4, (300, *base.shape))
    looks = [look_at(np.clip(base + change, 0, 255).astype(np.uint8)) for change in noise]
    assert find(looks) == LookAlikes([list(range(300))], complete=True)
    monkeypatch.setattr(near_duplicates, "_FULL_BUCKET", 10)
    in_part = find(looks)
    assert not in_part.complete
    assert in_part.groups
    monkeypatch.setattr(near_duplicates, "_PAIRS_PER_IMAGE", 0)
    monkeypatch.setattr(near_duplicates, "_LEAST_PAIRS", 5)
    assert not find(looks).complete


def test_only_pictures_of_the_right_size_are_looked_at() -> None:
    """Anything else is a mistake of the caller."""
    wrong: UInt8Array = np.zeros((16, 16, 3), np.uint8)
    with pytest.raises(ValueError, match=r"expected uint8 \[32, 32, 3\]"):
        look_at(wrong)


def test_the_hash_does_not_depend_on_how_a_picture_is_stored() -> None:
    """A PNG and the same pixels as a BMP have the same look."""
    image = photo(5)
    buffer = io.BytesIO()
    image.save(buffer, "BMP")
    assert look(encoded(image)) == look(buffer.getvalue())
