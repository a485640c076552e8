"""The promotion log of a model, a folder beside its versions. Nothing in it is ever changed or removed.

- `<model>/promotions/00000001.json` and on: the last one says which version is production.
- `<model>/promotions/00000001.refused-2.json`: what the gate did not let through after it.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Literal, TypeVar

from pydantic import BaseModel, ValidationError

from app.asked import first_complaint
from app.errors import Conflict, StorageFailed
from app.store.manifest import Promotion, PromotionDecision, Refusal
from app.store.storage import Storage

_FOLDER = "promotions"
_ENTRY = re.compile(r"([0-9]{8,})\.json")
# Not an entry's name: what the log promotes can be read, also by earlier releases, without looking at refusals.
_REFUSAL = re.compile(r"([0-9]{8,})\.refused-([1-9][0-9]{0,8})\.json")

_MOST_NAMED = 20

_Entry = TypeVar("_Entry", Promotion, Refusal)


class PromotionLog:
    """The log as it is kept; whether a promotion may be is decided above. Every method may raise StorageFailed."""

    def __init__(self, storage: Storage, model: str) -> None:
        """`model`: a checked name. Nothing is read yet, and nothing need be there."""
        self._storage = storage
        self._model = model

    def entries(self) -> list[Promotion]:
        """All promotions, oldest first."""
        return [self._promotion(name) for name in self._names()]

    def last(self) -> Promotion | None:
        """The entry that counts; None if there is none. Costs one listing and one small read."""
        names = self._names()
        return self._promotion(names[-1]) if names else None

    def append(
        self,
        last: Promotion | None,
        version: int,
        action: Literal["promote", "rollback"],
        *,
        by: str,
        reason: str,
        decision: PromotionDecision | None = None,
    ) -> Promotion | None:
        """Create the entry after `last`; None if another process was first, and all must be decided anew."""
        entry = Promotion(
            sequence=last.sequence + 1 if last else 1,
            version=version,
            at=datetime.now(UTC),
            by=by,
            reason=reason,
            action=action,
            decision=decision,
        )
        return entry if self._create(f"{entry.sequence:08d}.json", entry) else None

    def refusals(self) -> list[Refusal]:
        """All refusals, oldest first."""
        found = [self._read(name, Refusal) for name in self._refused()]
        return sorted(found, key=lambda refusal: (refusal.after, refusal.at))

    def refuse(
        self, version: int, *, after: int, by: str, reason: str, decision: PromotionDecision | None = None
    ) -> Refusal:
        """Note that a version was not let through after promotion `after`; what was noted before stays as it is."""
        refusal = Refusal(after=after, version=version, at=datetime.now(UTC), by=by, reason=reason, decision=decision)
        name = f"{after:08d}.refused-{version}.json"
        return refusal if self._create(name, refusal) else self._read(name, Refusal)

    def versions(self) -> set[int]:
        """All versions that the log names, as promoted or refused."""
        return {entry.version for entry in self.entries()} | set(self._refused().values())

    def _names(self) -> list[str]:
        """File names of promotions, oldest first."""
        names = [name for name in self._storage.files(f"{self._model}/{_FOLDER}") if _ENTRY.fullmatch(name)]
        return sorted(names, key=_sequence)

    def _refused(self) -> dict[str, int]:
        """File names of refusals, and which version each is about."""
        names = self._storage.files(f"{self._model}/{_FOLDER}")
        return {name: int(match[2]) for name in names if (match := _REFUSAL.fullmatch(name))}

    def _promotion(self, name: str) -> Promotion:
        entry = self._read(name, Promotion)
        if entry.sequence != _sequence(name):
            raise StorageFailed(f"Entry {name} of the promotion log of {self._model} has sequence {entry.sequence}.")
        return entry

    def _read(self, name: str, kind: type[_Entry]) -> _Entry:
        try:
            return kind.model_validate_json(self._storage.read(f"{self._model}/{_FOLDER}/{name}") or b"")
        except ValidationError as error:
            raise StorageFailed(
                f"Entry {name} of the promotion log of {self._model} cannot be read: {first_complaint(error)}."
            ) from error

    def _create(self, name: str, entry: BaseModel) -> bool:
        # Without what is unset: a server of an earlier release follows the same log, and knows no decisions.
        text = entry.model_dump_json(indent=2, exclude_none=True)
        return self._storage.create(f"{self._model}/{_FOLDER}/{name}", text.encode() + b"\n")


def version_before(model: str, entries: list[Promotion]) -> int:
    """The version that was production before the present one: under the top, where rollbacks pop promotions.

    Raises:
        Conflict: there is none.
    """
    stack: list[int] = []
    for entry in entries:
        if entry.action == "rollback":
            del stack[-1:]
        # A log whose beginning was lost may begin with a rollback: what that made production is all there is.
        if entry.action == "promote" or not stack:
            stack.append(entry.version)
    if len(stack) < 2:
        raise Conflict(f"Model {model} has no version to go back to: {_why_none_before(entries)}.")
    return stack[-2]


def _why_none_before(entries: list[Promotion]) -> str:
    """Why a rollback leads nowhere, and what to do instead."""
    if not entries:
        return "none was promoted yet. Promote one instead"
    current = entries[-1].version
    if since := sorted({entry.version for entry in entries} - {current}):
        return (
            f"it was rolled back to version {current}, and the promotion log names none before that one. To go forward "
            f"again promote a version that was production since: {', '.join(map(str, since[-_MOST_NAMED:]))}"
        )
    return f"version {current} is the only one that was ever production. Promote another one instead"


def _sequence(name: str) -> int:
    return int(name.removesuffix(".json"))
