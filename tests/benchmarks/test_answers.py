"""Servers are timed only if they answer what TensorFlow answers."""

from __future__ import annotations

import numpy as np

from benchmarks.answers import difference, read_list, read_predictions, read_tensors
from benchmarks.forms import form, form_type

_EXPECTED = np.array([[0.1, 0.7, 0.2], [0.5, 0.1, 0.4]], np.float32)


def test_equal_answers_are_right_within_the_tolerance() -> None:
    answers = [{1: 0.70005, 2: 0.2}, {0: 0.5, 1: 0.1, 2: 0.4}]
    assert difference(answers, _EXPECTED, 1e-3) is None
    assert difference(answers, _EXPECTED, 1e-6) == "probabilities of image 0 differ by 5e-05, more than 1e-06"


def test_another_class_is_wrong() -> None:
    assert difference([{2: 0.9, 1: 0.05}], _EXPECTED, 1e-3) == "image 0 is class 1 for TensorFlow, and 2 here"


def test_numbers_that_are_none_are_wrong() -> None:
    assert difference([{1: float("nan")}], _EXPECTED, 1e-3) is not None
    assert difference([{}], _EXPECTED, 1e-3) == "image 0 got no probabilities"


def test_all_formats_read_alike() -> None:
    """The product's document, a bare list, and two tensors of the Open Inference Protocol."""
    prediction = '{"top": [{"class_index": 1, "probability": 0.7}, {"class_index": 2, "probability": 0.2}]}'
    tensors = '{"outputs": [{"shape": [1, 2], "data": [1, 2]}, {"shape": [1, 2], "data": [0.7, 0.2]}]}'
    found = [
        read_predictions(f'{{"predictions": [{prediction}]}}'.encode()),
        read_list(f"[{prediction}]".encode()),
        read_tensors(tensors.encode()),
    ]
    assert found == [[{1: 0.7, 2: 0.2}]] * 3


def test_a_form_has_each_image_as_it_is() -> None:
    boundary = form_type().partition("boundary=")[2].encode()
    parts = form([b"\x89PNG one", b"\xff\xd8 two"]).split(b"--" + boundary)
    assert [part.partition(b"\r\n\r\n")[2] for part in parts[1:3]] == [b"\x89PNG one\r\n", b"\xff\xd8 two\r\n"]
    assert parts[3] == b"--\r\n"
