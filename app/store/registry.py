"""The model store: versions that are complete or absent, and a log that says which is production.

    <root>/<model>/<version>/      version: 1, 2, 3 …; never edited
    <root>/<model>/promotions/     append-only; see `app.store.promotions`

Only these two modules know how the store looks. Every change is one atomic step, so a process may be
killed at any point, and any number of processes may register and promote at a time.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from contextlib import AbstractContextManager
from pathlib import Path

from pydantic import ValidationError

from app.asked import first_complaint
from app.errors import (
    Conflict,
    InvalidName,
    InvalidRequest,
    ModelNotFound,
    VersionNotFound,
    VersionRefused,
)
from app.names import check_name
from app.store.manifest import MANIFEST, Manifest, Promotion, PromotionDecision, Refusal
from app.store.promotions import PromotionLog, version_before
from app.store.storage import LocalStorage, Storage

_VERSION = re.compile(r"[1-9][0-9]{0,8}")


class Registry:
    """Models, their versions, and which of them is production. Safe to use from threads and processes."""

    def __init__(self, root: Path | Storage) -> None:
        self._storage = LocalStorage(root, what="model store") if isinstance(root, Path) else root

    # Versions

    def models(self) -> list[str]:
        """Names of the models that have a version, sorted."""
        return sorted(name for name in self._storage.folders("") if _is_name(name) and self._numbers(name))

    def versions(self, model: str) -> list[int]:
        """Versions of a model, ascending.

        Raises:
            InvalidName, ModelNotFound.
        """
        versions = [number for number in self._existing(model) if self._has_manifest(model, number)]
        if not versions:
            raise self._no_model(model)
        return versions

    def manifest(self, model: str, version: int) -> Manifest:
        """The manifest of a version, parsed but not verified.

        Raises:
            InvalidName, ModelNotFound, VersionNotFound: there is no such version.
            VersionRefused: it has no manifest that can be read.
        """
        text = self._storage.read(f"{self._key(model, version)}/{MANIFEST}")
        if text is None:
            raise VersionRefused(f"Version {version} of {model} has no {MANIFEST}.")
        try:
            manifest = Manifest.model_validate_json(text)
        except ValidationError as error:
            raise VersionRefused(
                f"The {MANIFEST} of version {version} of {model} is not valid: {first_complaint(error)}."
            ) from error
        if manifest.model != model:
            raise VersionRefused(f"The {MANIFEST} of version {version} of {model} is that of model {manifest.model!r}.")
        return manifest

    def folder(self, model: str, version: int) -> Path:
        """Local folder with the files of a version.

        Raises:
            InvalidName, ModelNotFound, VersionNotFound.
        """
        return self._storage.local(self._key(model, version))

    def verify(self, model: str, version: int) -> Manifest:
        """Check a version against its manifest: the same files, each with the same SHA-256, and nothing else.

        Raises:
            InvalidName, ModelNotFound, VersionNotFound.
            VersionRefused: naming the file that is missing, changed or not in the manifest.
        """
        manifest = self.manifest(model, version)
        title = f"Version {version} of {model}"
        found = _digests(self.folder(model, version), title)
        if missing := sorted(manifest.files.keys() - found.keys()):
            raise VersionRefused(f"{title} lacks {_listed(missing)}, which its {MANIFEST} names.")
        if extra := sorted(found.keys() - manifest.files.keys()):
            raise VersionRefused(f"{title} has {_listed(extra)}, which its {MANIFEST} does not name.")
        if changed := sorted(file for file, digest in found.items() if manifest.files[file] != digest):
            raise VersionRefused(f"{title}: {_listed(changed)} changed since registration (SHA-256 differs).")
        return manifest

    def staging(self) -> AbstractContextManager[Path]:
        """A fresh folder for a version's files, to be given to `register`; removed at the end of the block if not.

        Raises:
            StorageFailed: on entering, and when the disk fails inside of the block.
        """
        return self._storage.staging()

    def register(self, staged: Path, manifest: Manifest) -> int:
        """Make a folder from `staging` the next version of `manifest.model`; returns its number.

        Computes `files`, and writes the manifest. Once this returns the version survives a crash; until
        then there is no trace of it. It is not promoted.

        Raises:
            InvalidName: of the model.
            InvalidRequest: `staged` holds something else than plain files with plain names.
            StorageFailed.
        """
        model = check_name(manifest.model, "model")
        (staged / MANIFEST).unlink(missing_ok=True)
        try:
            files = _digests(staged, "The new version")
        except VersionRefused as error:
            raise InvalidRequest(str(error)) from error
        complete = manifest.model_copy(update={"files": files})
        (staged / MANIFEST).write_text(complete.model_dump_json(indent=2) + "\n", encoding="utf-8")
        version = self._next_version(model)
        while not self._storage.publish(staged, f"{model}/{version}"):
            version += 1
        return version

    # Promotions

    def promotions(self, model: str) -> list[Promotion]:
        """The promotion log, oldest first.

        Raises:
            InvalidName, ModelNotFound.
            StorageFailed: an entry that cannot be read.
        """
        self._existing(model)
        return self._log(model).entries()

    def production(self, model: str) -> Promotion | None:
        """The entry that says which version is production; None if none was promoted yet.

        Costs one listing and one small read: it is meant to be polled.
        """
        return self._log(model).last()

    def promote(
        self,
        model: str,
        version: int,
        *,
        by: str,
        reason: str = "",
        decision: PromotionDecision | None = None,
        after: int | None = None,
    ) -> Promotion:
        """Make a version production. If it is so already, the log stays as it is.

        Args:
            decision: the comparison that it rests on, for the log. It holds for the production version that it names:
                should another one have become so meanwhile, nothing is promoted.
            after: sequence of the last promotion that the caller knows of, 0 for none: should there be another one,
                nothing is promoted. Unset: whatever the log says.

        The version must exist and have a readable manifest; checking its files and its golden examples
        is for the caller to do before.

        Raises:
            InvalidName, ModelNotFound, VersionNotFound, VersionRefused, StorageFailed.
            Conflict: `decision` was made against another version than is production now, or the log does not end
                with `after`.
        """
        self.manifest(model, version)
        while True:
            current = self.production(model)
            if current is not None and current.version == version:
                return current
            if decision is not None and (current is None or current.version != decision.production):
                raise Conflict(
                    f"Version {version} of {model} was compared with version {decision.production}, which is no longer "
                    "production. Nothing was changed; compare it with the one that is."
                )
            if after is not None and after != (current.sequence if current else 0):
                raise Conflict(
                    f"Model {model} was promoted or rolled back by somebody else meanwhile. Nothing was changed; look "
                    "at its promotions, and decide anew."
                )
            if entry := self._log(model).append(current, version, "promote", by=by, reason=reason, decision=decision):
                return entry

    def refusals(self, model: str) -> list[Refusal]:
        """Versions that the policy `if_better` did not let through, oldest first.

        Raises:
            InvalidName, ModelNotFound.
            StorageFailed: an entry that cannot be read.
        """
        self._existing(model)
        return self._log(model).refusals()

    def refuse(
        self, model: str, version: int, *, after: int, by: str, reason: str, decision: PromotionDecision | None = None
    ) -> Refusal:
        """Note in the promotion log that a version was not let through. What is production stays so.

        If the same was noted before, as by a job that died in the middle, the log stays as it is.

        Args:
            after: sequence of the promotion that made that version production which it had to beat.
            decision: the comparison that speaks against it.

        Raises:
            InvalidName, ModelNotFound, VersionNotFound, VersionRefused, StorageFailed.
        """
        self.manifest(model, version)
        return self._log(model).refuse(version, after=after, by=by, reason=reason, decision=decision)

    def previous(self, model: str) -> int:
        """The version that `rollback` would make production.

        Raises:
            InvalidName, ModelNotFound, StorageFailed.
            Conflict: there is none to go back to.
        """
        return version_before(model, self.promotions(model))

    def rollback(self, model: str, *, by: str, reason: str = "", to: int | None = None) -> Promotion:
        """Make that version production which was so before the present one; twice goes two back.

        Args:
            to: the version that it must be, where the caller has checked it; None: whichever it is.

        Raises:
            InvalidName, ModelNotFound, StorageFailed.
            Conflict: there is none to go back to, or it is not `to`: another promotion came between.
            VersionNotFound, VersionRefused: it is no longer there, or no longer what it was.
        """
        while True:
            log = self.promotions(model)
            version = version_before(model, log)
            if to is not None and version != to:
                raise Conflict(
                    f"Model {model} was promoted or rolled back by somebody else meanwhile: going back would now lead "
                    f"to version {version}, not {to}. Nothing was changed; look at its promotions, and try again."
                )
            self.verify(model, version)
            if entry := self._log(model).append(log[-1], version, "rollback", by=by, reason=reason):
                return entry

    def clean(self) -> int:
        """Remove what processes that died left in staging. Call it at start; it never harms the living."""
        return self._storage.clean()

    # How the store looks

    def _numbers(self, model: str) -> list[int]:
        """Numbers of all version folders, ascending."""
        return sorted(int(name) for name in self._storage.folders(model) if _VERSION.fullmatch(name))

    def _existing(self, model: str) -> list[int]:
        """The same for a model that has any.

        Raises:
            InvalidName, ModelNotFound.
        """
        numbers = self._numbers(check_name(model, "model"))
        if not numbers:
            raise self._no_model(model)
        return numbers

    def _has_manifest(self, model: str, version: int) -> bool:
        return MANIFEST in self._storage.files(f"{model}/{version}")

    def _key(self, model: str, version: int) -> str:
        """Key of a version that exists."""
        numbers = self._existing(model)
        if version not in numbers:
            raise VersionNotFound(f"Model {model} has no version {version}. It has: {_ranges(numbers)}.")
        return f"{model}/{version}"

    def _no_model(self, model: str) -> ModelNotFound:
        names = ", ".join(self.models()[:20])
        there_is = f". There is: {names}." if names else ", nor any."
        return ModelNotFound(f"There is no model {model!r}{there_is}")

    def _log(self, model: str) -> PromotionLog:
        return PromotionLog(self._storage, check_name(model, "model"))

    def _next_version(self, model: str) -> int:
        """One past all numbers that are, or that the log names: a number never comes to mean another version."""
        return max([0, *self._numbers(model), *self._log(model).versions()]) + 1


def _digests(folder: Path, title: str) -> dict[str, str]:
    """SHA-256 of every file below `folder` but the manifest, by relative path, sorted.

    Raises:
        VersionRefused: something there is neither a folder nor a regular file, or has a name that is not UTF-8.
    """
    digests: dict[str, str] = {}
    for parent, folders, files in os.walk(folder):
        for name in sorted([*folders, *files]):
            path = Path(parent) / name
            relative = path.relative_to(folder).as_posix()
            shown = relative.encode(errors="backslashreplace").decode()
            mode = path.lstat().st_mode
            if stat.S_ISLNK(mode):
                raise VersionRefused(f"{title} has {shown!r}, a symbolic link; only regular files are allowed.")
            if stat.S_ISDIR(mode) or relative == MANIFEST:
                continue
            if not stat.S_ISREG(mode):
                raise VersionRefused(f"{title} has {shown!r}, which is not a regular file.")
            if shown != relative:
                raise VersionRefused(f"{title} has {shown!r}, a file name that is not UTF-8.")
            with path.open("rb") as file:
                digests[relative] = hashlib.file_digest(file, "sha256").hexdigest()
    return dict(sorted(digests.items()))


def _is_name(name: str) -> bool:
    try:
        check_name(name, "model")
    except InvalidName:
        return False
    return True


def _listed(names: list[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:3])
    return f"{shown} and {len(names) - 3} more" if len(names) > 3 else shown


def _ranges(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers)) if len(numbers) <= 20 else f"{numbers[0]} to {numbers[-1]}"
