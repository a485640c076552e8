"""What a dataset's report says is odd about its images, with pictures of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from app.errors import DatasetNotFound, InvalidName, NotFound
from app.store import thumbnails
from app.store.dataset_report import DatasetReport
from app.store.datasets import Datasets
from tests.store.archives import encoded, make_zip, photo, twins


@pytest.fixture
def datasets(tmp_path: Path) -> Datasets:
    return Datasets(tmp_path / "datasets", threads=2)


def photos(*, start: int = 0, each: int = 12, labels: str = "ab", root: str = "") -> dict[str, bytes]:
    """Different pictures, `each` of every label."""
    return {
        f"{root}{label}/{number:03d}.png": encoded(photo(start + each * index + number))
        for index, label in enumerate(labels)
        for number in range(each)
    }


def add(datasets: Datasets, tmp_path: Path, files: dict[str, bytes]) -> DatasetReport:
    return datasets.add("set", make_zip(tmp_path / "upload", files))


def test_look_alikes_are_reported_and_share_a_group(datasets: Datasets, tmp_path: Path) -> None:
    """Changed copies of one picture are counted, listed with thumbnails, and known to the trainer."""
    changed = {f"a/twin {name}.img": data for name, data in twins(photo(0)).items() if name != "original"}
    report = add(datasets, tmp_path, photos() | changed)
    [group] = report.near_duplicates
    assert (group.name, sorted(group.copies)) == ("a/000.png", sorted(changed))
    assert (group.labels, group.splits) == (["a"], [])
    assert (report.near_duplicate_files, report.duplicate_files) == (5, 0)
    assert (report.conflicting_near_duplicates, report.cross_split_duplicates) == (0, 0)
    assert len(group.thumbnails) == 3
    numbers = {sample.name: sample.group for sample in datasets.load("set").samples}
    together = {name for name, number in numbers.items() if number is not None}
    assert together == {"a/000.png", *changed}
    assert len({numbers[name] for name in together}) == 1


def test_copies_and_look_alikes_are_counted_apart(datasets: Datasets, tmp_path: Path) -> None:
    """A file that occurs twice is a duplicate; one that only looks like it is a near duplicate. All are one group."""
    files = photos() | {
        "a/again.png": encoded(photo(0)),
        "a/small.jpg": twins(photo(0))["re-encoded"],
        "b/pair.png": encoded(photo(12)),
    }
    report = add(datasets, tmp_path, files)
    assert (report.duplicate_files, report.near_duplicate_files) == (2, 1)
    assert [group.copies for group in report.duplicates] == [["a/again.png"], ["b/pair.png"]]
    assert [group.copies for group in report.near_duplicates] == [["a/again.png", "a/small.jpg"]]
    assert report.distinct_images == {"a": 13, "b": 12}


def test_the_same_picture_under_two_labels_comes_first(datasets: Datasets, tmp_path: Path) -> None:
    """Contradictions head the list and earn a warning."""
    files = photos() | {
        "a/0 twin.jpg": twins(photo(1))["re-encoded"],
        "b/z twin.jpg": twins(photo(2))["halved"],
    }
    report = add(datasets, tmp_path, files)
    assert [group.labels for group in report.near_duplicates] == [["a", "b"], ["a"]]
    assert report.conflicting_near_duplicates == 1
    assert any("look the same under different labels: 1" in warning for warning in report.warnings)


def test_copies_across_splits_are_reported(datasets: Datasets, tmp_path: Path) -> None:
    """A test image that is also trained on, as it is or changed, is counted and earns a warning."""
    files = photos(root="train/") | photos(start=50, each=4, root="test/")
    files |= {"test/a/copy.png": encoded(photo(3)), "test/b/changed.webp": twins(photo(15))["enlarged"]}
    report = add(datasets, tmp_path, files)
    assert report.cross_split_duplicates == 2
    assert report.duplicates[0].splits == report.near_duplicates[0].splits == ["test", "train"]
    assert any("in more than one split: 2" in warning for warning in report.warnings)


def test_small_classes_are_listed_with_their_counts(datasets: Datasets, tmp_path: Path) -> None:
    """Classes of few images are named, the smallest first, with pictures; one image is too few for anything."""
    files = photos(each=12) | photos(start=60, each=3, labels="c") | photos(start=70, each=1, labels="d")
    report = add(datasets, tmp_path, files)
    assert [(small.label, small.images, len(small.thumbnails)) for small in report.small_classes] == [
        ("d", 1, 1),
        ("c", 3, 2),
    ]
    assert any(warning.startswith("Fewer than 2 images in 'd'") for warning in report.warnings)
    assert any(warning.startswith("Hardly any images in 'c'") for warning in report.warnings)


def test_extreme_sizes_are_listed_with_the_reason(datasets: Datasets, tmp_path: Path) -> None:
    """Tiny, huge and very narrow images are named; what is normal in the set is not."""
    odd = {
        "a/tiny.png": encoded(photo(90, size=(6, 40))),
        "a/long.png": encoded(photo(91, size=(450, 40))),
        "b/huge.png": encoded(photo(92, size=(1000, 700))),
    }
    report = add(datasets, tmp_path, photos() | odd)
    reasons = {extreme.name: extreme.reason for extreme in report.extreme_sizes}
    assert reasons.keys() == odd.keys()
    assert reasons["a/tiny.png"] == "Its width of 6 pixels is very small; the median is 48."
    assert reasons["a/long.png"] == "One side is 11 times the other."
    assert reasons["b/huge.png"] == "Its width of 1,000 pixels is very large; the median is 48."
    assert report.extreme_size_files == 3
    assert any("extreme size: 3" in warning for warning in report.warnings)


def test_a_set_that_is_small_as_a_whole_has_no_extremes(datasets: Datasets, tmp_path: Path) -> None:
    """Icons of six pixels and strips ten times as long as high are what they are."""
    icons = {
        f"{label}/{n}.png": encoded(photo(n + 20 * i, size=(60, 6))) for i, label in enumerate("ab") for n in range(5)
    }
    assert add(datasets, tmp_path, icons).extreme_sizes == []


def test_classes_that_a_split_lacks_are_listed(datasets: Datasets, tmp_path: Path) -> None:
    """A class without an image in the archive's own test folder is named."""
    report = add(datasets, tmp_path, photos(root="train/", labels="abc") | photos(start=90, root="test/", each=2))
    assert report.missing_in_splits == {"test": ["c"]}
    assert any("split test has no image of 'c'" in warning for warning in report.warnings)


class TestThumbnails:
    def test_they_are_small_pictures_of_what_the_report_names(self, datasets: Datasets, tmp_path: Path) -> None:
        """At most 96 pixels a side, in the image's own proportions, and not enlarged."""
        large = photo(99, size=(400, 200))
        files = photos() | {"b/0.png": encoded(large), "b/1.jpg": encoded(large, "JPEG")}
        report = add(datasets, tmp_path, files)
        sizes = []
        for name in report.near_duplicates[0].thumbnails:
            with Image.open(datasets.thumbnail("set", name)) as image:
                sizes.append((image.format, image.size))
        assert sizes == [("PNG", (96, 48))] * 2
        small = add_copy(datasets, tmp_path)
        with Image.open(datasets.thumbnail("small", small.duplicates[0].thumbnails[0])) as image:
            assert image.size == (48, 40)

    def test_there_are_no_more_than_a_report_needs(
        self, datasets: Datasets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Thousands of odd images make no thousands of thumbnails; they are listed without."""
        monkeypatch.setattr(thumbnails, "_MOST", 3)
        files = photos(each=4) | {f"a/{n} again.png": encoded(photo(n)) for n in range(4)}
        report = add(datasets, tmp_path, files)
        assert [len(group.thumbnails) for group in report.duplicates] == [1, 1, 1, 0]
        assert len(list((tmp_path / "datasets" / "set" / "thumbnails").iterdir())) == 3

    def test_only_thumbnails_can_be_had(self, datasets: Datasets, tmp_path: Path) -> None:
        """No other name leads anywhere."""
        add(datasets, tmp_path, photos() | {"a/again.png": encoded(photo(0))})
        assert datasets.thumbnail("set", "0001.png").is_file()
        for name in ("9999.png", "../report.json", "0001.png/", "", "001.png", "0001.png\n"):
            with pytest.raises(NotFound, match="no such thumbnail"):
                datasets.thumbnail("set", name)
        with pytest.raises(NotFound):
            datasets.thumbnail("digits", "0001.png")
        with pytest.raises(DatasetNotFound):
            datasets.thumbnail("none", "0001.png")
        with pytest.raises(InvalidName):
            datasets.thumbnail("../set", "0001.png")


def add_copy(datasets: Datasets, tmp_path: Path) -> DatasetReport:
    return datasets.add("small", make_zip(tmp_path / "other", photos() | {"a/again.png": encoded(photo(0))}))


def test_a_dataset_without_groups_in_its_index_can_be_read(datasets: Datasets, tmp_path: Path) -> None:
    """A dataset of an earlier release is loaded as it was: nobody looked for look-alikes then."""
    add(datasets, tmp_path, photos() | {"a/again.png": encoded(photo(0))})
    index = tmp_path / "datasets" / "set" / "index.jsonl"
    index.write_text(index.read_text().replace(', "group": null', "").replace(', "group": 0', ""))
    assert "group" not in index.read_text()
    assert {sample.group for sample in datasets.load("set").samples} == {None}
