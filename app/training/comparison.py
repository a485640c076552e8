"""Whether a new version is better than the production version, or at least not worse."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from app.jobs.spec import TrainingSpec
from app.store.manifest import PromotionDecision
from app.training.significance import mcnemar, paired_interval
from app.training.sources import Targets

Right = npt.NDArray[np.bool_]
"""Whether each test image was answered rightly."""

ENOUGH = 20
"""Test images of a class from which on the bound on its loss decides by itself: a single one is 5 points then."""


@dataclass(frozen=True)
class Rule:
    """What `if_better` demands. `margin` and `class_bound` are losses in points."""

    margin: float
    class_bound: float
    confidence: float

    @classmethod
    def of(cls, spec: TrainingSpec) -> Rule:
        return cls(spec.promotion_margin, spec.promotion_class_loss, spec.promotion_confidence)


@dataclass(frozen=True)
class _ClassChange:
    """What became of a class of `images` test images."""

    label: str
    images: int
    gained: int
    lost: int

    @property
    def points(self) -> float:
        return 100 * (self.gained - self.lost) / self.images


def compare(
    candidate: Right,
    production: Right,
    targets: Targets,
    labels: list[str],
    rule: Rule,
    *,
    versions: tuple[int, int],
    left_out: int = 0,
) -> PromotionDecision:
    """Decide between two versions that answered the same images, at least one.

    Args:
        candidate, production: of the new version and of the one that is production, in the order of `targets`.
        targets: index into `labels` of each image's class.
        versions: their numbers, the new one first.
        left_out: test images that are not among these, since production was trained on them.
    """
    images = len(targets)
    gained, lost = int((candidate & ~production).sum()), int((production & ~candidate).sum())
    interval = paired_interval(gained, lost, images, rule.confidence)
    changes = _changes(candidate, production, targets, labels)
    lost_classes = [change.label for change in changes if _is_lost(change, rule)]
    worst = min(changes, key=lambda change: change.points)
    p_value = mcnemar(gained, lost)
    verdict = _verdict(gained, lost, p_value, interval.low, rule)
    return PromotionDecision(
        verdict="class_lost" if lost_classes and verdict in ("better", "not_worse") else verdict,
        candidate=versions[0],
        production=versions[1],
        images=images,
        left_out=left_out,
        right_both=int((candidate & production).sum()),
        right_candidate_only=gained,
        right_production_only=lost,
        p_value=p_value,
        difference=100 * (gained - lost) / images,
        low=100 * interval.low,
        high=100 * interval.high,
        confidence=rule.confidence,
        margin=rule.margin,
        class_bound=rule.class_bound,
        worst_class=worst.label,
        worst_class_difference=worst.points,
        worst_class_images=worst.images,
        lost_classes=lost_classes,
    )


def _verdict(
    gained: int, lost: int, p_value: float, low: float, rule: Rule
) -> Literal["better", "not_worse", "undecided", "worse"]:
    by_chance = p_value >= 1 - rule.confidence
    if gained > lost and not by_chance:
        return "better"
    # What has lost no image at all has nothing to excuse. The interval would take it for undecided on small test
    # splits, where only a few hundred images could tell a margin of one point from chance.
    if lost == 0 or 100 * low >= -rule.margin:
        return "not_worse"
    return "undecided" if by_chance else "worse"


def _is_lost(change: _ClassChange, rule: Rule) -> bool:
    """Whether a class lost more than the bound; and if it has few images, of which two are soon lost, not by chance."""
    if change.points >= -rule.class_bound:
        return False
    # One-sided: here only losses count.
    return change.images >= ENOUGH or mcnemar(change.gained, change.lost) / 2 < 1 - rule.confidence


def _changes(candidate: Right, production: Right, targets: Targets, labels: list[str]) -> list[_ClassChange]:
    count = len(labels)
    images = np.bincount(targets, minlength=count)
    gained = np.bincount(targets[candidate & ~production], minlength=count)
    lost = np.bincount(targets[production & ~candidate], minlength=count)
    return [
        _ClassChange(label, int(images[number]), int(gained[number]), int(lost[number]))
        for number, label in enumerate(labels)
        if images[number]
    ]


def explain(decision: PromotionDecision) -> str:
    """The decision as a sentence for the log, with its numbers."""
    old = f"production version {decision.production}"
    numbers = (
        f"accuracy {decision.candidate_accuracy:.2%} against {decision.production_accuracy:.2%} of {old} on the same "
        f"{decision.images:,} test images"
    )
    if decision.left_out:
        numbers += f" ({decision.left_out:,} others left out: {old} was trained on them)"
    numbers += (
        f"; {decision.right_candidate_only:,} gained, {decision.right_production_only:,} lost, "
        f"{decision.difference:+.2f} points ({decision.low:+.2f} to {decision.high:+.2f}), p = {decision.p_value:.2g}"
    )
    match decision.verdict:
        case "better":
            return f"better: {numbers}"
        case "not_worse" if decision.low < -decision.margin:
            return f"not one image was lost: {numbers}"
        case "not_worse":
            return f"at worst {decision.margin:g} points below, with {decision.confidence:.0%} confidence: {numbers}"
        case "class_lost":
            classes = ", ".join(repr(label) for label in decision.lost_classes[:5])
            return (
                f"{classes} lost more than {decision.class_bound:g} points ({decision.worst_class!r} "
                f"{decision.worst_class_difference:+.1f}): {numbers}"
            )
        case "worse":
            return f"worse: {numbers}"
        case "undecided":
            return (
                f"neither better nor within {decision.margin:g} points for certain: {numbers}; more test images would "
                "tell, or a wider promotion_margin"
            )
