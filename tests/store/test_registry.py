"""Versions are complete or absent, never edited, and refused when they are not what was registered."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from app.errors import (
    Conflict,
    InvalidName,
    InvalidRequest,
    ModelNotFound,
    NotFound,
    StorageFailed,
    VersionNotFound,
    VersionRefused,
)
from app.store.registry import Registry
from tests.store.versions import add_version, decision, fill, manifest


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "store")


class TestRegister:
    def test_versions_are_numbered_from_one(self, registry: Registry) -> None:
        """The first version of a model is 1, the next 2; other models count for themselves."""
        assert [add_version(registry, "cats"), add_version(registry, "cats"), add_version(registry, "dogs")] == [
            1,
            2,
            1,
        ]
        assert registry.models() == ["cats", "dogs"]
        assert registry.versions("cats") == [1, 2]

    def test_manifest_names_the_digest_of_every_file(self, registry: Registry) -> None:
        """`model.json` on disk is readable JSON with the SHA-256 of each file, and parses to what `manifest` gives."""
        add_version(registry)
        text = (registry.folder("cats", 1) / "model.json").read_text()
        assert text.startswith('{\n  "schema_version"')
        assert sorted(json.loads(text)["files"]) == ["saved_model.pb", "variables/variables.data"]
        assert registry.manifest("cats", 1).files == json.loads(text)["files"]

    def test_nothing_is_seen_before_registration(self, registry: Registry) -> None:
        """A version that is being written is in no list; if it is not registered it leaves nothing behind."""
        with registry.staging() as staged:
            fill(staged)
            assert registry.models() == []
        assert not staged.exists()
        assert list(staged.parent.iterdir()) == []

    def test_number_of_a_promoted_version_never_returns(self, registry: Registry) -> None:
        """A number that the promotion log names stays taken, even if its folder is deleted."""
        add_version(registry)
        add_version(registry)
        registry.promote("cats", 2, by="test")
        shutil.rmtree(registry.folder("cats", 2))
        assert add_version(registry) == 3

    def test_a_taken_number_means_the_next_one(self, registry: Registry) -> None:
        """A number that anything else occupies, even a plain file, is passed over."""
        add_version(registry)
        (registry.folder("cats", 1).parent / "2").write_text("in the way")
        assert add_version(registry) == 3

    @pytest.mark.parametrize("kind", ["symlink", "fifo", "name"])
    def test_only_plain_files_can_be_registered(self, registry: Registry, kind: str) -> None:
        """Links, pipes and names that JSON cannot hold are refused, and nothing is registered."""
        with registry.staging() as staged:
            fill(staged)
            match kind:
                case "symlink":
                    (staged / "odd").symlink_to("/etc/passwd")
                case "fifo":
                    os.mkfifo(staged / "odd")
                case "name":
                    (staged / os.fsdecode(b"odd\xff")).touch()
            with pytest.raises(InvalidRequest, match="odd"):
                registry.register(staged, manifest())
        assert registry.models() == []

    def test_only_a_staging_folder_can_be_registered(self, registry: Registry, tmp_path: Path) -> None:
        """A folder elsewhere might lie on another file system, where nothing moves atomically."""
        fill(tmp_path)
        with pytest.raises(ValueError, match="staging"):
            registry.register(tmp_path, manifest())


class TestLists:
    def test_an_empty_or_absent_store_has_no_models(self, registry: Registry) -> None:
        """Reading a store that was never written to finds nothing, and makes nothing."""
        assert registry.models() == []
        assert registry.production("cats") is None
        assert registry.clean() == 0
        with pytest.raises(ModelNotFound, match="no model 'cats'"):
            registry.versions("cats")

    def test_what_is_no_version_is_not_listed(self, registry: Registry, tmp_path: Path) -> None:
        """Hidden folders, odd names, numbers with zeros, links and folders without a manifest are passed over."""
        add_version(registry)
        model = tmp_path / "store" / "cats"
        for name in ("0", "01", "2x", ".3", "latest", "4"):
            (model / name).mkdir()
        (model / "5").symlink_to(model / "1")
        (model / "6").write_text("a file")
        for name in (".hidden", "Cats", "with space"):
            shutil.copytree(model, tmp_path / "store" / name, symlinks=True)
        (tmp_path / "store" / "linked").symlink_to(model)
        assert registry.models() == ["cats"]
        assert registry.versions("cats") == [1]

    def test_an_unknown_version_is_answered_with_those_there_are(self, registry: Registry) -> None:
        """The message helps on."""
        add_version(registry)
        with pytest.raises(VersionNotFound, match=r"no version 7\. It has: 1"):
            registry.manifest("cats", 7)


class TestVerify:
    def test_an_untouched_version_passes(self, registry: Registry) -> None:
        """What was registered verifies, and the manifest comes back."""
        add_version(registry, created_by="job 7")
        assert registry.verify("cats", 1).created_by == "job 7"

    @pytest.mark.parametrize(
        ("harm", "reason"),
        [
            ("change", "'saved_model.pb' changed"),
            ("remove", "lacks 'saved_model.pb'"),
            ("add", "has 'extra.so', which its model.json does not name"),
            ("add hidden", "has '.hidden'"),
            ("add in folder", "has 'variables/extra'"),
            ("link", "has 'saved_model.pb', a symbolic link"),
            ("link folder", "has 'variables', a symbolic link"),
            ("pipe", "has 'saved_model.pb', which is not a regular file"),
            ("no manifest", "has no model.json"),
            ("broken manifest", "model.json of version 1 of cats is not valid"),
            ("unknown field", "surprise: there is no such field"),
            ("foreign manifest", "is that of model 'dogs'"),
        ],
    )
    def test_a_version_that_is_not_what_was_registered_is_refused(
        self, registry: Registry, harm: str, reason: str
    ) -> None:
        """Whatever was changed in a version's folder, the reason names it."""
        add_version(registry)
        folder = registry.folder("cats", 1)
        model, manifest_file = folder / "saved_model.pb", folder / "model.json"
        match harm:
            case "change":
                model.write_text("GRAPH")
            case "remove":
                model.unlink()
            case "add":
                (folder / "extra.so").touch()
            case "add hidden":
                (folder / ".hidden").touch()
            case "add in folder":
                (folder / "variables" / "extra").touch()
            case "link":
                model.rename(folder.parent / "elsewhere")
                model.symlink_to("../elsewhere")
            case "link folder":
                (folder / "variables").rename(folder.parent / "elsewhere")
                (folder / "variables").symlink_to("../elsewhere")
            case "pipe":
                model.unlink()
                os.mkfifo(model)
            case "no manifest":
                manifest_file.unlink()
            case "broken manifest":
                manifest_file.write_text(manifest_file.read_text()[:-20])
            case "unknown field":
                manifest_file.write_text(manifest_file.read_text().replace("{", '{"surprise": 1,', 1))
            case "foreign manifest":
                manifest_file.write_text(manifest_file.read_text().replace('"cats"', '"dogs"'))
        with pytest.raises(VersionRefused) as refused:
            registry.verify("cats", 1)
        assert reason in str(refused.value)


class TestPromotions:
    @pytest.fixture(autouse=True)
    def _three_versions(self, registry: Registry) -> None:
        for _ in range(3):
            add_version(registry)

    def test_publishing_is_not_promoting(self, registry: Registry) -> None:
        """A registered version is not production until it is promoted."""
        assert registry.production("cats") is None
        assert registry.promotions("cats") == []

    def test_the_last_entry_is_production(self, registry: Registry, tmp_path: Path) -> None:
        """Who, when and why are kept; the log is files that can be read with `ls` and `cat`."""
        registry.promote("cats", 1, by="ann", reason="first")
        entry = registry.promote("cats", 3, by="bob", reason="better")
        assert registry.production("cats") == entry
        assert [(e.sequence, e.version, e.by, e.reason) for e in registry.promotions("cats")] == [
            (1, 1, "ann", "first"),
            (2, 3, "bob", "better"),
        ]
        files = sorted(path.name for path in (tmp_path / "store" / "cats" / "promotions").iterdir())
        assert files == ["00000001.json", "00000002.json"]

    def test_promoting_production_again_changes_nothing(self, registry: Registry) -> None:
        """The call can be repeated safely."""
        first = registry.promote("cats", 2, by="ann")
        assert registry.promote("cats", 2, by="bob") == first
        assert registry.promotions("cats") == [first]

    def test_the_log_keeps_the_numbers_of_a_decision(self, registry: Registry) -> None:
        """The comparison that a promotion rests on stands in its entry, and is read again as it was."""
        for _ in range(2):
            add_version(registry)
        registry.promote("cats", 1, by="ann")
        registry.promote("cats", 2, by="a job", decision=decision(2, 1))
        assert [entry.decision for entry in registry.promotions("cats")] == [None, decision(2, 1)]

    def test_a_promotion_without_a_decision_can_be_read_by_earlier_releases(
        self, registry: Registry, tmp_path: Path
    ) -> None:
        """They refuse fields that they do not know, and follow the same log."""
        add_version(registry)
        registry.promote("cats", 1, by="ann")
        entry = json.loads((tmp_path / "store" / "cats" / "promotions" / "00000001.json").read_text())
        assert entry.keys() == {"sequence", "version", "at", "by", "reason", "action"}

    def test_a_decision_against_another_version_promotes_nothing(self, registry: Registry) -> None:
        """When somebody else promoted while two versions were compared, the comparison says nothing any more."""
        for _ in range(3):
            add_version(registry)
        registry.promote("cats", 1, by="ann")
        registry.promote("cats", 3, by="bob")
        with pytest.raises(Conflict, match="compared with version 1, which is no longer production"):
            registry.promote("cats", 2, by="a job", decision=decision(2, 1))
        assert [entry.version for entry in registry.promotions("cats")] == [1, 3]

    @pytest.mark.parametrize("after", [0, 1])
    def test_a_promotion_that_knows_an_older_log_changes_nothing(self, registry: Registry, after: int) -> None:
        """Whoever decided when there was another production version, or none, has to decide anew."""
        registry.promote("cats", 1, by="ann")
        registry.promote("cats", 3, by="bob")
        with pytest.raises(Conflict, match="by somebody else meanwhile"):
            registry.promote("cats", 2, by="a job", after=after)
        assert registry.promote("cats", 2, by="a job", after=2).sequence == 3

    def test_only_what_exists_can_be_promoted(self, registry: Registry) -> None:
        """An unknown model or version, or one without a readable manifest, is refused."""
        (registry.folder("cats", 2) / "model.json").write_text("{}")
        with pytest.raises(VersionNotFound):
            registry.promote("cats", 4, by="test")
        with pytest.raises(ModelNotFound):
            registry.promote("dogs", 1, by="test")
        with pytest.raises(VersionRefused):
            registry.promote("cats", 2, by="test")
        assert registry.promotions("cats") == []

    def test_rolling_back_twice_goes_two_back(self, registry: Registry) -> None:
        """Rollbacks walk down the stack of promotions, and a promotion after one goes on from there."""
        for version in (1, 2, 3):
            registry.promote("cats", version, by="test")
        assert registry.previous("cats") == 2
        assert [registry.rollback("cats", by="test").version for _ in range(2)] == [2, 1]
        assert registry.promote("cats", 3, by="test").version == 3
        entry = registry.rollback("cats", by="ann", reason="worse")
        assert (entry.version, entry.action, entry.by, entry.reason) == (1, "rollback", "ann", "worse")

    def test_with_nothing_before_there_is_no_rollback(self, registry: Registry) -> None:
        """Never promoted, promoted once, or rolled back all the way: a conflict, and the log stays."""
        with pytest.raises(Conflict, match="no version to go back to: none was promoted yet"):
            registry.rollback("cats", by="test")
        registry.promote("cats", 1, by="test")
        with pytest.raises(Conflict, match="version 1 is the only one that was ever production"):
            registry.rollback("cats", by="test")
        registry.promote("cats", 2, by="test")
        registry.rollback("cats", by="test")
        with pytest.raises(Conflict, match=r"rolled back to version 1, .* promote a version that .* since: 2\.$"):
            registry.rollback("cats", by="test")
        with pytest.raises(Conflict):
            registry.previous("cats")
        assert len(registry.promotions("cats")) == 3

    def test_a_rollback_to_what_was_checked_goes_nowhere_else(self, registry: Registry) -> None:
        """Who checked a version before names it; if the log has moved on, that is a conflict and changes nothing."""
        for version in (1, 2, 3):
            registry.promote("cats", version, by="test")
        with pytest.raises(Conflict, match="lead to version 2, not 1"):
            registry.rollback("cats", by="test", to=1)
        assert len(registry.promotions("cats")) == 3
        assert registry.rollback("cats", by="test", to=2).version == 2

    def test_a_log_that_lost_its_beginning_can_still_be_rolled_back(self, registry: Registry, tmp_path: Path) -> None:
        """If the first entry left is a rollback, what it made production is the oldest version to go back to."""
        for version in (1, 2, 3):
            registry.promote("cats", version, by="test")
        registry.rollback("cats", by="test")
        for entry in ("00000001.json", "00000002.json", "00000003.json"):
            (tmp_path / "store" / "cats" / "promotions" / entry).unlink()
        with pytest.raises(Conflict, match="no version to go back to"):
            registry.previous("cats")
        registry.promote("cats", 3, by="test")
        assert registry.rollback("cats", by="test").version == 2

    def test_a_rollback_goes_only_to_what_still_is_there_unchanged(self, registry: Registry) -> None:
        """A version that was deleted or tampered with since is not gone back to."""
        registry.promote("cats", 1, by="test")
        registry.promote("cats", 2, by="test")
        (registry.folder("cats", 1) / "saved_model.pb").write_text("tampered")
        with pytest.raises(VersionRefused):
            registry.rollback("cats", by="test")
        shutil.rmtree(registry.folder("cats", 1))
        with pytest.raises(VersionNotFound):
            registry.rollback("cats", by="test")
        assert [entry.version for entry in registry.promotions("cats")] == [1, 2]

    def test_order_is_numeric_also_past_eight_digits(self, registry: Registry, tmp_path: Path) -> None:
        """A log that outgrows its zeros goes on."""
        entry = registry.promote("cats", 1, by="test")
        log = tmp_path / "store" / "cats" / "promotions"
        (log / "99999999.json").write_text(entry.model_copy(update={"sequence": 99999999}).model_dump_json())
        registry.promote("cats", 2, by="test")
        assert (log / "100000000.json").exists()
        assert registry.rollback("cats", by="test").sequence == 100000001

    def test_other_files_in_the_log_are_passed_over(self, registry: Registry, tmp_path: Path) -> None:
        """An editor's backup is no promotion."""
        registry.promote("cats", 1, by="test")
        for name in ("00000002.json~", ".00000003.json", "notes.txt", "9.json"):
            (tmp_path / "store" / "cats" / "promotions" / name).write_text("{}")
        assert len(registry.promotions("cats")) == 1

    @pytest.mark.parametrize("text", ["", "{", '{"sequence": 7, "version": 1, "at": "2026-01-01T00:00:00Z", "by": ""}'])
    def test_a_damaged_entry_is_named(self, registry: Registry, tmp_path: Path, text: str) -> None:
        """No guess is made at what production is."""
        registry.promote("cats", 1, by="test")
        (tmp_path / "store" / "cats" / "promotions" / "00000002.json").write_text(text)
        with pytest.raises(StorageFailed, match=r"Entry 00000002\.json of the promotion log of cats"):
            registry.production("cats")


class TestRefusals:
    @pytest.fixture(autouse=True)
    def _three_versions(self, registry: Registry) -> None:
        for version in (1, 2, 3):
            add_version(registry)
            if version < 3:
                registry.promote("cats", version, by="ann")

    def test_a_refusal_stands_in_the_log_with_its_numbers_and_promotes_nothing(
        self, registry: Registry, tmp_path: Path
    ) -> None:
        """What is production, the promotions and the way back stay as they were; the file stands where it belongs."""
        log = registry.promotions("cats")
        refusal = registry.refuse("cats", 3, after=2, by="a job", reason="worse", decision=decision(3, 2))
        assert registry.refusals("cats") == [refusal]
        assert (refusal.version, refusal.by, refusal.reason, refusal.decision) == (3, "a job", "worse", decision(3, 2))
        assert registry.production("cats") == log[-1]
        assert registry.promotions("cats") == log
        assert registry.previous("cats") == 1
        files = sorted(path.name for path in (tmp_path / "store" / "cats" / "promotions").iterdir())
        assert files == ["00000001.json", "00000002.json", "00000002.refused-3.json"]
        assert registry.rollback("cats", by="ann").sequence == 3

    def test_the_same_refusal_is_noted_once(self, registry: Registry) -> None:
        """A job that died in the middle decides again when it is resumed; against another version it is another one."""
        first = registry.refuse("cats", 3, after=2, by="a job", reason="worse")
        assert registry.refuse("cats", 3, after=2, by="a job", reason="worse") == first
        registry.promote("cats", 1, by="ann")
        second = registry.refuse("cats", 3, after=3, by="a job", reason="worse")
        assert registry.refusals("cats") == [first, second]

    def test_a_log_without_refusals_has_none(self, registry: Registry) -> None:
        """As those of earlier releases are; a model that is not there has no log."""
        assert registry.refusals("cats") == []
        with pytest.raises(ModelNotFound):
            registry.refusals("dogs")
        with pytest.raises(VersionNotFound):
            registry.refuse("cats", 4, after=2, by="a job", reason="worse")

    def test_number_of_a_refused_version_never_returns(self, registry: Registry) -> None:
        """A number in the log means one version for ever, also where its folder was deleted."""
        registry.refuse("cats", 3, after=2, by="a job", reason="worse")
        shutil.rmtree(registry.folder("cats", 3))
        assert add_version(registry) == 4

    def test_a_damaged_refusal_is_named_and_hides_no_promotion(self, registry: Registry, tmp_path: Path) -> None:
        """What answers does not hang on it."""
        (tmp_path / "store" / "cats" / "promotions" / "00000002.refused-3.json").write_text("{")
        with pytest.raises(StorageFailed, match=r"Entry 00000002\.refused-3\.json of the promotion log of cats"):
            registry.refusals("cats")
        assert [entry.version for entry in registry.promotions("cats")] == [1, 2]


class TestDurability:
    @pytest.fixture
    def events(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        """What was flushed to the disk and what was put in place, in order, relative to the store."""
        events: list[str] = []
        fsync, rename, link = os.fsync, os.rename, os.link

        def shown(path: object) -> str:
            return re.sub("[0-9a-f]{32}", "staged", str(path).removeprefix(f"{tmp_path / 'store'}"))

        def record_fsync(descriptor: int) -> None:
            events.append(f"fsync {shown(Path(f'/proc/self/fd/{descriptor}').readlink())}")
            fsync(descriptor)

        def record_rename(source: Path, target: Path, **_: object) -> None:
            events.append(f"rename {shown(target)}")
            rename(source, target)

        def record_link(source: Path, target: Path, **_: object) -> None:
            events.append(f"link {shown(target)}")
            link(source, target)

        monkeypatch.setattr(os, "fsync", record_fsync)
        monkeypatch.setattr(os, "rename", record_rename)
        monkeypatch.setattr(os, "link", record_link)
        return events

    def test_a_version_is_on_the_disk_before_and_after_it_gets_its_name(
        self, registry: Registry, events: list[str]
    ) -> None:
        """All files and folders first, then the rename, then the folder that names it: safe from power cuts."""
        add_version(registry)
        place = events.index("rename /cats/1")
        staged = "fsync /.staging/staged"
        inner = ["", "/model.json", "/saved_model.pb", "/variables", "/variables/variables.data"]
        assert {f"{staged}{name}" for name in inner} <= set(events[:place])
        assert events[place + 1 :] == ["fsync /cats"]
        assert "fsync " in events[:place], "the folder that names the new model's folder"

    def test_a_promotion_is_on_the_disk_before_and_after_it_gets_its_name(
        self, registry: Registry, events: list[str]
    ) -> None:
        """The entry's content first, then its name, then the log's folder."""
        add_version(registry)
        events.clear()
        registry.promote("cats", 1, by="test")
        assert events == [
            "fsync /.staging/staged/file",
            "fsync /cats",
            "link /cats/promotions/00000001.json",
            "fsync /cats/promotions",
        ]


class TestDiskErrors:
    @pytest.mark.parametrize(
        ("number", "reason"),
        [(errno.ENOSPC, "disk is full"), (errno.EROFS, "read-only"), (errno.EACCES, "may not write there")],
    )
    @pytest.mark.parametrize("call", ["fsync", "mkdir"])
    def test_a_disk_that_refuses_is_a_plain_sentence(
        self, registry: Registry, monkeypatch: pytest.MonkeyPatch, call: str, number: int, reason: str
    ) -> None:
        """Full, read-only or forbidden: said so, with staging cleaned and the store as it was."""
        add_version(registry)
        add_version(registry)
        registry.promote("cats", 1, by="test")

        def refuse(*_: object, **__: object) -> None:
            raise OSError(number, os.strerror(number))

        with monkeypatch.context() as broken:
            broken.setattr(os, call, refuse)
            with pytest.raises(StorageFailed, match=reason):
                add_version(registry)
            with pytest.raises(StorageFailed, match=reason):
                registry.promote("cats", 2, by="test")
        assert registry.versions("cats") == [1, 2]
        assert [entry.version for entry in registry.promotions("cats")] == [1]
        assert list((registry.folder("cats", 1).parent.parent / ".staging").iterdir()) == []

    def test_a_disk_that_fills_up_while_a_version_is_written_says_so(self, registry: Registry) -> None:
        """An export that runs out of space inside of the block is the store's failure, not the exporter's."""
        with pytest.raises(StorageFailed, match="disk is full"), registry.staging():
            raise OSError(errno.ENOSPC, "No space left on device")
        with pytest.raises(FileNotFoundError), registry.staging():
            raise FileNotFoundError(errno.ENOENT, "a bug of the caller's own")


class TestNames:
    @given(name=st.text() | st.text("./\\%\0ab", max_size=8), version=st.integers())
    @example(name="..", version=1)
    @example(name="../outside", version=1)
    @example(name="/etc", version=1)
    @example(name="cats/../../outside", version=1)
    @example(name="%2e%2e", version=1)
    @example(name="cats\0", version=1)
    @example(name="cats\n", version=1)
    @example(name="ｃats", version=1)
    @example(name="cats/1", version=-1)
    @example(name=".staging", version=0)
    def test_no_name_leads_out_of_the_store(
        self, tmp_path_factory: pytest.TempPathFactory, name: str, version: int
    ) -> None:
        """Any text as a model's name is refused or not found; no path is made from it."""
        base = tmp_path_factory.getbasetemp() / "names"
        registry = Registry(base / "store")
        if not base.exists():
            add_version(registry)
            add_version(Registry(base), "outside")
        for call in (registry.folder, registry.manifest, registry.verify):
            with pytest.raises((InvalidName, NotFound)):
                call(name, version)
        with pytest.raises((InvalidName, NotFound)):
            registry.versions(name)
        with pytest.raises((InvalidName, NotFound)):
            registry.promotions(name)
        with pytest.raises((InvalidName, NotFound)):
            registry.promote(name, version, by="test")
        with registry.staging() as staged, pytest.raises(InvalidName):
            registry.register(staged, manifest().model_copy(update={"model": name + "/.."}))
        assert sorted(path.name for path in base.iterdir()) == [".staging", "outside", "store"]
