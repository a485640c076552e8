"""A search as part of the report: its trials as a table, their curves, and which fields mattered."""

from __future__ import annotations

import json
from typing import Any

from app.jobs.trials import SearchDocument, ranking
from app.training import page_charts as charts
from app.training.wording import counted

# Of more trials the page shows the best; report.json has all of them.
MOST_ROWS = 50
_MOST_CURVES = 200

Section = dict[str, Any]

_ENDS = {"complete": "", "pruned": "pruned", "stopped": "out of time", "failed": "failed", "cancelled": "cancelled"}


def search_section(document: SearchDocument) -> Section:
    """The part `search` of report.json. `ranked`: numbers of the complete trials, the best first."""
    assert document.search is not None
    return {
        "asked": document.search.model_dump(mode="json"),
        "seconds": round(document.seconds, 1),
        "best": document.best,
        "ranked": [trial.number for trial in ranking(document.trials, document.search)],
        "importances": document.importances,
        "remark": document.remark,
        "trials": [trial.model_dump(mode="json") for trial in document.trials],
    }


def summary(search: Section) -> str:
    """What was done, in two sentences."""
    asked, trials = search["asked"], search["trials"]
    counts = {state: sum(trial["state"] == state for trial in trials) for state in _ENDS}
    others = [
        f"{counts[state]:,} {said}"
        for state, said in {**_ENDS, "complete": "trained to their end"}.items()
        if counts[state]
    ]
    return (
        f"{counted(len(trials), 'trial')} by the method {asked['method']} in {search['seconds'] / 60:,.1f} minutes: "
        f"{', '.join(others)}. They saw the training and the validation split only; the values of trial "
        f"{search['best']} were then trained in full."
    )


def columns(search: Section) -> list[str]:
    """Headings of the table: the paths of the space, shortened where that leaves them apart, then what came of it."""
    paths = [*search["asked"]["space"]]
    ends = [path.rpartition(".")[2] for path in paths]
    short = [end if ends.count(end) == 1 else path for path, end in zip(paths, ends, strict=True)]
    return ["Trial", *short, "Validation accuracy", "Validation loss", "Epochs", "Seconds", ""]


def rows(search: Section) -> list[list[str]]:
    """The table as plain text, the best first: complete trials, then those that did not end, then failures."""
    order = {number: rank for rank, number in enumerate(search["ranked"])}
    last = len(order)
    trials = sorted(
        search["trials"],
        key=lambda trial: (order.get(trial["number"], last), trial["val_accuracy"] is None, trial["number"]),
    )
    return [_row(trial, search) for trial in trials[:MOST_ROWS]]


def curves(search: Section) -> str:
    """The objective over the epochs of each trial, the best one in front, as inline SVG."""
    objective = search["asked"]["objective"]
    shown = [trial for trial in search["trials"] if trial["curve"]][:_MOST_CURVES]
    lines = [
        charts.Curve(
            f"Trial {trial['number']}",
            [point[objective] for point in trial["curve"]],
            "best" if trial["number"] == search["best"] else "whole" if trial["state"] == "complete" else "broken off",
        )
        for trial in shown
    ]
    percent = objective == "val_accuracy"
    return charts.curves("Validation accuracy" if percent else "Validation loss", lines, percent=percent)


def importances(search: Section) -> str:
    """How much each path mattered, as inline SVG; empty where that is not known."""
    return charts.shares(search["importances"]) if search["importances"] else ""


def search_pictures(search: Section | None) -> dict[str, str]:
    """The drawings as files of their own, by name."""
    if search is None:
        return {}
    drawn = {"search.svg": curves(search), "importances.svg": importances(search)}
    return {name: charts.standalone(svg) for name, svg in drawn.items() if svg}


def _row(trial: dict[str, Any], search: Section) -> list[str]:
    accuracy, loss = trial["val_accuracy"], trial["val_loss"]
    best = trial["number"] == search["best"]
    return [
        str(trial["number"]),
        *(_value(trial["values"].get(path)) for path in search["asked"]["space"]),
        "" if accuracy is None else f"{accuracy:.2%}",
        "" if loss is None else f"{loss:.4f}",
        str(len(trial["curve"]) or ""),
        "" if trial["seconds"] is None else f"{trial['seconds']:.0f}",
        "best" if best else _ENDS.get(trial["state"], trial["state"]),
    ]


def _value(value: Any) -> str:
    if isinstance(value, list) and not any(isinstance(inner, (dict, list)) for inner in value):
        return ", ".join(map(str, value))
    if isinstance(value, float):
        return f"{value:g}"
    return value if isinstance(value, str) else json.dumps(value)
