"""`python -m benchmarks`: time the product, its peers and what the machine could do, and write RESULTS.md.

On a machine that does nothing else. The first run builds models and installs the peers, which takes some minutes more.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from benchmarks import environments, machine, report, wrk
from benchmarks.overload import SCENARIOS
from benchmarks.overload import run as run_scenarios
from benchmarks.plan import Plan
from benchmarks.results import Results
from benchmarks.scenarios.driving import Trial
from benchmarks.servers import SERVERS, Server
from benchmarks.workloads import WORKLOADS

_QUICK_SCALE = 0.15
_FOLDER = Path(__file__).parent


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    wrk.require()
    workloads = [WORKLOADS[name] for name in options.workload or WORKLOADS]
    for workload in workloads:
        print(f"Preparing {workload.name} …", file=sys.stderr, flush=True)
        workload.prepare()
    results = Results(
        machine=machine.describe(),
        began=datetime.now(UTC),
        rounds=1 if options.quick else options.rounds,
        seconds=2 if options.quick else options.seconds,
    )
    out: Path = options.out
    if (out / "results.json").is_file():
        results.scenarios = Results.read(out / "results.json").scenarios
    servers = _available(options.only or list(SERVERS), results)
    results.servers = {server.name: server.title for server in servers}
    results.peers = [server.name for server in servers if server.peer]
    results.precisions = {server.name: server.precision for server in servers}

    def save(current: Results) -> None:
        current.write(out / "results.json")
        (out / "RESULTS.md").write_text(report.markdown(current))

    Plan(workloads, servers, results.rounds, results.seconds).run(results, save)
    if options.scenarios is None and not (options.quick or options.only):
        options.scenarios = list(SCENARIOS)
    for workload in workloads if options.scenarios else []:
        trial = Trial(_product(servers), workload, _QUICK_SCALE if options.quick else 1.0)
        run_scenarios(options.scenarios, trial, results)
        save(results)
    print(f"Written: {out / 'RESULTS.md'} and results.json", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3, help="interleaved rounds (default: 3)")
    parser.add_argument("--seconds", type=float, default=6, help="seconds of each load (default: 6)")
    parser.add_argument("--quick", action="store_true", help="one round of 2 s a load: to see that all of it works")
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=list(SERVERS), help=f"of {', '.join(SERVERS)}")
    parser.add_argument(
        "--scenarios",
        nargs="*",
        metavar="SCENARIO",
        choices=list(SCENARIOS),
        help=f"of {', '.join(SCENARIOS)}, after the rounds (default: all, but none with --quick or --only)",
    )
    parser.add_argument("--workload", nargs="+", choices=list(WORKLOADS))
    parser.add_argument("--out", type=Path, default=_FOLDER, help="folder of RESULTS.md and results.json")
    return parser


def _product(servers: Sequence[Server]) -> Server:
    """What the scenarios are tried on: the product with as many workers as it finds suitable, or the first there is."""
    own = [server for server in servers if not server.peer] or [SERVERS["fovea-2-f32"]]
    return next((server for server in own if server.name == "fovea-auto-f32"), own[0])


def _available(names: Sequence[str], results: Results) -> list[Server]:
    """Those of the servers that can be run here, their environments installed; the others go to `skipped`."""
    found = []
    for server in (SERVERS[name] for name in names):
        if server.environment is not None:
            print(f"Installing {server.environment}, if it is not yet …", file=sys.stderr, flush=True)
            try:
                environments.install(server.environment)
            except RuntimeError as error:
                results.skipped[server.name] = str(error)
                continue
        if reason := server.missing():
            results.skipped[server.name] = reason
        else:
            found.append(server)
    return found


if __name__ == "__main__":
    main()
