"""An archive of labelled images becomes a dataset, with a report on what is in it."""

from __future__ import annotations

import bz2
import os
import tarfile
import threading
import zipfile
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from app.errors import Conflict, DatasetNotFound, InvalidDataset, InvalidName, StorageFailed
from app.preprocessing import to_array
from app.store import intake
from app.store.datasets import Datasets
from tests.store.archives import make_tar, make_zip, pets, picture


@pytest.fixture
def datasets(tmp_path: Path) -> Datasets:
    return Datasets(tmp_path / "datasets", threads=2)


@pytest.fixture
def upload(tmp_path: Path) -> Path:
    """Where an upload lies; its name says nothing about its kind."""
    return tmp_path / "upload"


class TestAdd:
    @pytest.mark.parametrize("kind", ["zip", "stored zip", "tar", "gnu tar", "ustar", "tar.gz", "tar.bz2"])
    def test_every_kind_of_archive_is_told_by_its_content(self, datasets: Datasets, upload: Path, kind: str) -> None:
        """Zip and tar, compressed or not: the same images come out."""
        files = pets()
        match kind:
            case "zip":
                make_zip(upload, files)
            case "stored zip":
                make_zip(upload, files, method=zipfile.ZIP_STORED)
            case "gnu tar":
                make_tar(upload, files, form=tarfile.GNU_FORMAT)
            case "ustar":
                make_tar(upload, files, form=tarfile.USTAR_FORMAT)
            case _:
                make_tar(upload, files, compression=kind.removeprefix("tar").removeprefix("."))
        report = datasets.add("pets", upload, by="ann")
        assert report.classes == {"cat": 3, "dog": 3}
        assert report.rejected_files == 0
        loaded = datasets.load("pets")
        assert loaded.labels == ["cat", "dog"]
        assert {sample.name: sample.file.read_bytes() for sample in loaded.samples} == files
        assert all(sample.name.startswith(sample.label) for sample in loaded.samples)

    def test_several_streams_of_bzip2_are_one(self, datasets: Datasets, upload: Path) -> None:
        """Parallel compressors write an archive as several streams in a row."""
        data = make_tar(upload, pets()).read_bytes()
        upload.write_bytes(bz2.compress(data[:5000]) + bz2.compress(data[5000:]))
        assert datasets.add("pets", upload).images == 6

    @pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
    def test_long_and_foreign_names_are_kept(self, datasets: Datasets, upload: Path, form: int) -> None:
        """Names beyond the 100 bytes of a tar header, and beyond ASCII."""
        files = {f"{'deep/' * 30}{label}/{'ä' * 80}{n}.png": picture(n) for label in ("猫", "犬") for n in range(2)}
        report = datasets.add("pets", make_tar(upload, files, form=form))
        assert report.classes == {"犬": 2, "猫": 2}
        assert {sample.name for sample in datasets.load("pets").samples} == files.keys()

    def test_names_split_over_two_fields_are_joined(self, datasets: Datasets, upload: Path) -> None:
        """The oldest way of tar to hold more than 100 bytes."""
        files = {f"{'deep/' * 10}{'wide' * 20}/{label}/{n}.png": picture(n) for label in "ab" for n in range(2)}
        datasets.add("pets", make_tar(upload, files, form=tarfile.USTAR_FORMAT))
        assert {sample.name for sample in datasets.load("pets").samples} == files.keys()

    def test_files_get_names_of_our_own(self, datasets: Datasets, upload: Path, tmp_path: Path) -> None:
        """Nothing of the archive's names reaches the file system; extensions follow the content."""
        files = {"a/x.png": picture(1, kind="JPEG"), "b/y.exe": picture(2, kind="WEBP"), "b/z": picture(3, kind="GIF")}
        datasets.add("pets", make_zip(upload, files))
        folder = tmp_path / "datasets" / "pets"
        assert sorted(path.name for path in folder.iterdir()) == ["images", "index.jsonl", "report.json", "thumbnails"]
        assert sorted(path.name for path in (folder / "images").iterdir()) == [
            "000001.jpg",
            "000002.webp",
            "000003.gif",
        ]

    def test_a_name_that_is_taken_is_a_conflict(self, datasets: Datasets, upload: Path) -> None:
        """A dataset is never changed; the message says the way out."""
        make_zip(upload, pets())
        datasets.add("pets", upload)
        with pytest.raises(Conflict, match="Choose another name"):
            datasets.add("pets", upload)
        for builtin in ("shapes", "digits"):
            with pytest.raises(Conflict, match="built-in"):
                datasets.add(builtin, upload)
        with pytest.raises(InvalidName):
            datasets.add("../pets", upload)

    def test_of_two_that_add_the_same_name_one_wins(self, datasets: Datasets, upload: Path, tmp_path: Path) -> None:
        """The other gets the conflict, and leaves nothing."""
        make_zip(upload, pets())
        outcomes: list[object] = []
        barrier = threading.Barrier(2)

        def wait(done: int, total: int | None) -> None:
            if done == 1:
                barrier.wait(timeout=30)  # both have found the name free by now

        def add() -> None:
            try:
                outcomes.append(datasets.add("pets", upload, progress=wait).name)
            except Conflict:
                outcomes.append(Conflict)

        threads = [threading.Thread(target=add) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert set(outcomes) == {"pets", Conflict}
        assert list((tmp_path / "datasets" / ".staging").iterdir()) == []

    def test_progress_is_told(self, datasets: Datasets, upload: Path) -> None:
        """Files done, of how many where the archive says."""
        calls: list[tuple[int, int | None]] = []
        datasets.add("pets", make_zip(upload, pets()), progress=lambda done, total: calls.append((done, total)))
        assert calls == [(n, 6) for n in range(1, 7)]
        calls.clear()
        datasets.add("pets2", make_tar(upload, pets()), progress=lambda done, total: calls.append((done, total)))
        assert calls == [(n, None) for n in range(1, 7)]

    def test_a_failure_leaves_nothing_behind(self, datasets: Datasets, upload: Path, tmp_path: Path) -> None:
        """Whatever stops it, even the caller's progress bar, the dataset does not exist and staging is empty."""

        def interrupt(done: int, total: int | None) -> None:
            if done == 4:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            datasets.add("pets", make_zip(upload, pets()), progress=interrupt)
        with pytest.raises(DatasetNotFound):
            datasets.report("pets")
        assert list((tmp_path / "datasets" / ".staging").iterdir()) == []


class TestReport:
    def test_it_says_what_is_in_the_dataset(self, datasets: Datasets, upload: Path) -> None:
        """Counts, sizes, formats, modes, bytes, who and when; and it is kept."""
        files = {
            "cat/1.png": picture(1, size=(10, 20)),
            "cat/2.jpg": picture(2, size=(30, 40), kind="JPEG"),
            "dog/3.png": picture(3, size=(50, 90), mode="L"),
            "dog/4.png": picture(4, size=(50, 60), mode="P"),
        }
        report = datasets.add("pets", make_zip(upload, files), by="ann")
        assert (report.images, report.bytes) == (4, sum(map(len, files.values())))
        assert report.sizes.width.model_dump() == {"min": 10, "median": 40, "max": 50}
        assert report.sizes.height.model_dump() == {"min": 20, "median": 50, "max": 90}
        assert report.formats == {"PNG": 3, "JPEG": 1}
        assert report.modes == {"RGB": 2, "L": 1, "P": 1}
        assert (report.created_by, report.builtin, report.grayscale) == ("ann", False, False)
        assert report.created_at is not None
        assert datasets.report("pets") == report

    def test_what_is_no_usable_image_is_left_out_and_named(self, datasets: Datasets, upload: Path) -> None:
        """Text, cut images, empty files and images over the pixel cap, each with its reason."""
        files = pets() | {
            "README.txt": b"pictures of pets",
            "cat/cut.png": picture(9, size=(64, 64))[:60],
            "cat/empty.png": b"",
            "dog/fake.jpg": b"\xff\xd8\xff but then nothing that a JPEG has",
            "dog/huge.png": picture(8, size=(300, 300)),
            "dog/page.svg": b"<svg/>",
        }
        small = Datasets(upload.parent / "datasets", max_pixels=10_000)
        report = small.add("pets", make_zip(upload, files))
        reasons = {rejected.name: rejected.reason for rejected in report.rejected}
        assert reasons.keys() == files.keys() - pets().keys()
        assert report.rejected_files == 6
        assert report.images == 6
        assert "supported format" in reasons["README.txt"]
        assert "cut short" in reasons["cat/cut.png"]
        assert "empty" in reasons["cat/empty.png"]
        assert "90,000 pixels; at most 10,000" in reasons["dog/huge.png"]
        assert len(list((upload.parent / "datasets" / "pets" / "images").iterdir())) == 6

    def test_the_list_of_rejected_files_is_capped_their_number_is_not(self, datasets: Datasets, upload: Path) -> None:
        """A report stays of readable size."""
        junk = {f"cat/{n}.txt": b"x" for n in range(1200)}
        report = datasets.add("pets", make_zip(upload, pets() | junk))
        assert (report.rejected_files, len(report.rejected)) == (1200, 1000)

    def test_what_systems_leave_behind_is_ignored(self, datasets: Datasets, upload: Path) -> None:
        """macOS's and Windows's own files are neither images nor worth a reproach."""
        names = ["__MACOSX/cat/._0.png", "cat/.DS_Store", "Thumbs.db", "dog/desktop.ini", ".git/config", "cat/._1.png"]
        report = datasets.add("pets", make_zip(upload, pets() | dict.fromkeys(names, b"x")))
        assert (report.ignored_files, report.rejected_files) == (6, 0)

    def test_duplicates_are_found_and_contradictions_come_first(self, datasets: Datasets, upload: Path) -> None:
        """Equal bytes are reported; under different labels they also earn a warning."""
        files = pets() | {"cat/again.png": picture(0), "dog/0 copy.png": picture(256), "dog/a cat.png": picture(2)}
        report = datasets.add("pets", make_zip(upload, files))
        assert [(group.name, group.copies, group.labels) for group in report.duplicates] == [
            ("cat/2.png", ["dog/a cat.png"], ["cat", "dog"]),
            ("cat/0.png", ["cat/again.png"], ["cat"]),
            ("dog/0 copy.png", ["dog/0.png"], ["dog"]),
        ]
        assert (report.duplicate_files, report.conflicting_duplicates) == (3, 1)
        assert any("under different labels: 1" in warning for warning in report.warnings)

    def test_labels_that_only_case_tells_apart_are_reported(self, datasets: Datasets, upload: Path) -> None:
        """Cat and cat are probably one class; they stay two, with a warning."""
        files = pets() | {"Cat/1.png": picture(77), "cat /2.png": picture(78)}
        report = datasets.add("pets", make_zip(upload, files))
        assert report.case_twins == [["Cat", "cat", "cat "]]
        shown = report.case_twin_thumbnails
        assert {label: len(names) for label, names in shown.items()} == {"Cat": 1, "cat": 2, "cat ": 1}
        assert all(datasets.thumbnail("pets", name).is_file() for names in shown.values() for name in names)
        assert any("case or space" in warning for warning in report.warnings)

    def test_accents_are_one_letter_however_they_are_written(self, datasets: Datasets, upload: Path) -> None:
        """macOS decomposes é into e and an accent; both spellings are the same class."""
        files = {"caf\u00e9/1.png": picture(1), "cafe\u0301/2.png": picture(2), "bar/3.png": picture(3)}
        assert datasets.add("places", make_tar(upload, files)).classes == {"bar": 1, "caf\u00e9": 2}

    def test_a_class_with_too_few_images_earns_a_warning(self, datasets: Datasets, upload: Path) -> None:
        """The dataset is kept: another one may be made of it, but training will refuse."""
        report = datasets.add("pets", make_zip(upload, pets() | {"fish/1.png": picture(99)}))
        assert any("Fewer than 2 images in 'fish'" in warning for warning in report.warnings)

    def test_a_class_that_lost_all_its_images_earns_a_warning(self, datasets: Datasets, upload: Path) -> None:
        """Its folder would otherwise vanish without a word."""
        report = datasets.add("pets", make_zip(upload, pets(root="all/") | {"all/fish/x/1.heic": b"heic"}))
        assert report.classes.keys() == {"cat", "dog"}
        assert any("'all/fish'" in warning for warning in report.warnings)

    def test_grayscale_is_told_by_the_pixels_not_by_the_mode(self, datasets: Datasets, upload: Path) -> None:
        """Grey pictures saved as RGB are grey."""
        grey = {f"{label}/{n}.png": picture(n, mode="L") for label in ("a", "b") for n in range(2)}
        with Image.new("L", (8, 8), 9) as image:
            image.convert("RGB").save(upload.parent / "rgb.png")
        report = datasets.add("grey", make_zip(upload, grey | {"a/rgb.png": (upload.parent / "rgb.png").read_bytes()}))
        assert report.grayscale
        assert not datasets.add("mixed", make_zip(upload, grey | pets())).grayscale

    def test_sizes_are_those_of_the_upright_image(self, datasets: Datasets, upload: Path) -> None:
        """A phone's portrait photo is stored lying on its side."""
        exif = Image.Exif()
        exif[0x0112] = 6
        Image.new("RGB", (40, 30)).save(upload.parent / "photo.jpg", exif=exif)
        datasets.add("pets", make_zip(upload, pets() | {"cat/a.jpg": (upload.parent / "photo.jpg").read_bytes()}))
        sample = next(sample for sample in datasets.load("pets").samples if sample.name == "cat/a.jpg")
        assert (sample.width, sample.height) == (30, 40)

    def test_fingerprint_depends_on_content_only(self, datasets: Datasets, upload: Path) -> None:
        """The same images in another order and kind of archive have the same; one changed pixel changes it."""
        files = pets()
        first = datasets.add("one", make_zip(upload, files)).fingerprint
        second = datasets.add("two", make_tar(upload, dict(reversed(files.items())))).fingerprint
        third = datasets.add("three", make_zip(upload, files | {"cat/0.png": picture(55)})).fingerprint
        assert first == second != third
        assert datasets.load("one").fingerprint == first


class TestLists:
    def test_built_in_datasets_are_there_without_upload(self, datasets: Datasets) -> None:
        """Listed and described, with their true counts."""
        assert [report.name for report in datasets.list()] == ["digits", "shapes"]
        digits, shapes = datasets.report("digits"), datasets.report("shapes")
        assert digits.classes == dict(
            zip("0123456789", (178, 182, 177, 183, 181, 182, 181, 179, 174, 180), strict=True)
        )
        assert digits.images == 1797
        assert (digits.sizes.width.max, shapes.sizes.width.max) == (8, 28)
        assert shapes.classes.keys() == {"diagonal", "horizontal", "vertical"}
        assert digits.builtin
        assert shapes.builtin
        with pytest.raises(InvalidDataset, match="built in"):
            datasets.load("shapes")

    def test_uploaded_ones_come_first_sorted(self, datasets: Datasets, upload: Path, tmp_path: Path) -> None:
        """Staging, stray files and half a folder are no datasets."""
        make_zip(upload, pets())
        for name in ("b", "a"):
            datasets.add(name, upload)
        (tmp_path / "datasets" / "empty").mkdir()
        (tmp_path / "datasets" / "notes.txt").touch()
        assert [report.name for report in datasets.list()] == ["a", "b", "digits", "shapes"]

    def test_an_unknown_name_is_answered_with_those_there_are(self, datasets: Datasets, upload: Path) -> None:
        """The message helps on."""
        datasets.add("pets", make_zip(upload, pets()))
        for call in (datasets.report, datasets.load):
            with pytest.raises(DatasetNotFound, match="There is: pets, digits, shapes"):
                call("dogs")
            with pytest.raises(InvalidName):
                call("../pets")

    @pytest.mark.parametrize("file", ["report.json", "index.jsonl"])
    def test_a_damaged_dataset_is_said_to_be_so(
        self, datasets: Datasets, upload: Path, tmp_path: Path, file: str
    ) -> None:
        """A cut file is no smaller dataset."""
        datasets.add("pets", make_zip(upload, pets()))
        path = tmp_path / "datasets" / "pets" / file
        for size in (0, path.stat().st_size // 2):
            os.truncate(path, size)
            with pytest.raises(StorageFailed, match="damaged"):
                datasets.load("pets")


def test_images_are_checked_on_the_cores_that_a_container_has(
    tmp_path: Path, upload: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a container with one core, images are checked one at a time, however many the machine has."""
    names = set()

    def record(*arguments: Any, **options: Any) -> Any:
        names.add(threading.current_thread().name)
        return to_array(*arguments, **options)

    monkeypatch.setattr(intake, "available_cores", lambda: 1)
    monkeypatch.setattr(intake, "to_array", record)
    make_zip(upload, pets(each=12))
    assert Datasets(tmp_path / "datasets").add("pets", upload).images == 24
    assert names == {"dataset-check_0"}
