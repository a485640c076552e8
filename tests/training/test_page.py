"""`report.html`: one page that holds all it shows, runs nothing, and says what report.json says."""

from __future__ import annotations

import copy
import io
import re
from html.parser import HTMLParser
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from app.jobs.spec import Augmentation
from app.preprocessing import UInt8Array
from app.training import page_charts
from app.training.augmented_samples import augmented_samples
from app.training.page import page
from app.training.pictures import picture

PNG = b"\x89PNG\r\n\x1a\n not looked at"
HOSTILE = '<script>alert("1")</script>'
EMPTY = {"br", "img", "meta"}
FOUND = {
    "rejected_files": 1,
    "duplicate_files": 2,
    "conflicting_duplicates": 3,
    "near_duplicate_files": 4,
    "conflicting_near_duplicates": 5,
    "cross_split_duplicates": 6,
    "small_classes": 7,
    "extreme_size_files": 1008,
    "case_twins": 9,
}


class Parsed(HTMLParser):
    """The page as a browser takes it: its elements with their attributes, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in EMPTY:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def _report(labels: list[str]) -> dict[str, Any]:
    """A report of a few test images, each class mistaken for the next one once."""
    count = len(labels)
    matrix = [
        [9 if row == column else int(column == (row + 1) % count) for column in range(count)] for row in range(count)
    ]
    bins = [{"low": 0.8, "high": 0.9, "images": 4, "confidence": 0.86, "accuracy": 0.75, "interval": [0.3, 0.95]}]
    epochs = [
        {
            "epoch": n,
            "loss": 2 / n,
            "accuracy": 1 - 0.5 / n,
            "val_loss": 1.8 / n,
            "val_accuracy": 1 - 0.6 / n,
            "seconds": 3,
        }
        for n in range(1, 6)
    ]
    return {
        "model": labels[0],
        "created_at": "2026-11-22T17:00:00+00:00",
        "created_by": "training job x",
        "headline": "Right on 90.0% of 30 test images.",
        "findings": [{"level": "warning", "text": f"The weakest class is {labels[0]!r}."}],
        "test": {
            "images": 30,
            "accuracy": 0.9,
            "accuracy_interval": [0.744, 0.965],
            "mistakes": count,
            "macro_average": {"f1": 0.9},
            "calibration": {"ece": 0.04, "bins": bins, "before": {"ece": 0.09, "bins": bins}},
        },
        "validation": {
            "images": 20,
            "calibration": {"temperature": 1.31, "ece": 0.03, "before": {"ece": 0.08}},
        },
        "unknown": {"threshold": 0.61, "coverage": 0.93, "accuracy": 0.96, "images": 30},
        "labels": labels,
        "classes": [
            {
                "label": label,
                "precision": 0.9,
                "recall": 0.9,
                "recall_interval": [0.6, 0.98],
                "f1": 0.9,
                "support": 10,
            }
            for label in labels
        ],
        "confusion_matrix": matrix,
        "confusions": [{"label": labels[0], "predicted": labels[1], "images": 1, "share": 0.1}],
        "worst_mistakes": [
            {
                "name": f"{labels[0]}/1.png",
                "label": labels[0],
                "predicted": labels[1],
                "probability": 0.97,
                "picture": "mistakes/00.png",
            }
        ],
        "augmentation_preview": "augmentation.png",
        "augmentation_preview_labels": labels[:5],
        "best_epoch": 4,
        "epochs": epochs,
        "network": {"name": "simple_cnn", "parameters": 1234},
        "precisions": {
            "int8": {
                "accuracy": 0.9,
                "agreement": 1.0,
                "max_difference": 0.01,
                "images_per_second": 9000.0,
                "f32_images_per_second": 3000.0,
                "harmless": True,
            }
        },
        "data": {
            "dataset": "shapes",
            "sha256": "ab" * 32,
            "images": 100,
            "counts": {"train": 50, "validation": 20, "test": 30},
            "classes": {"train": [17] * count},
            "preprocessing": {"width": 28, "height": 28, "color": "rgb", "resample": "bilinear", "fit": "stretch"},
            **FOUND,
            "kept_together": {"images": 1012, "groups": 44},
            "warnings": [],
        },
        "spec": {"dataset": "shapes", "shapes": {"noise": 0}, "augmentation": {"cutout": 4}, "early_stopping": None},
    }


PICTURES = {"mistakes/00.png": PNG, "augmentation.png": PNG}


@pytest.mark.parametrize("labels", [["cat", "dog", "frog"], [f"class {number}" for number in range(60)]])
def test_the_page_reaches_for_nothing_outside_of_itself(labels: list[str]) -> None:
    """No script, no link, no font, no picture from elsewhere; and a policy that would stop them."""
    html = page(_report(labels), PICTURES)
    elements = Parsed(html).elements
    assert {tag for tag, _ in elements} & {"script", "link", "iframe", "object", "embed", "form", "base"} == set()
    for _, attributes in elements:
        assert not [name for name in attributes if name.startswith("on") or name in ("href", "srcset", "action")]
        assert attributes.get("src", "data:").startswith("data:")
    assert not re.search(r"url\(|@import|https?://", html)
    policies = [attributes["content"] for tag, attributes in elements if "http-equiv" in attributes]
    assert policies == ["default-src 'none'; style-src 'unsafe-inline'; img-src data:"]


def test_names_are_text_wherever_they_stand() -> None:
    """A label, a file or a model that is called like markup is shown as it is called."""
    parsed = Parsed(page(_report([HOSTILE, 'a" onload="x', "</style>"]), PICTURES))
    assert "script" not in {tag for tag, _ in parsed.elements}
    assert not any("onload" in attributes for _, attributes in parsed.elements)
    assert parsed.text.count(HOSTILE) >= 5
    assert [tag for tag, _ in parsed.elements].count("style") == 1


def test_the_page_shows_the_figures_of_the_report() -> None:
    """Accuracy with its interval, the chosen epoch, temperature, threshold, classes, mistakes, data and recipe."""
    text = Parsed(page(_report(["cat", "dog", "frog"]), PICTURES)).text
    for said in (
        "Right on 90.0% of 30 test images.",
        "95% confidence: 74.4% to 96.5%",
        "chosen: epoch 4, 85.00%",
        "temperature 1.310",
        "0.610",
        "60.0% to 98.0%",
        "cat answered as dog, 97.0%",
        "The weakest class is 'cat'.",
        "augmentation.cutout",
        "harmless",
        "ab" * 32,
    ):
        assert said in text, said


def test_the_page_shows_how_much_was_found_in_the_data() -> None:
    """Each kind with its number: left out, repeated, contradictory, across splits, too few, too small, twins."""
    html = page(_report(["cat", "dog", "frog"]), PICTURES)
    facts = dict(re.findall(r"<li><span>([^<]+)</span><code>([^<]*)</code>", html))
    assert (
        facts.items()
        >= {
            "files left out": "1",
            "kept on one side": "1,012 images in 44 groups of copies or look-alikes",
            "exact copies": "2",
            "copies under several labels": "3",
            "look-alikes": "4",
            "look-alikes under several labels": "5",
            "repeated across given splits": "6",
            "small classes": "7",
            "extreme sizes": "1,008",
            "labels apart by case only": "9",
        }.items()
    )


def test_options_of_another_dataset_are_not_in_the_recipe() -> None:
    """What `shapes` can be told concerns no other dataset."""
    report = _report(["cat", "dog", "frog"])
    assert "shapes.noise" in page(report, PICTURES)
    other = copy.deepcopy(report)
    other["spec"]["dataset"] = "pets"
    assert "shapes.noise" not in page(other, PICTURES)


def test_a_perfect_result_has_no_gallery_of_mistakes() -> None:
    """Where nothing was mistaken the page says so, and is whole."""
    report = _report(["cat", "dog", "frog"])
    report |= {"worst_mistakes": [], "confusions": [], "precisions": {}, "findings": []}
    text = Parsed(page(report, PICTURES)).text
    assert "every test image was answered rightly" in text
    assert "Worst mistakes" not in text


def test_every_cell_says_what_it_is_where_columns_have_no_room() -> None:
    """On a telephone each row is a block: the name of its column stands before each cell, and no table is cut."""
    elements = Parsed(page(_report(["cat", "dog", "frog"]), PICTURES)).elements
    cells = [attributes for tag, attributes in elements if tag == "td" or attributes.get("scope") == "row"]
    heads = [tag for tag, attributes in elements if attributes.get("scope") == "col"]
    assert len(heads) >= 20
    assert all("data-name" in cell for cell in cells)
    assert {"Class", "Recall", "Precision", "True class"} <= {cell["data-name"] for cell in cells}
    style = page(_report(["cat", "dog"]), PICTURES).partition("<style>")[2].partition("</style>")[0]
    assert "content: attr(data-name)" in style.partition("@media screen and (max-width: 720px)")[2]


def test_one_is_not_spoken_of_as_many() -> None:
    """One epoch, one mistake, one image in a bin."""
    report = _report(["cat", "dog", "frog"])
    report["epochs"] = report["epochs"][:1]
    report["best_epoch"] = 1
    report["test"] |= {"mistakes": 1}
    for bin_ in report["test"]["calibration"]["bins"]:
        bin_["images"] = 1
    html = page(report, PICTURES)
    assert not re.search(r"\b1 (epochs|images|trials)\b|All 1\b", html)
    assert "The only one, as the model sees it" in html


def test_augmented_samples_are_labelled() -> None:
    """Each row of the preview has the label of its class beside it; of many classes the page says how many it shows."""
    html = page(_report(["cat", "dog", "<frog>"]), PICTURES)
    rows = re.findall(r"<li><span><bdi>([^<]*)</bdi></span></li>", html)
    assert rows == ["cat", "dog", "&lt;frog&gt;"]
    assert "A row a class: a training image" in html
    assert "A row a class of 5 of the 60 classes" in page(_report([f"class {n}" for n in range(60)]), PICTURES)


@pytest.mark.parametrize("classes", [2, 5, 12])
def test_the_preview_of_augmentation_has_a_row_a_class(classes: int) -> None:
    """However rare a class is: the pictures of a row are of the class whose label the row has."""
    targets = np.array([0] * 50 + list(range(classes)))
    images = (targets.astype(np.uint8) * 20)[:, None, None, None] * np.ones((1, 8, 8, 3), np.uint8)
    labels = [f"class {number}" for number in range(classes)]
    data: Any = SimpleNamespace(images=images, targets=targets, labels=labels, train=np.arange(len(targets)))
    samples = augmented_samples(data, Augmentation(), seed=3)
    with Image.open(io.BytesIO(samples.sheet)) as sheet:
        tall = (sheet.height + 4) // len(samples.labels)
        shown = [sheet.getpixel((10, row * tall + 10)) for row in range(len(samples.labels))]
    assert len(set(samples.labels)) == min(5, classes)
    assert shown == [(20 * labels.index(label),) * 3 for label in samples.labels]


def test_many_classes_make_a_matrix_of_pixels() -> None:
    """A drawing of ten thousand cells would be megabytes; a picture is a few kilobytes."""
    counts = [[5 if row == column else 0 for column in range(100)] for row in range(100)]
    drawn = page_charts.matrix(counts, [str(number) for number in range(100)])
    assert drawn.startswith("<img")
    assert len(drawn) < 20_000
    small = page_charts.matrix([[5, 1], [0, 6]], ["a", "b"])
    assert small.count("<rect") == 4
    assert "a answered as b: 1 of 6 (16.7%)" in small


@pytest.mark.parametrize(
    "values", [[0.5], [0.5, 0.5], [1.0, 1.0, 1.0], [0.0, 0.0], [1e-9, 2e-9], [0.1] * 5000, [1e6, 3.0]]
)
@pytest.mark.parametrize("percent", [True, False])
def test_curves_of_any_shape_can_be_drawn(values: list[float], percent: bool) -> None:
    """One epoch, flat lines, thousands of epochs: every point lies within the drawing, and the file stays small."""
    if percent and max(values) > 1:
        return
    drawn = page_charts.curve("Loss", values, values, len(values), percent=percent)
    (width, height) = map(float, re.findall(r'viewBox="0 0 (\S+) (\S+)"', drawn)[0])
    for points in re.findall(r'points="([^"]*)"', drawn):
        pairs = [tuple(map(float, pair.split(","))) for pair in points.split()]
        assert len(pairs) <= 401
        assert all(0 <= x <= width and 0 <= y <= height for x, y in pairs)


@pytest.mark.parametrize(
    ("shape", "size"),
    [((8, 8, 1), (96, 96)), ((32, 32, 3), (96, 96)), ((28, 64, 1), (64, 28)), ((512, 384, 3), (96, 128))],
)
def test_pictures_are_of_a_size_for_people(shape: tuple[int, int, int], size: tuple[int, int]) -> None:
    """Tiny images are enlarged by whole pixels, large ones shrunk; a page with two dozen of them can be sent."""
    pixels: UInt8Array = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    written = picture(pixels)
    with Image.open(io.BytesIO(written)) as image:
        assert image.size == size
        if size[0] % shape[1] == 0 and shape[0] <= size[1]:
            factor = size[0] // shape[1]
            np.testing.assert_array_equal(np.asarray(image)[::factor, ::factor], pixels.squeeze())
    assert len(written) < 60_000
