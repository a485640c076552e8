"""JSON bodies of images."""

from __future__ import annotations

import base64
import subprocess
import sys
import tracemalloc

import numpy as np
import orjson
import pytest

from app.api.protocols.encoded import from_base64, to_array, weight
from app.errors import InvalidRequest


@pytest.mark.parametrize("value", [3, [], [[], []], [[1, 2.5], [-3, 4]], [[[0]] * 5] * 2], ids=str)
def test_nested_lists_are_arrays(value: object) -> None:
    """Of any shape, as NumPy reads them."""
    found = to_array(value, "inputs")
    assert np.array_equal(found, np.asarray(value))
    assert found.shape == np.asarray(value).shape


@pytest.mark.parametrize(
    "value",
    [[1, "a"], [[1], [1, 2]], [[1], 2], [1, [2]], [None], {}, "1", None, [10**400], [[{"b64": ""}]]],
    ids=lambda value: str(value)[:20],
)
def test_anything_else_is_refused_by_its_place(value: object) -> None:
    """Ragged lists, strings, null, numbers that no float holds."""
    with pytest.raises(InvalidRequest, match=r"^inputs\[3\]: .* of equal lengths"):
        to_array(value, r"inputs[3]")


def test_lists_nested_without_end_are_refused() -> None:
    """As deep as the parser lets them come."""
    with pytest.raises(InvalidRequest, match="nested 1000 deep"):
        to_array(orjson.loads("[" * 1000 + "]" * 1000), "inputs")


def test_one_long_string_does_not_make_all_others_long() -> None:
    """An array of strings would take for each as much as for the longest: here 4 GB."""
    value = ["x" * 1_000_000, *["y"] * 1000]
    tracemalloc.start()
    try:
        with pytest.raises(InvalidRequest):
            to_array(value, "inputs")
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("text", ["YWI=", "YWI", "YW\nI=", " YWI"])
def test_base64_may_have_lines_and_lack_its_padding(text: str) -> None:
    """As TensorFlow Serving takes it."""
    assert from_base64(text, "x") == b"ab"


@pytest.mark.parametrize("text", ["Y", "YW=I", "YWI_", "é"])
def test_what_is_no_base64_is_refused(text: str) -> None:
    """Other alphabets, padding inside, and lengths that none has."""
    with pytest.raises(InvalidRequest, match="x is not base64"):
        from_base64(text, "x")


_MEASURE = """
import re, sys
from app.api.protocols.encoded import from_base64, parse_object, to_array

def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024

body = sys.stdin.buffer.read()
before = peak()
try:
    to_array(parse_object(body)["x"], "x")
except Exception:
    pass
print(peak() - before)
"""
_BOMBS = {
    "lists": b"[],",
    "nested": b"[[[[1]]]],",
    "objects": b'{"":0},',
    "objects in objects": b'{"aaa":{"b":1.5}},',
    "floats": b"1.5,",
    "strings": b'"ab",',
}


@pytest.mark.parametrize("bomb", _BOMBS.values(), ids=_BOMBS)
def test_what_json_takes_is_known_before_it_is_parsed(bomb: bytes) -> None:
    """The worst that a body can be made to become, in a process of its own."""
    body = b'{"x":[' + bomb * (4_000_000 // len(bomb)) + b"0]}"
    done = subprocess.run([sys.executable, "-c", _MEASURE], input=body, capture_output=True, check=True)
    assert 0 < int(done.stdout) < weight(body) + 1_000_000


def test_images_in_json_weigh_little_more_than_they_have() -> None:
    """A large photo in base64 finds room at a service of many processes, of which each has little."""
    body = b'{"instances": [{"b64": "' + base64.b64encode(bytes(1_000_000)) + b'"}]}'
    assert weight(body) < 4 * len(body)
