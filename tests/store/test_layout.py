"""Labels come from the folders, or from a labels.csv."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.errors import InvalidDataset
from app.store.dataset_report import DatasetReport
from app.store.datasets import Datasets
from app.store.layout import by_folders, by_table
from tests.store.archives import make_zip, pets, picture


def add(tmp_path: Path, files: dict[str, bytes]) -> DatasetReport:
    return Datasets(tmp_path / "datasets").add("pets", make_zip(tmp_path / "upload", files))


def numbered(*names: str) -> dict[str, bytes]:
    return {name: picture(number) for number, name in enumerate(names)}


def reasons(report: DatasetReport) -> dict[str, str]:
    return {rejected.name: rejected.reason for rejected in report.rejected}


class TestFolders:
    @pytest.mark.parametrize("root", ["", "pets/", "data/pets/all/", "cat/", "./", "train/"])
    def test_class_folders_may_lie_at_any_common_depth(self, tmp_path: Path, root: str) -> None:
        """What all names begin with says nothing."""
        report = add(tmp_path, pets(root=root))
        assert report.classes == {"cat": 3, "dog": 3}
        assert report.splits == {}

    def test_folders_below_a_class_belong_to_it(self, tmp_path: Path) -> None:
        """The class is the folder where the archive branches, however deep the image."""
        report = add(tmp_path, numbered("cat/siamese/1.png", "cat/2.png", "dog/a/b/c/3.png", "dog/4.png"))
        assert report.classes == {"cat": 2, "dog": 2}

    def test_images_beside_the_class_folders_are_rejected(self, tmp_path: Path) -> None:
        """A contact sheet in the top folder has no label."""
        report = add(tmp_path, pets(root="pets/") | {"pets/overview.png": picture(99)})
        assert report.images == 6
        assert reasons(report) == {"pets/overview.png": "It lies beside the class folders, not in one of them."}

    def test_windows_separators_are_separators(self, tmp_path: Path) -> None:
        """Some programs write backslashes into zips."""
        assert add(tmp_path, numbered("cat\\1.png", "dog\\2.png")).classes == {"cat": 1, "dog": 1}

    @pytest.mark.parametrize(
        ("names", "message"),
        [
            (
                ["1.png", "2.png"],
                "All usable images lie in the top folder: there are no class folders. Expected: one folder a",
            ),
            (["pets/1.png", "pets/2.png"], "All usable images lie in one folder, 'pets'"),
            (["cat/1.png", "2.png"], "There is only one class, 'cat'; at least two are needed"),
        ],
    )
    def test_without_two_classes_there_is_no_dataset(self, tmp_path: Path, names: list[str], message: str) -> None:
        """The message says what is there and what was expected."""
        with pytest.raises(InvalidDataset) as refused:
            add(tmp_path, numbered(*names))
        assert message in str(refused.value)

    def test_when_rejections_are_to_blame_the_message_shows_them(self, tmp_path: Path) -> None:
        """Two class folders, but one with nothing but broken images in it."""
        with pytest.raises(InvalidDataset, match=r"one folder, 'cat'.* Rejected files: 1,.*'dog/2.png': Not an image"):
            add(tmp_path, {"cat/1.png": picture(), "dog/2.png": b"no image"})
        with pytest.raises(InvalidDataset, match="no usable image"):
            add(tmp_path, {"cat/1.png": b"no image", "dog/2.png": b"no image"})


class TestSplits:
    def test_train_and_test_above_the_classes_are_splits(self, tmp_path: Path) -> None:
        """The classes are below, and each image remembers its split."""
        files = {f"cifar/{split}/{n}": d for split in ("train", "Val", "test") for n, d in pets(each=2).items()}
        report = add(tmp_path, files)
        assert report.classes == {"cat": 6, "dog": 6}
        assert report.splits == {"test": 4, "train": 4, "validation": 4}
        samples = Datasets(tmp_path / "datasets").load("pets").samples
        assert {(sample.name.split("/")[1], sample.split) for sample in samples} == {
            ("train", "train"),
            ("Val", "validation"),
            ("test", "test"),
        }

    @pytest.mark.parametrize("stray", ["logo.png", "cifar/preview.png"])
    def test_a_picture_beside_train_and_test_changes_nothing(self, tmp_path: Path, stray: str) -> None:
        """It is left out and said to be, and the folders are still splits."""
        files = {f"cifar/{split}/{n}": d for split in ("train", "test") for n, d in pets(each=2).items()}
        report = add(tmp_path, files | numbered(stray))
        assert (report.classes, report.splits) == ({"cat": 4, "dog": 4}, {"test": 4, "train": 4})
        assert reasons(report).keys() == {stray}

    def test_another_folder_beside_train_and_test_earns_a_warning(self, tmp_path: Path) -> None:
        """It makes them classes, which is hardly ever meant."""
        files = {f"{split}/{name}": data for split in ("train", "test") for name, data in pets(each=2).items()}
        report = add(tmp_path, files | numbered("extra/1.png"))
        assert sorted(report.classes) == ["extra", "test", "train"]
        assert any("'test', 'train'. If these were meant" in warning for warning in report.warnings)
        assert any("move 'extra' elsewhere" in warning for warning in report.warnings)

    def test_classes_that_a_split_lacks_earn_a_warning(self, tmp_path: Path) -> None:
        """They are probably no accident that should pass in silence."""
        report = add(tmp_path, numbered("train/cat/1.png", "train/dog/2.png", "test/cat/3.png"))
        assert any("split test has no image of 'dog'" in warning for warning in report.warnings)

    def test_unlabelled_images_of_a_split_are_rejected(self, tmp_path: Path) -> None:
        """Competitions give the test images without labels: train and test are no classes for that."""
        report = add(tmp_path, numbered("train/cat/1.png", "train/dog/2.png", "test/3.png"))
        assert report.classes == {"cat": 1, "dog": 1}
        assert reasons(report).keys() == {"test/3.png"}

    def test_without_classes_below_train_and_test_are_classes(self) -> None:
        """Folders named so may be meant so."""
        places = by_folders(["train/1.png", "test/2.png"])
        assert {folder: (place.label, place.split) for folder, place in places.items()} == {
            "train": ("train", None),
            "test": ("test", None),
        }


class TestTable:
    @pytest.mark.parametrize(
        "table",
        [
            "img/1.png,cat\nimg/2.png,dog\n",
            "path,label\r\nimg/1.png,cat\r\nimg/2.png,dog\r\n",
            "\ufeffPath,Label\nimg/1.png, cat\n\n./img/2.png,dog",
            'label,note,file\ncat,"fine, really",img/1.png\ndog,,img\\2.png\n',
        ],
    )
    def test_labels_may_come_from_a_table(self, tmp_path: Path, table: str) -> None:
        """With or without a header, in any order of columns, from any system."""
        files = numbered("set/img/1.png", "set/img/2.png") | {"set/labels.csv": table.encode()}
        report = add(tmp_path, files)
        assert report.classes == {"cat": 1, "dog": 1}
        assert report.rejected_files == 0

    def test_a_table_counts_more_than_folders(self, tmp_path: Path) -> None:
        """Where both are there, the table was made on purpose."""
        table = b"a/1.png,cat\nb/2.png,cat\nb/3.png,dog\n"
        report = add(tmp_path, numbered("a/1.png", "b/2.png", "b/3.png") | {"labels.csv": table})
        assert report.classes == {"cat": 2, "dog": 1}

    def test_splits_may_come_from_a_table(self, tmp_path: Path) -> None:
        """A third column, if the header names it."""
        table = b"path,label,split\n1.png,cat,train\n2.png,dog,valid\n3.png,dog,\n"
        assert add(tmp_path, numbered("1.png", "2.png", "3.png") | {"labels.csv": table}).splits == {
            "train": 1,
            "validation": 1,
        }

    def test_what_table_and_archive_disagree_on_is_reported(self, tmp_path: Path) -> None:
        """Images without a line, and lines without an image."""
        table = b"1.png,cat\n2.png,dog\n3.png,dog\nbroken.png,dog\n"
        files = numbered("1.png", "2.png", "extra.png") | {"labels.csv": table, "broken.png": b"x"}
        assert reasons(add(tmp_path, files)) == {
            "3.png": "labels.csv names it, but the archive does not have it.",
            "broken.png": "Not an image in a supported format. Supported: JPEG, PNG, WEBP, GIF, BMP, TIFF.",
            "extra.png": "labels.csv does not name it.",
        }

    def test_a_table_elsewhere_is_not_used(self, tmp_path: Path) -> None:
        """One inside of a class folder is something else; the report says so."""
        report = add(tmp_path, pets() | {"cat/labels.csv": b"nonsense"})
        assert report.classes == {"cat": 3, "dog": 3}
        assert any("cat/labels.csv was not used" in warning for warning in report.warnings)

    def test_two_tables_are_one_too_many(self, tmp_path: Path) -> None:
        """No guess is made at which one counts."""
        files = numbered("a/1.png", "a/2.png") | {"labels.csv": b"a/1.png,x\n", "a/labels.csv": b"1.png,x\n"}
        with pytest.raises(InvalidDataset, match=r"a/labels.csv and labels.csv: leave only the one"):
            add(tmp_path, files)

    @pytest.mark.parametrize(
        ("table", "message"),
        [
            (b"", "labels.csv is empty"),
            (b"path,label\n", "labels.csv is empty"),
            (b"1.png,cat\n2.png\n", "Line 2 of labels.csv has 1 fields; expected 2: path,label"),
            (b"1.png,cat,7\n", "Line 1 of labels.csv has 3 fields"),
            (b"1.png,cat\n2.png,\n", "Line 2 of labels.csv: '' cannot be a label"),
            (b"1.png,c\x07t\n", "cannot be a label"),
            (b"1.png," + b"x" * 201, "cannot be a label"),
            (b"1.png,cat\n1.png,dog\n", "Line 2 of labels.csv gives '1.png' a second label, 'dog'; it had 'cat'"),
            (b"../1.png,cat\n", "'../1.png' leads out of the archive"),
            (b"1.png,caf\xe9\n", "labels.csv is not UTF-8"),
            (b'1.png,"cat\n', "not a valid CSV file"),
            (b"1.png,cat\n2.png,cat\n", "only one class, 'cat'"),
            (b"7.png,cat\n8.png,dog\n", "names none of the archive's images"),
            (b"path,label,split\n1.png,cat,holiday\n", "'holiday' is no split. Allowed: train, validation, test"),
        ],
    )
    def test_a_table_with_a_fault_is_refused_with_its_line(self, tmp_path: Path, table: bytes, message: str) -> None:
        """What is wrong, and where."""
        with pytest.raises(InvalidDataset) as refused:
            add(tmp_path, numbered("1.png", "2.png") | {"labels.csv": table})
        assert message in str(refused.value)

    def test_the_same_line_twice_does_no_harm(self) -> None:
        """Only a contradiction is an error."""
        assert len(by_table(b"1.png,cat\n1.png,cat\n", "labels.csv")) == 1
