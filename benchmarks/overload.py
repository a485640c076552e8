"""`python -m benchmarks.overload SCENARIO…`: what happens to the product when it is pressed.

overload   three times its capacity for a minute, and how it comes back
promotion  versions change under 70 % load
training   a training job runs beside it
stalled    300 clients begin a request and never end it
memory     100,000 requests of mixed sizes
cores      one core, two, and so on
protocols  what each protocol costs beside our own route

Capacity is measured first, in the same run. The figures go into RESULTS.md and results.json, in place of the last ones
of the same scenario.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks import machine, report, wrk
from benchmarks.results import Results
from benchmarks.scenarios.cores import cores
from benchmarks.scenarios.driving import Trial
from benchmarks.scenarios.memory import memory
from benchmarks.scenarios.overload import overload
from benchmarks.scenarios.promotion import promotion
from benchmarks.scenarios.protocols import protocols
from benchmarks.scenarios.stalled import stalled
from benchmarks.scenarios.training import training
from benchmarks.servers import SERVERS
from benchmarks.workloads import WORKLOADS

SCENARIOS: dict[str, Callable[[Trial], dict[str, Any]]] = {
    "overload": overload,
    "promotion": promotion,
    "training": training,
    "stalled": stalled,
    "memory": memory,
    "cores": cores,
    "protocols": protocols,
}


def run(names: Sequence[str], trial: Trial, results: Results) -> None:
    """Run scenarios, and put what they report into the results."""
    for name in names:
        print(f"{trial.workload.name}  {trial.server.name}: {name} …", file=sys.stderr, flush=True)
        found = SCENARIOS[name](trial)
        results.scenarios[f"{name}, {trial.workload.name}, {trial.server.title}"] = found
        for key, value in found.items():
            if not isinstance(value, list | dict):
                print(f"    {key}: {report.value(value)}", file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.overload", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("scenario", nargs="+", choices=[*SCENARIOS, "all"])
    parser.add_argument("--workload", choices=list(WORKLOADS), default="tiny")
    parser.add_argument("--server", choices=[name for name in SERVERS if not SERVERS[name].peer], default="fovea-2-f32")
    parser.add_argument("--scale", type=float, default=1.0, help="shorten all times, to see that it works (default: 1)")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder of RESULTS.md and results.json")
    options = parser.parse_args(arguments)
    wrk.require()
    workload = WORKLOADS[options.workload]
    workload.prepare()
    file: Path = options.out / "results.json"
    if file.is_file():
        results = Results.read(file)
    else:
        results = Results(machine=machine.describe(), began=datetime.now(UTC), rounds=0, seconds=0)
    names = list(SCENARIOS) if "all" in options.scenario else options.scenario
    run(names, Trial(SERVERS[options.server], workload, options.scale), results)
    results.write(file)
    (options.out / "RESULTS.md").write_text(report.markdown(results))


if __name__ == "__main__":
    main()
