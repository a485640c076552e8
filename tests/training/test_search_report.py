"""A search in the report: a table, the curves of its trials and the importances, on the page and as files."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from app.jobs.trials import SearchDocument
from app.training.page import page
from app.training.search_report import columns, rows, search_pictures, search_section, summary
from tests.training.test_page import HOSTILE, PICTURES, Parsed, _report
from tests.training.toy_trials import Toy, search_run, searching_job, toy_objective


@pytest.fixture
def section(workspace: Path) -> dict[str, Any]:
    """A grid of eight over a rate and class weights with a hostile name, half of which fail."""

    def objective(values: Any, epoch: int) -> float:
        return -1.0 if values["learning_rate"] in (0.05, 0.06) else toy_objective(values, epoch)

    space = {"learning_rate": [0.01, 0.02, 0.05, 0.06], "class_weights": ["none", {HOSTILE: 2}]}
    job = searching_job(workspace, method="grid", trials=None, space=space, pruning=False)
    search_run(job, Toy(objective)).run()
    return search_section(SearchDocument.of(job))


def test_the_table_has_the_best_first_and_failures_last(section: dict[str, Any]) -> None:
    """A row a trial: what it tried, what it came to, and how it ended; the best is marked."""
    assert columns(section)[:3] == ["Trial", "learning_rate", "class_weights"]
    table = rows(section)
    assert [row[1] for row in table] == ["0.01", "0.01", "0.02", "0.02", *[row[1] for row in table[4:]]]
    assert [row[-1] for row in table] == ["best", "", "", "", "failed", "failed", "failed", "failed"]
    assert table[0][3] == "84.38%"
    assert summary(section).startswith("8 trials by the method grid in 0.0 minutes: 4 trained to their end, 4 failed.")


def test_the_drawings_are_files_of_their_own(section: dict[str, Any]) -> None:
    """Both are SVG that opens by itself: a line a trial that has a curve, and a bar a field."""
    drawn = search_pictures(section)
    assert [*drawn] == ["search.svg", "importances.svg"]
    svg = "{http://www.w3.org/2000/svg}"
    curves, bars = (ElementTree.fromstring(text) for text in drawn.values())
    assert len(curves.findall(f".//{svg}polyline")) == 4
    assert len(bars.findall(f".//{svg}rect")) == 2
    assert search_pictures(None) == {}


def test_the_page_shows_the_search_and_runs_nothing_of_it(section: dict[str, Any]) -> None:
    """The section stands in the page, its values as text; a job that searched for nothing has none."""
    labels = ["cat", "dog", "frog"]
    html = page(_report(labels) | {"search": section}, PICTURES)
    parsed = Parsed(html)
    assert "script" not in {tag for tag, _ in parsed.elements}
    assert "8 trials by the method grid" in parsed.text
    assert "<script>" in parsed.text
    assert "trials by the method" not in Parsed(page(_report(labels) | {"search": None}, PICTURES)).text
