"""`report.html`: the whole report as one page.

It holds all that it shows and runs nothing, so it opens from a disk, prints, and may be served under the strictest
content security policy.
"""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from pathlib import Path
from typing import Any

from app.training import page_charts as charts
from app.training import search_report
from app.training.wording import counted

_STYLE = Path(__file__).with_name("page.css")

# Nothing but what is in the page itself, also where no server says so.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"

# Up to so many classes a matrix takes half of the page's width.
_FEW_CLASSES = 12

_SAID = {"warning": "Warning", "note": "Note", "good": "Good"}

Report = dict[str, Any]


def page(report: Report, pictures: dict[str, bytes]) -> str:
    """Render `report`, the document of report.json, with its pictures by name (PNG)."""
    title = f"{report['model']}: evaluation"
    body = "\n".join(
        [
            _summary(report),
            _curves(report),
            _calibration(report),
            _confusion(report),
            _classes(report),
            _mistakes(report, pictures),
            _augmentation(report, pictures),
            _precisions(report),
            _search(report),
            _data(report),
            _recipe(report),
        ]
    )
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>\n{_STYLE.read_text(encoding='utf-8')}</style>\n</head>\n"
        f"<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def _summary(report: Report) -> str:
    test, unknown, calibration = report["test"], report["unknown"], report["test"]["calibration"]
    low, high = test["accuracy_interval"]
    digits = _digits(test["images"])
    known = f"{unknown['accuracy']:.1%} right of the " if unknown["accuracy"] is not None else ""
    cards = [
        ("Accuracy", f"{test['accuracy']:.{digits}%}", f"95% confidence: {low:.{digits}%} to {high:.{digits}%}"),
        ("Mistakes", f"{test['mistakes']:,}", f"of {counted(test['images'], 'test image')}"),
        ("Macro F1", f"{test['macro_average']['f1']:.{digits}%}", f"mean over {len(report['labels'])} classes"),
        (
            "Calibration error",
            f"{calibration['ece']:.1%}",
            f"{calibration['before']['ece']:.1%} before calibration",
        ),
        ("Unknown below", f"{unknown['threshold']:.2f}", f"{known}{unknown['coverage']:.1%} above"),
        (
            "Network",
            f"{report['network']['parameters']:,}",
            f"parameters, {escape(report['network']['name'])}; {counted(len(report['epochs']), 'epoch')}",
        ),
    ]
    shown = "".join(
        f'<div><dt>{name}</dt><dd>{value}<span class="more">{more}</span></dd></div>' for name, value, more in cards
    )
    said = "".join(
        f'<li class="{finding["level"]}"><b>{_SAID[finding["level"]]}</b> {escape(finding["text"])}</li>'
        for finding in report["findings"]
    )
    when = report["created_at"].replace("T", " ").replace("+00:00", " UTC")
    return (
        f"<header><h1>{escape(report['model'])}</h1>"
        f'<p class="made">Evaluated {escape(when)} by {escape(report["created_by"])}, '
        f"on dataset {_label(report['data']['dataset'])}.</p>"
        f'<p class="headline">{escape(report["headline"])}</p></header>'
        f'<dl class="cards">{shown}</dl>' + (f'<ul class="findings">{said}</ul>' if said else "")
    )


def _curves(report: Report) -> str:
    epochs, chosen = report["epochs"], report["best_epoch"]

    def of(name: str) -> list[float]:
        return [epoch[name] for epoch in epochs]

    accuracy = charts.curve("Accuracy", of("accuracy"), of("val_accuracy"), chosen, percent=True)
    loss = charts.curve("Loss", of("loss"), of("val_loss"), chosen, percent=False)
    minutes = sum(of("seconds")) / 60
    return _section(
        "Learning curves",
        f"{counted(len(epochs), 'epoch')} in {minutes:,.1f} minutes; the weights of epoch {chosen} were kept. "
        "Training figures are taken while it learns, on augmented images, so that they may lie below those of "
        "validation.",
        f'<div class="pair"><figure><h3>Accuracy</h3>{accuracy}</figure><figure><h3>Loss</h3>{loss}</figure></div>',
    )


def _calibration(report: Report) -> str:
    test, validation = report["test"], report["validation"]
    calibration, fitted = test["calibration"], validation["calibration"]
    rows = [
        ["Test", _count(test["images"]), f"{calibration['before']['ece']:.2%}", f"{calibration['ece']:.2%}"],
        ["Validation", _count(validation["images"]), f"{fitted['before']['ece']:.2%}", f"{fitted['ece']:.2%}"],
    ]
    table = _table(["Split", "Images", "Error before", "Error after"], rows, numeric={1, 2, 3})
    unknown = report["unknown"]
    above = f"{unknown['accuracy']:.1%} of these answers are right" if unknown["accuracy"] is not None else "none"
    text = (
        f"<p>One number, the temperature {fitted['temperature']:.3f}, was fitted on the validation split and is part "
        "of the exported network. The error is the mean distance between how sure the answers are and how often they "
        f"are right (ECE, {len(calibration['bins'])} bins that have images).</p>{table}"
        f"<h3>Unknown</h3><p>An answer whose highest probability is below <b>{unknown['threshold']:.3f}</b> is better "
        f"taken as unknown. The threshold was chosen on the validation split; of the test images "
        f"{unknown['coverage']:.1%} lie above it, and {above}.</p>"
    )
    drawn = charts.reliability(calibration["bins"], calibration["before"]["bins"])
    return _section(
        "Calibration",
        "Whether 90% sure means right nine times in ten.",
        f'<div class="pair"><figure>{drawn}</figure><div>{text}</div></div>',
    )


def _confusion(report: Report) -> str:
    drawn = charts.matrix(report["confusion_matrix"], report["labels"])
    rows = [
        [_label(pair["label"]), _label(pair["predicted"]), _count(pair["images"]), f"{pair['share']:.1%}"]
        for pair in report["confusions"]
    ]
    table = (
        _table(["True class", "Answered as", "Images", "Of the class"], rows, numeric={2, 3})
        if rows
        else "<p>None: every test image was answered rightly.</p>"
    )
    side_by_side = ' class="pair"' if len(report["labels"]) <= _FEW_CLASSES else ""
    return _section(
        "Confusion matrix",
        "Rows are true classes, columns answers: blue what is right, orange what is not. Each row adds up to the "
        "test images of its class.",
        f'<div{side_by_side}><figure class="scroll">{drawn}</figure>'
        f"<div><h3>Most frequent mistakes</h3>{table}</div></div>",
    )


def _classes(report: Report) -> str:
    low = min(0.9, *(scores["recall_interval"][0] for scores in report["classes"]))
    low = int(10 * low) / 10
    trained = dict(zip(report["labels"], report["data"]["classes"]["train"], strict=True))
    rows = []
    for scores in sorted(report["classes"], key=lambda scores: (scores["recall"], scores["label"])):
        ends = scores["recall_interval"]
        rows.append(
            [
                _label(scores["label"]),
                f"{scores['recall']:.1%}",
                charts.interval(scores["recall"], ends, low=low),
                f"{ends[0]:.1%} to {ends[1]:.1%}",
                f"{scores['precision']:.1%}",
                f"{scores['f1']:.1%}",
                _count(scores["support"]),
                _count(trained[scores["label"]]),
            ]
        )
    names = ["Class", "Recall", f"{low:.0%} to 100%", "95% interval", "Precision", "F1", "Test", "Train"]
    return _section(
        "Classes",
        "Weakest first. Recall: the share of a class that is recognised. Precision: the share of such answers that is "
        "right. F1: their harmonic mean. Test and train: images.",
        _table(names, rows, numeric={1, 3, 4, 5, 6, 7}, drawn={2}),
    )


def _mistakes(report: Report, pictures: dict[str, bytes]) -> str:
    worst = report["worst_mistakes"]
    if not worst:
        return ""
    shown = "".join(
        f'<figure><img alt="" src="{charts.png(pictures[mistake["picture"]])}"><figcaption>'
        f"{_label(mistake['label'])} answered as <b>{_label(mistake['predicted'])}</b>, {mistake['probability']:.1%}"
        f"<br><small>{_label(mistake['name'])}</small></figcaption></figure>"
        for mistake in worst
    )
    total = report["test"]["mistakes"]
    which = f"{len(worst)} of {total:,}" if total > len(worst) else f"All {total}" if total > 1 else "The only one"
    order = ", those that the model was surest of first, as it sees them" if total > 1 else ", as the model sees it"
    return _section(
        "Worst mistakes",
        f"{which}{order}. Wrong labels in the data show here, too.",
        f'<div class="gallery">{shown}</div>',
    )


def _augmentation(report: Report, pictures: dict[str, bytes]) -> str:
    name = report.get("augmentation_preview")
    if not name or name not in pictures:
        return ""
    labels = report["augmentation_preview_labels"]
    named = "".join(f"<li><span>{_label(label)}</span></li>" for label in labels)
    fewer = f" of {len(labels)} of the {len(report['labels'])} classes" if len(labels) < len(report["labels"]) else ""
    return _section(
        "Augmentation",
        f"A row a class{fewer}: a training image on the left; beside it, as it was changed at random for training.",
        f'<figure class="samples"><ol>{named}</ol>'
        f'<img alt="Augmented training images" src="{charts.png(pictures[name])}"></figure>',
    )


def _precisions(report: Report) -> str:
    if not report["precisions"]:
        return ""
    full = report["test"]["accuracy"]
    rate = next((check["f32_images_per_second"] for check in report["precisions"].values()), None)
    rows = [["f32", f"{full:.2%}", "", "", "", _rate(rate), "reference"]]
    for name, check in report["precisions"].items():
        rows.append(
            [
                escape(name),
                f"{check['accuracy']:.2%}",
                f"{100 * (check['accuracy'] - full):+.2f}",
                f"{check['agreement']:.2%}",
                f"{check['max_difference']:.3f}",
                _rate(check["images_per_second"], check["f32_images_per_second"]),
                "harmless" if check["harmless"] else "not harmless",
            ]
        )
    names = ["Precision", "Accuracy", "Points", "Same class", "Largest difference", "Images/s", ""]
    return _section(
        "Reduced precision",
        "The test split, answered once more as a server with this precision would; and its pace on the machine that "
        "trained, busy as it was. What is harmless is used where the processor gains by it.",
        _table(names, rows, numeric={1, 2, 3, 4, 5}),
    )


def _rate(rate: float | None, f32: float | None = None) -> str:
    """Images a second, and how many times that of f32; nothing where it was not measured."""
    if rate is None:
        return ""
    return f"{rate:,.0f}" + (f" ({rate / f32:.1f} x)" if f32 else "")


def _search(report: Report) -> str:
    search = report.get("search")
    if search is None:
        return ""
    names = search_report.columns(search)
    rows = [[_label(cell) if cell else "" for cell in row] for row in search_report.rows(search)]
    total = len(search["trials"])
    which = f"The best {len(rows)} of {total:,} trials; report.json has all." if total > len(rows) else ""
    said = f"<p>{escape(search['remark'])}</p>" if search["remark"] else ""
    importances = f"<figure>{search_report.importances(search)}</figure>"
    return _section(
        "Search",
        search_report.summary(search),
        f'<div class="pair"><figure><h3>Trials</h3>{search_report.curves(search)}</figure>'
        f"<div><h3>Importances</h3>{importances}{said}</div></div>"
        + _table(names, rows, numeric={0, *range(len(names) - 5, len(names) - 1)})
        + (f'<p class="why">{which}</p>' if which else ""),
    )


def _data(report: Report) -> str:
    data = report["data"]
    preprocessing = data["preprocessing"]
    facts: dict[str, Any] = {
        "dataset": data["dataset"],
        "images": f"{data['images']:,}",
        **{f"to {what}": f"{data['counts'][split]:,}" for what, split in _SPLITS.items()},
        "classes": len(report["labels"]),
        "kept on one side": _kept_together(data["kept_together"]),
        **{name: f"{data[field]:,}" for name, field in _FOUND.items()},
        "input": f"{preprocessing['width']} x {preprocessing['height']}, {preprocessing['color']}",
        "resize": f"{preprocessing['resample']}, {preprocessing['fit']}",
        "SHA-256": data["sha256"],
    }
    return _section("Data", "", _facts(facts.items()))


def _kept_together(kept: dict[str, int]) -> str:
    """Why the sides may not be of the sizes that were asked for."""
    if not kept["groups"]:
        return "nothing repeats"
    return f"{counted(kept['images'], 'image')} in {counted(kept['groups'], 'group')} of copies or look-alikes"


_FOUND = {
    "files left out": "rejected_files",
    "exact copies": "duplicate_files",
    "copies under several labels": "conflicting_duplicates",
    "look-alikes": "near_duplicate_files",
    "look-alikes under several labels": "conflicting_near_duplicates",
    "repeated across given splits": "cross_split_duplicates",
    "small classes": "small_classes",
    "extreme sizes": "extreme_size_files",
    "labels apart by case only": "case_twins",
}

_SPLITS = {"train": "train", "validate": "validation", "test": "test"}


def _recipe(report: Report) -> str:
    return _section(
        "Recipe",
        "The job's specification, with what was left open filled in.",
        _facts(_flattened(_relevant(report["spec"]))),
    )


def _relevant(spec: dict[str, Any]) -> dict[str, Any]:
    """The spec without the options of a dataset that it is not about, and without a search, which is over."""
    left_out = {"search"} if spec["dataset"] == "shapes" else {"search", "shapes"}
    return {name: value for name, value in spec.items() if name not in left_out}


def _flattened(value: dict[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for name, inner in value.items():
        if isinstance(inner, dict):
            yield from _flattened(inner, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", inner


def _section(title: str, why: str, content: str) -> str:
    said = f'<p class="why">{escape(why)}</p>' if why else ""
    return f"<section><h2>{escape(title)}</h2>{said}{content}</section>"


def _facts(facts: Iterable[tuple[str, Any]]) -> str:
    rows = "".join(f"<li><span>{escape(name)}</span><code>{escape(_value(value))}</code></li>" for name, value in facts)
    return f'<ul class="facts">{rows}</ul>'


def _value(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(_value, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _table(names: list[str], rows: list[list[str]], *, numeric: set[int], drawn: set[int] | None = None) -> str:
    """A table of cells that are HTML already; the first of each row is its heading.

    Each cell has its column's name, under which it stands where the page is too narrow for columns.
    """

    def css(column: int) -> str:
        return ' class="n"' if column in numeric else ' class="draw"' if column in (drawn or ()) else ""

    def cell(column: int, content: str) -> str:
        tag, scope = ("th", ' scope="row"') if column == 0 else ("td", "")
        return f'<{tag}{scope}{css(column)} data-name="{escape(names[column])}">{content}</{tag}>'

    head = "".join(f'<th scope="col"{css(column)}>{escape(name)}</th>' for column, name in enumerate(names))
    body = "".join(f"<tr>{''.join(cell(column, content) for column, content in enumerate(row))}</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _label(text: str) -> str:
    """A user's text: no character of it is markup, and none turns the words around it about."""
    return f"<bdi>{escape(text)}</bdi>"


def _count(number: int) -> str:
    return f"{number:,}"


def _digits(images: int) -> int:
    """Decimals of a percentage that so many images can tell."""
    return 1 if images < 2000 else 2
