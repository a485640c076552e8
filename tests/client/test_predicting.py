"""Images in every form, one or many, by both clients and against a real server."""

from __future__ import annotations

import io
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from app.client import Client, Failure, NotFound, Prediction, Problem, Result
from app.client.blocking import drive
from app.client.bulk import Question, answers, load
from app.client.exchange import Call
from app.client.images import encoded
from tests.client.conftest import Connect, Driver
from tests.client.scripted import PREDICTED, Answer, Asked, refused, scripted
from tests.server import Server
from tests.serving.versions import LABELS, gray

BLACK, MIDDLE, WHITE = gray(0), gray(128), gray(255)


def test_image_may_be_a_path_bytes_pixels_or_pillows(client: Driver, pictures: Path) -> None:
    """The same picture has the same answer in whatever form it is handed over."""
    path = pictures / "light" / "3.png"
    picture = Image.open(path)
    pixels = np.asarray(picture)
    forms = [
        path,
        str(path),
        path.read_bytes(),
        memoryview(path.read_bytes()),
        pixels,
        pixels[..., np.newaxis],
        picture,
    ]
    forms += [np.stack([pixels] * 3, axis=2), Image.fromarray(pixels).convert("RGB")]

    def ask(form: Any) -> Any:
        return client(lambda client: client.predict(form, top_k=0))

    found = [ask(form) for form in forms]
    assert all(isinstance(answer, Prediction) for answer in found)
    assert len({(answer.label, answer.probability) for answer in found}) == 1
    assert [answer.name for answer in found[:3]] == [str(path), str(path), "image"]
    answer = found[0]
    assert (answer.model, answer.version, answer.unknown) == ("cifar10", 1, None)
    assert (answer.label, answer.probability) == (answer.top[0].label, answer.top[0].probability)
    assert sorted(entry.label for entry in answer.top) == sorted(LABELS)
    assert sum(entry.probability for entry in answer.top) == pytest.approx(1)


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 1), (5, 7, 3), (5, 7, 4)])
def test_arrays_are_encoded_without_loss(shape: tuple[int, ...]) -> None:
    """Every pixel of an array is in the PNG that is sent, of a part of a larger array too."""
    pixels = np.random.default_rng(0).integers(0, 256, (2 * shape[0], *shape[1:]), np.uint8)[::2]
    decoded = np.asarray(Image.open(io.BytesIO(encoded(pixels))))
    np.testing.assert_array_equal(decoded.reshape(shape), pixels)


@pytest.mark.parametrize(
    "pixels", [np.zeros((5, 7)), np.zeros((5, 7, 2), np.uint8), np.zeros(5, np.uint8), np.zeros((0, 7), np.uint8)]
)
def test_array_that_is_no_image_is_refused(pixels: Any) -> None:
    """Another dtype or shape is not made an image of: the error names it."""
    with pytest.raises(ValueError, match=r"An array of"):
        encoded(pixels)


def test_what_is_no_image_at_all_is_refused() -> None:
    """Things of another type are the caller's mistake, also among many; so is one image in place of many."""
    with Client() as client:
        with pytest.raises(TypeError, match="dict is no image"):
            client.predict({})  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="dict is no image"):
            list(client.predict_many([{}]))  # type: ignore[list-item]
        with pytest.raises(TypeError, match="one image"):
            client.predict_many("cat.jpg")
        with pytest.raises(ValueError, match="concurrency=0"):
            client.predict_many([], concurrency=0)
    with pytest.raises(ValueError, match="mode F cannot be sent"):
        encoded(Image.new("F", (2, 2)))


def test_folder_is_classified_in_the_order_of_its_paths(client: Driver, pictures: Path) -> None:
    """All pictures of a folder and those below it, and nothing else."""
    results = client(lambda client: client.predict_folder(pictures, batch=3, concurrency=2))
    expected = [str(pictures / label / f"{number}.png") for label in ("dark", "light") for number in range(10)]
    assert [result.name for result in results] == expected
    assert [result.label for result in results] == [LABELS[0]] * 10 + [LABELS[2]] * 10


@pytest.mark.parametrize("batch", [1, 3, 16])
def test_bad_image_among_many_is_a_value_in_its_place(client: Driver, tmp_path: Path, batch: int) -> None:
    """The others have their answers, also where the server takes fewer images in a request than are sent."""
    images = [BLACK, b"no image", tmp_path / "missing.png", b"", np.zeros((3, 3)), WHITE, *[MIDDLE] * 5]
    results = client(lambda client: client.predict_many(images, batch=batch))
    assert [result.ok for result in results] == [True, False, False, False, False, True, *[True] * 5]
    assert [result.label for result in results if result.ok] == [LABELS[0], LABELS[2], *[LABELS[1]] * 5]
    failures = [result for result in results if isinstance(result, Failure)]
    codes = ["unsupported_image_format", "unreadable_file", "invalid_image", "invalid_image"]
    assert [failure.code for failure in failures] == codes
    assert failures[1].name == str(tmp_path / "missing.png")
    assert "No such file" in failures[1].detail
    assert results[0].name == "image-1"


def test_single_bad_image_is_raised(client: Driver, tmp_path: Path) -> None:
    """Of one image there is nothing else to tell."""
    with pytest.raises(Problem) as caught:
        client(lambda client: client.predict(b"no image"))
    assert (caught.value.status, caught.value.code) == (415, "unsupported_image_format")
    with pytest.raises(FileNotFoundError):
        client(lambda client: client.predict(tmp_path / "missing.png"))


def test_what_is_empty_or_an_address_is_told_before_anything_is_sent(tmp_path: Path) -> None:
    """In the words of the client's own calls; among many it is a failure in its place."""
    (tmp_path / "empty.png").write_bytes(b"")
    address = "https://example.org/cat.jpg"
    with Client("http://127.0.0.1:9") as client:
        for image in (b"", bytearray(), tmp_path / "empty.png"):
            with pytest.raises(ValueError, match="There are no bytes in"):
                client.predict(image)
            with pytest.raises(ValueError, match="There are no bytes in"):
                client.explain(image, "cifar10")
        with pytest.raises(ValueError, match="is an address, and no file"):
            client.predict(address)
        [failure] = client.predict_many([address])
    assert isinstance(failure, Failure)
    assert (failure.name, failure.code) == (address, "invalid_image")


def test_what_is_no_images_fault_is_raised(client: Driver) -> None:
    """A model that is not there would be missing for every image."""
    with pytest.raises(NotFound) as caught:
        client(lambda client: client.predict_many([BLACK] * 3, model="dogs"))
    assert caught.value.code == "model_not_found"
    assert "cifar10" in str(caught.value)


@pytest.mark.parametrize("count", [0, 1])
def test_few_images_are_many_too(client: Driver, count: int) -> None:
    """No image has no result, and one has one; a version can be asked for by its number."""
    results = client(lambda client: client.predict_many([BLACK] * count, version=2, top_k=1))
    assert [(result.version, len(result.top)) for result in results] == [(2, 1)] * count


def test_requests_are_made_side_by_side_within_bounds(connect: Connect) -> None:
    """As many at a time as was said and no more; the results are in order all the same."""
    together = threading.Barrier(3, timeout=20)
    lock, too_many = threading.Lock(), threading.Event()
    inside = most = 0

    def answer(number: int, asked: Asked) -> Answer:
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
            if most > 3:
                too_many.set()
        together.wait()  # None goes on before three are here.
        if number < 3:
            too_many.wait(0.2)  # Should more come than three, they have time for it.
        with lock:
            inside -= 1
        together.wait()  # Nor is one answered while another is still counted.
        prediction = {**PREDICTED["predictions"][0], "label": asked.body.decode()}  # type: ignore[index]
        return Answer(document={**PREDICTED, "predictions": [prediction]})

    with scripted(script=answer) as server:
        client = connect(server.url)
        images = [str(number).encode() for number in range(12)]
        results = client(lambda client: client.predict_many(images, batch=1, concurrency=3))
    assert [result.label for result in results] == [str(number) for number in range(12)]
    assert most == 3


def test_images_are_read_as_results_are_taken(server: Server) -> None:
    """An endless source is no problem: only what is to be asked about soon is taken from it."""
    taken = 0

    def endless() -> Any:
        nonlocal taken
        while True:
            taken += 1
            yield BLACK

    with Client(server.url) as client:
        results = client.predict_many(endless(), batch=2, concurrency=2)
        first = [next(results) for _ in range(4)]
        results.close()  # type: ignore[attr-defined]
    assert all(result.ok for result in first)
    assert taken <= 12


def test_giving_up_does_not_wait_for_a_server_that_is_busy() -> None:
    """Who stops taking results is not held up by requests that would be repeated much later."""
    first = threading.Event()

    def answer(number: int, _asked: Asked) -> Answer:
        if number == 0:
            return Answer(document=PREDICTED)
        first.set()
        return refused(429, "overloaded", Retry_After="50")

    with scripted(script=answer) as server, Client(server.url, timeout=100) as client:
        results = client.predict_many([b"1", b"2", b"3"], batch=1, concurrency=1)
        assert next(results).ok
        assert first.wait(20)
        results.close()  # type: ignore[attr-defined]
        assert len(server.asked) == 2


def test_progress_is_shown_where_asked_for(
    client: Driver, pictures: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A bar on the terminal counts the images; without a terminal, or unasked, nothing is written."""
    client(lambda client: client.predict_folder(pictures, progress=True))
    monkeypatch.setenv("FORCE_COLOR", "1")
    client(lambda client: client.predict_folder(pictures))
    assert capsys.readouterr() == ("", "")
    client(lambda client: client.predict_folder(pictures, progress=True))
    shown = capsys.readouterr().err
    assert "Classifying" in shown
    assert "20/20" in shown


def test_explanation_is_a_picture_with_what_it_shows(connect: Connect) -> None:
    """The picture's bytes, and from the headers what it shows, the label in all its letters."""
    headers = {"Fovea-Model": "cifar10", "Fovea-Version": "3", "Fovea-Layer": "add_3", "Fovea-Label": "K%C3%A4fer"}
    answer = Answer(document=b"\x89PNG", headers={**headers, "Fovea-Probability": "0.8841"}, kind="image/png")
    with scripted(answer) as server:
        found = connect(server.url)(lambda client: client.explain(b"...", "cifar10", label="Käfer"))
        assert server.asked[0].path.startswith(
            "/api/v1/models/cifar10/explain?method=gradcam&version=production&label=K"
        )
    assert (found.picture, found.model, found.version) == (b"\x89PNG", "cifar10", 3)
    assert (found.layer, found.label, found.probability) == ("add_3", "Käfer", 0.8841)


def test_many_bytes_go_in_several_requests() -> None:
    """Large images do not share a request with more than fit, and the results are in order all the same."""
    images = [bytes([number]) * size for number, size in enumerate((1, 5 * 2**20, 5 * 2**20, 9 * 2**20, 1, 1))]
    steps = answers(load([(str(number), image) for number, image in enumerate(images)]), Question(None, 1, 5))
    sent: list[list[int]] = []

    def answer(call: Call[list[Result]]) -> list[Result]:
        request = call.request
        parts = [request.body] if request.images is None else request.images
        sent.append([part[0] for part in parts if part])
        return [Failure(name=str(number), code="x", detail="x") for number in sent[-1]]

    results = drive(steps, answer)
    assert sent == [[0, 1], [2], [3], [4, 5]]
    assert [result.name for result in results] == list("012345")
