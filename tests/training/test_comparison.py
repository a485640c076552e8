"""The gate: which versions `if_better` lets through."""

from __future__ import annotations

import numpy as np
import pytest

from app.jobs.spec import TrainingSpec
from app.store.manifest import PromotionDecision
from app.training.comparison import Right, Rule, compare, explain

RULE = Rule.of(TrainingSpec(dataset="shapes"))
LABELS = [str(number) for number in range(10)]


def _decide(
    candidate: Right, production: Right, *, classes: int = 10, rule: Rule = RULE, left_out: int = 0
) -> PromotionDecision:
    targets = (np.arange(len(candidate)) % classes).astype(np.int32)
    return compare(candidate, production, targets, LABELS[:classes], rule, versions=(2, 1), left_out=left_out)


def _answers(both: int, gained: int, lost: int, neither: int, seed: int = 0) -> tuple[Right, Right]:
    """Answers with these counts, in a random order of the images: (candidate, production)."""
    candidate = np.repeat([True, True, False, False], [both, gained, lost, neither])
    production = np.repeat([True, False, True, False], [both, gained, lost, neither])
    order = np.random.default_rng(seed).permutation(len(candidate))
    return candidate[order], production[order]


def test_what_is_clearly_better_is_promoted_with_its_numbers() -> None:
    """41 gained and 18 lost of 1,000: McNemar's test says better."""
    decision = _decide(*_answers(900, 41, 18, 41))
    assert decision.verdict == "better"
    assert decision.promotes
    assert (decision.right_both, decision.right_candidate_only, decision.right_production_only) == (900, 41, 18)
    assert decision.difference == pytest.approx(2.3)
    assert decision.low < 2.3 < decision.high
    assert decision.p_value < 0.05
    assert explain(decision).startswith(
        "better: accuracy 94.10% against 91.80% of production version 1 on the same 1,000 test images; 41 gained"
    )


@pytest.mark.parametrize(
    ("counts", "verdict"),
    [
        ((4600, 30, 31, 339), "not_worse"),
        ((900, 20, 30, 50), "undecided"),
        ((900, 5, 40, 55), "worse"),
        ((265, 0, 0, 5), "not_worse"),
        ((260, 3, 0, 7), "not_worse"),
        ((250, 3, 3, 14), "undecided"),
    ],
)
def test_the_verdict_follows_from_what_could_be_shown(counts: tuple[int, int, int, int], verdict: str) -> None:
    """Not worse within the margin is shown by many images, or by losing none; few that part tell nothing."""
    decision = _decide(*_answers(*counts), rule=Rule(margin=1, class_bound=100, confidence=0.95))
    assert decision.verdict == verdict
    assert decision.promotes is (verdict == "not_worse")
    assert f"of production version 1 on the same {sum(counts):,} test images" in explain(decision)


def test_the_margin_is_the_users() -> None:
    """What half a point leaves undecided, two points let through."""
    answers = _answers(920, 20, 22, 38)
    assert _decide(*answers, rule=Rule(margin=0.5, class_bound=5, confidence=0.95)).verdict == "undecided"
    assert _decide(*answers, rule=Rule(margin=2, class_bound=5, confidence=0.95)).verdict == "not_worse"


def test_a_class_that_is_lost_outweighs_a_better_whole() -> None:
    """Nine classes gain 20 images each, one loses 20 of its 100: not promoted, and the class is named."""
    production = np.zeros(1000, bool)
    production[:800] = True
    candidate = np.ones(1000, bool)
    targets = np.arange(1000) % 10
    candidate[np.flatnonzero((targets == 7) & production)[:20]] = False
    candidate[(targets == 7) & ~production] = False
    decision = _decide(candidate, production)
    assert decision.difference == pytest.approx(16)
    assert (decision.verdict, decision.promotes) == ("class_lost", False)
    assert decision.lost_classes == ["7"]
    assert (decision.worst_class, decision.worst_class_images) == ("7", 100)
    assert "'7' lost more than 10 points" in explain(decision)
    # A wider bound lets it through.
    assert _decide(candidate, production, rule=Rule(margin=1, class_bound=30, confidence=0.95)).verdict == "better"


@pytest.mark.parametrize(
    ("images", "lost", "refused"),
    [(8, 1, False), (19, 4, False), (19, 5, True), (20, 2, False), (20, 3, True), (20, 4, True), (100, 11, True)],
)
def test_the_bound_decides_by_itself_unless_a_class_has_few_images(images: int, lost: int, refused: bool) -> None:
    """However much better the whole is: 15 points of 20 images are more than the bound of 10, whatever luck had to do
    with it. Of fewer images a single one is more than five points, so that they must rule luck out, too."""
    targets = np.repeat([0, 1], [images, 1000]).astype(np.int32)
    production, candidate = np.ones(images + 1000, bool), np.ones(images + 1000, bool)
    production[images : images + 50] = False
    candidate[:lost] = False
    decision = compare(candidate, production, targets, LABELS[:2], RULE, versions=(2, 1))
    assert decision.lost_classes == (["0"] if refused else [])
    assert decision.verdict == ("class_lost" if refused else "better")
    assert decision.worst_class_difference == pytest.approx(-100 * lost / images)


def test_a_bound_of_the_users_is_taken_at_its_word() -> None:
    """Two points in a class of 100 images are more than a bound of one."""
    production = np.ones(1000, bool)
    candidate = production.copy()
    candidate[[3, 13]] = False
    assert _decide(candidate, production, rule=Rule(margin=1, class_bound=1, confidence=0.95)).lost_classes == ["3"]
    assert _decide(candidate, production, rule=Rule(margin=1, class_bound=2, confidence=0.95)).lost_classes == []


@pytest.mark.parametrize("images", [50, 100, 500])
def test_an_equally_good_version_is_seldom_refused_for_a_class(images: int) -> None:
    """Twins that are right on 90 %, and part on one image of fifteen: of ten classes hardly ever one is lost."""
    random = np.random.default_rng(7)
    targets = np.repeat(np.arange(10), images).astype(np.int32)
    both, either = 0.867, 0.9333
    refused = 0
    for _ in range(200):
        drawn = random.random(len(targets))
        tossed = random.random(len(targets)) < 0.5
        candidate, production = ((drawn < both) | ((drawn < either) & toss) for toss in (tossed, ~tossed))
        refused += bool(compare(candidate, production, targets, LABELS, RULE, versions=(2, 1)).lost_classes)
    assert refused / 200 < 0.05


def _simulated(images: int, gained: float, lost: float, draws: int) -> list[str]:
    random = np.random.default_rng(7)
    verdicts: list[str] = []
    for draw in range(draws):
        b, c, _ = random.multinomial(images, [gained, lost, 1 - gained - lost])
        both = round(0.9 * (images - b - c))
        verdicts.append(_decide(*_answers(both, int(b), int(c), images - both - int(b) - int(c), draw)).verdict)
    return verdicts


def test_equally_good_versions_pass_where_there_are_images_to_show_it() -> None:
    """Of 300 pairs of twins that part on 2 % of 10,000 test images, 95 of 100 pass."""
    passed = [verdict in ("better", "not_worse") for verdict in _simulated(10_000, 0.01, 0.01, 300)]
    assert np.mean(passed) >= 0.95


@pytest.mark.parametrize("images", [500, 5_000])
def test_a_version_that_is_two_points_worse_does_not_pass(images: int) -> None:
    """Not one in twenty, however many test images there are."""
    passed = [verdict in ("better", "not_worse") for verdict in _simulated(images, 0.02, 0.04, 300)]
    assert np.mean(passed) < 0.05


def test_the_log_says_which_of_the_reasons_it_was() -> None:
    """Too few images to show the margin, but none lost, is not said to be within the margin."""
    assert explain(_decide(*_answers(70, 1, 0, 3))).startswith("not one image was lost: ")
    assert explain(_decide(*_answers(4600, 30, 31, 339))).startswith("at worst 1 points below, with 95% confidence: ")


def test_what_was_left_out_is_said() -> None:
    """A reader of the log sees that the comparison is on fewer images than the test split has, and why."""
    decision = _decide(*_answers(900, 41, 18, 41), left_out=230)
    assert decision.left_out == 230
    assert "(230 others left out: production version 1 was trained on them)" in explain(decision)
