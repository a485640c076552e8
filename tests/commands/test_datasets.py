"""`fovea datasets` and `fovea keys`."""

from __future__ import annotations

import json
import os
import tarfile
from pathlib import Path

import pytest

from app.api.security import parse_keys
from app.commands.archive import dataset_name, packed
from app.errors import InvalidRequest
from tests.commands.conftest import Fovea


def test_folder_is_added_under_a_name_of_its_own(fovea: Fovea, pictures: Path, tmp_path: Path) -> None:
    """A folder of classes becomes a dataset, named as the folder as far as a name can be."""
    result = fovea("datasets", "add", pictures)
    assert result.exit_code == 0
    assert "Dataset holiday-pictures: 20 images in 2 classes" in result.output
    listed = fovea("datasets", "list")
    assert listed.output.splitlines()[1].split()[:3] == ["holiday-pictures", "20", "2"]
    assert "digits" in listed.output
    assert list((tmp_path / "workspace" / "uploads").iterdir()) == []


def test_archive_is_added(fovea: Fovea, pictures: Path, tmp_path: Path) -> None:
    """An archive is taken as it is, under the name asked for."""
    archive = tmp_path / "upload.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(pictures, arcname="pictures")
    result = fovea("datasets", "add", archive, "--name", "mine")
    assert result.exit_code == 0
    assert "Dataset mine: 20 images" in result.output


def test_report_names_what_was_left_out(fovea: Fovea, pictures: Path) -> None:
    """Files that are no images are counted and named with the reason; all of it is in the JSON."""
    for number in range(12):
        (pictures / "dark" / f"notes-{number}.txt").write_text("no image")
    result = fovea("datasets", "add", pictures, "--name", "mine")
    assert "Left out: 12 files" in result.output
    assert "notes-0.txt" in result.output
    assert "fovea datasets show mine --json" in result.output
    report = json.loads(fovea("datasets", "show", "mine", "--json").output)
    assert len(report["rejected"]) == 12
    assert fovea("datasets", "show", "mine").output == result.output


def test_report_is_aligned_and_names_the_duplicates(fovea: Fovea, pictures: Path) -> None:
    """Counts stand in a column, sizes that are all the same are one, and the duplicates can be found."""
    (pictures / "light").rename(pictures / "very light")
    picture = (pictures / "dark" / "1.png").read_bytes()
    for number in range(5):
        (pictures / "very light" / f"twin-{number}.png").write_bytes(picture)
    lines = fovea("datasets", "add", pictures, "--name", "mine").output.splitlines()
    assert lines[1:4] == ["  dark        10", "  very light  15", "Sizes: 28 x 28 pixels, greyscale"]
    assert lines[-2:] == [
        "Duplicates: 5 files",
        (
            "  dark/1.png = very light/twin-0.png, very light/twin-1.png, very light/twin-2.png and 2 more "
            "(as dark, very light)"
        ),
    ]


def test_list_as_json_is_a_document_a_line(fovea: Fovea) -> None:
    """For programs, each line of the list is a dataset."""
    reports = [json.loads(line) for line in fovea("datasets", "list", "--json").output.splitlines()]
    assert {"digits", "shapes"} <= {report["name"] for report in reports}


def test_workspace_without_datasets_is_named(fovea: Fovea, pictures: Path, tmp_path: Path) -> None:
    """Where there are the built-in datasets only, it is told where others were looked for."""
    assert fovea("datasets", "list").stderr == f"No others in {tmp_path / 'workspace'} (FOVEA_WORKSPACE).\n"
    fovea("datasets", "add", pictures)
    assert fovea("datasets", "list").stderr == ""


def test_damaged_dataset_is_listed_with_what_is_wrong(fovea: Fovea, pictures: Path, tmp_path: Path) -> None:
    """A report that was cut short hides no other dataset, and training on another is not held up."""
    fovea("datasets", "add", pictures, "--name", "mine")
    (tmp_path / "workspace" / "datasets" / "mine" / "report.json").write_text("{")
    result = fovea("datasets", "list")
    assert result.exit_code == 0
    [mine] = [line for line in result.output.splitlines() if line.startswith("mine")]
    assert "report.json of dataset mine is damaged" in " ".join(result.output.split())
    assert mine.split()[1:3] == ["-", "-"]
    assert "digits" in result.output


def test_built_in_dataset_is_shown(fovea: Fovea) -> None:
    """The built-in datasets have a report too."""
    result = fovea("datasets", "show", "digits")
    assert result.exit_code == 0
    assert "Dataset digits: 1,797 images in 10 classes" in result.output


def test_dataset_that_is_not_there_is_told_with_where_it_was_looked_for(fovea: Fovea, tmp_path: Path) -> None:
    """The message says which datasets there are, in which folder, and which variable names it."""
    result = fovea("datasets", "show", "nothing")
    assert result.exit_code == 2
    assert result.stderr == (
        "Error: There is no dataset 'nothing'. There is: digits, shapes. "
        f"Looked in {tmp_path / 'workspace'} (FOVEA_WORKSPACE).\n"
    )


def test_name_that_is_taken_is_refused(fovea: Fovea, pictures: Path) -> None:
    """A dataset is never replaced."""
    fovea("datasets", "add", pictures, "--name", "mine")
    result = fovea("datasets", "add", pictures, "--name", "mine")
    assert result.exit_code == 1
    assert "mine" in result.stderr


def test_empty_folder_is_refused(fovea: Fovea, tmp_path: Path) -> None:
    """A folder without files makes no dataset."""
    (tmp_path / "empty").mkdir()
    result = fovea("datasets", "add", tmp_path / "empty")
    assert result.exit_code == 2
    assert "holds no files" in result.stderr


def test_packing_leaves_hidden_files_out_and_follows_links(tmp_path: Path) -> None:
    """Of a folder go its visible files, those behind links too; not what version control or systems keep there."""
    folder, elsewhere = tmp_path / "folder", tmp_path / "elsewhere"
    (folder / "cat").mkdir(parents=True)
    (folder / ".git").mkdir()
    elsewhere.mkdir()
    (elsewhere / "b.png").write_text("b")
    (folder / "cat" / "a.png").write_text("a")
    (folder / "cat" / ".DS_Store").write_text("x")
    (folder / ".git" / "config").write_text("x")
    (folder / "dog").symlink_to(elsewhere)
    (folder / "cat" / "broken.png").symlink_to(tmp_path / "missing")
    os.mkfifo(folder / "cat" / "pipe")
    with packed(folder, tmp_path / "uploads") as archive, tarfile.open(archive) as tar:
        members = tar.getmembers()
    assert [member.name for member in members] == ["cat/a.png", "dog/b.png"]
    assert all(member.isreg() for member in members)
    assert not archive.exists()


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("Holiday Photos.tar.gz", "holiday-photos"),
        ("flowers", "flowers"),
        ("/data/CIFAR_10.zip", "cifar_10"),
        ("x" * 100, "x" * 63),
        ("_.TGZ", None),
        ("äöü", None),
    ],
)
def test_name_is_made_of_the_path(path: str, name: str | None) -> None:
    """A valid name comes of the path's last part, or the way out is told."""
    if name is None:
        with pytest.raises(InvalidRequest, match="--name"):
            dataset_name(Path(path))
    else:
        assert dataset_name(Path(path)) == name


def test_new_key_fits_its_line(fovea: Fovea) -> None:
    """The line on standard output is one for the file of keys, and knows the key that is shown beside it."""
    import hashlib

    result = fovea("keys", "new", "--name", "me", "--scope", "predict", "--scope", "train")
    assert result.exit_code == 0
    key = result.stderr.splitlines()[0].rpartition(" ")[2]
    (parsed,) = parse_keys(result.stdout)
    assert "Its line went to standard output." in result.stderr
    assert parsed.name == "me"
    assert parsed.scopes == {"predict", "train"}
    assert parsed.digest == hashlib.sha256(key.encode()).hexdigest()


def test_key_needs_a_valid_name_and_scope(fovea: Fovea) -> None:
    """What could not stand in the file of keys is refused."""
    assert fovea("keys", "new", "--name", "A B", "--scope", "predict").exit_code == 2
    result = fovea("keys", "new", "--name", "me", "--scope", "root")
    assert result.exit_code == 2
    assert "predict" in result.stderr
