"""`python -m benchmarks.training PART…`: how well and how fast training is, with default settings.

built-in  shapes and digits, each as a job of their own
dataset   the dataset of --dataset (its path), as a job by the recipe that is chosen for it
classic   the same dataset with the classic network of two convolutions, for the curve beside it
speed     images a second beside `model.fit`
memory    a dataset ten times as large as the memory that its job may take (needs the superuser; 12 GB of disk)

Results are added to TRAINING.md and training.json. A long job can be run by itself, resumed as often as need be, and
entered with --finished JOB_FOLDER --models MODEL_STORE.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from app.jobs.folder import JobFolder
from app.store.registry import Registry
from benchmarks import machine
from benchmarks.places import HOME
from benchmarks.trainings import jobs, memory, speed, tables
from benchmarks.trainings.results import Results, Run

_FOLDER = Path(__file__).parent
_MEMORY_LIMIT = 1200 * 10**6
_CLASSIC: dict[str, Any] = {"architecture": {"name": "simple_cnn"}, "epochs": 20}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.training",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parts: dict[str, Callable[[argparse.Namespace, Results], None]] = {
        "built-in": _built_in,
        "dataset": _dataset,
        "classic": _classic,
        "speed": _speed,
        "memory": _memory,
    }
    parser.add_argument("part", nargs="+", choices=[*parts])
    parser.add_argument("--dataset", help="folder or archive with one folder a class")
    parser.add_argument("--rounds", type=int, default=3, help="of `speed` (default: 3)")
    parser.add_argument("--finished", type=Path, metavar="JOB_FOLDER", help="the job of `dataset` or `classic`")
    parser.add_argument("--models", type=Path, metavar="MODEL_STORE", help="where that job's version is")
    parser.add_argument("--note", default="", help="a word on the circumstances of the job, for the table")
    options = parser.parse_args(arguments)
    if options.finished and (options.models is None or len(options.part) != 1):
        parser.error("--finished needs --models, and goes with `dataset` or `classic` alone")
    if {"dataset", "classic"} & {*options.part} and not (options.dataset or options.finished):
        parser.error("`dataset` and `classic` need --dataset or --finished")
    results = Results.load(_FOLDER / "training.json", datetime.now(UTC), machine.describe())
    for name in options.part:
        print(f"{name} …", file=sys.stderr, flush=True)
        parts[name](options, results)
        results.save(_FOLDER / "training.json")
        (_FOLDER / "TRAINING.md").write_text(tables.markdown(results, _FOLDER))


def _built_in(options: argparse.Namespace, results: Results) -> None:
    for name in ("shapes", "digits"):
        _enter(results, name, _run(name, name, {"checkpoint_seconds": 1}, options.note))


def _dataset(options: argparse.Namespace, results: Results) -> None:
    _enter(results, "dataset", _finished_or_run("the recipe chosen for it", {}, options))


def _classic(options: argparse.Namespace, results: Results) -> None:
    _enter(results, "classic", _finished_or_run("the classic network", _CLASSIC, options))


def _speed(options: argparse.Namespace, results: Results) -> None:
    for network in speed.NETWORKS:
        results.speeds[network] = speed.measure(network, options.rounds)


def _memory(_: argparse.Namespace, results: Results) -> None:
    results.memory = memory.measure(_empty("memory"), _MEMORY_LIMIT)


def _finished_or_run(title: str, spec: dict[str, Any], options: argparse.Namespace) -> Run:
    if options.finished:
        run = jobs.finished(title, JobFolder(options.finished), Registry(options.models))
        return run.model_copy(update={"note": options.note})
    return _run(title, options.dataset, spec, options.note)


def _run(title: str, dataset: str, spec: dict[str, Any], note: str) -> Run:
    run = jobs.train(title, dataset, spec, _empty(title.replace(" ", "-")))
    return run.model_copy(update={"note": note})


def _enter(results: Results, key: str, run: Run) -> None:
    results.runs[key] = run
    print(f"    {run.accuracy:.2%} in {run.seconds:,.0f} s", file=sys.stderr, flush=True)


def _empty(name: str) -> Path:
    folder = HOME / "training" / name
    shutil.rmtree(folder, ignore_errors=True)
    return folder


if __name__ == "__main__":
    main()
