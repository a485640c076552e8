"""RESULTS.md: the figures of a run as tables, with the machine in words."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from benchmarks.figures import Figure, figure, megabytes, milliseconds, number
from benchmarks.forms import IMAGES_IN_A_REQUEST
from benchmarks.limits import Parts
from benchmarks.plan import MANY_CLIENTS, MANY_IMAGES, ONE
from benchmarks.results import Machine, Results, Sample
from benchmarks.workloads import WORKLOADS

_TUTORIAL = "tutorial-tensorflow"
_NONE = "–"
# Measured with buildah when the images were last built, not by this program.
_IMAGES = (
    "## Container images\n\nMeasured separately, before LiteRT came in, which adds some 30 MB: `serve` 466 MB, `full` "
    "(with TensorFlow) 2,203 MB, unpacked."
)


def markdown(results: Results) -> str:
    """The whole document."""
    names = [name for name in WORKLOADS if any(sample.workload == name for sample in results.samples + results.parts)]
    rounds = f"{results.rounds} interleaved round{'s' if results.rounds > 1 else ''} of {results.seconds:g} s a load"
    parts = [
        "# Results",
        f"Written by `make bench` on {results.began:%d %B %Y}. {machine_in_words(results.machine)}",
        f"Each figure is the median of {rounds}, ± half of the distance between the least and the most. Every server's "
        "answers to 16 images were compared with TensorFlow's before it was timed. Server and load generator (wrk) "
        "share the cores.",
        *(_workload(results, name) for name in names),
        _skipped(results),
        _scenarios(results),
        _IMAGES,
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A markdown table; the first column is text, the others figures."""
    lines = [head, ["---", *("---:" for _ in head[1:])], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def machine_in_words(machine: Machine) -> str:
    """One sentence."""
    software = ", ".join(f"{name} {version}" for name, version in machine.software.items())
    return (
        f"{machine.processor}, {machine.cores} cores ({', '.join(machine.extensions)}), "
        f"{machine.memory_bytes / 2**30:.0f} GiB, {machine.system}; {software}."
    )


def _workload(results: Results, name: str) -> str:
    limits = results.median_parts(name)
    sections = [f"## {name}: {WORKLOADS[name].title}"]
    if limits:
        sections.append(_limits(limits, results, name))
    sections += [_throughput(results, name, limits), _costs(results, name), _choices(results, name)]
    return "\n\n".join(section for section in sections if section)


def _limits(limits: Parts, results: Results, name: str) -> str:
    cores = results.machine.cores
    client = figure(
        load.client_cpu / load.requests
        for sample in results.samples
        if sample.workload == name and (load := sample.loads.get(MANY_CLIENTS)) and load.requests
    )
    rows = []
    for precision in ("f32", "bf16"):
        seconds = limits.seconds(precision, cores)
        rows.append(
            [
                f"{precision}: {limits.best_engine(precision)}",
                *(milliseconds(value) for value in seconds.values()),
                number(limits.limit(precision, cores)),
                number(limits.limit(precision, cores, IMAGES_IN_A_REQUEST)),
                milliseconds(limits.floor(precision)),
            ]
        )
    head = [
        "limit = cores / (decode + engine + HTTP), core-milliseconds an image",
        *(
            "decode",
            "engine",
            "HTTP",
            "limit, images/s",
            f"{IMAGES_IN_A_REQUEST} a request",
            "decode + engine alone, ms",
        ),
    ]
    everything = {f"decode, {key}": value for key, value in limits.decode.items()}
    everything |= dict(limits.engine) | {
        f"{key}, a worker a core, 32 at a time": value for key, value in limits.http.items()
    }
    cost = f" wrk takes {milliseconds(client.median)} core-milliseconds a request beside that." if client else ""
    return "\n\n".join(
        [
            table(head, rows) + f"\n\nThe last column is what one image alone takes at least.{cost}",
            "<details><summary>All that was measured in process</summary>\n\n"
            + table(["part", "images/s"], [[key, number(value)] for key, value in everything.items()])
            + "\n\n</details>",
        ]
    )


def _throughput(results: Results, name: str, limits: Parts | None) -> str:
    cores = results.machine.cores
    tutorial = _rate(results.of(name, _TUTORIAL), MANY_CLIENTS)
    peers = [_rate(results.of(name, peer), MANY_CLIENTS) for peer in results.peers if "openvino" not in peer]
    best = max((peer.median for peer in peers if peer), default=0.0)
    rows = []
    for server, title in results.servers.items():
        samples = results.of(name, server)
        if not samples:
            continue
        one, several, many = (_rate(samples, kind) for kind in (ONE, MANY_CLIENTS, MANY_IMAGES))
        p50 = figure(sample.loads[ONE].p50 for sample in samples)
        p99 = figure(sample.loads[MANY_CLIENTS].p99 for sample in samples)
        precision = results.precisions.get(server, "f32")
        loads = [load for sample in samples for load in sample.loads.values()]
        lost = {
            "refused": sum(load.refused for load in loads),
            "without an answer": sum(load.failed for load in loads),
        }
        remarks = ", ".join(f"{count:,} requests {what}" for what, count in lost.items() if count)
        rows.append(
            [
                title + (f" ({remarks})" if remarks else ""),
                str(one or _NONE),
                milliseconds(p50.median) if p50 else _NONE,
                str(several or _NONE),
                milliseconds(p99.median) if p99 else _NONE,
                _share(several, limits.limit(precision, cores) if limits else 0),
                _ratio(several, tutorial.median if tutorial else 0),
                _ratio(several, best),
                number(many.median * IMAGES_IN_A_REQUEST) if many else _NONE,
                _share(
                    many, limits.limit(precision, cores, IMAGES_IN_A_REQUEST) / IMAGES_IN_A_REQUEST if limits else 0
                ),
            ]
        )
    head = [
        "server",
        "c=1, /s",
        "p50, ms",
        "c=32, /s",
        "p99, ms",
        "of the limit",
        "× tutorial",
        "× best TensorFlow peer",
    ]
    return table([*head, f"{IMAGES_IN_A_REQUEST} a request, images/s", "of the limit"], rows)


def _costs(results: Results, name: str) -> str:
    rows = []
    for server, title in results.servers.items():
        samples = results.of(name, server)
        if not samples:
            continue
        load = [sample.loads[MANY_CLIENTS] for sample in samples if MANY_CLIENTS in sample.loads]
        cpu = figure(one.server_cpu / one.requests for one in load if one.requests)
        start = figure(results.cold_starts(name, server))
        resident = figure(sample.resident for sample in samples)
        proportional = figure(sample.proportional for sample in samples)
        rows.append(
            [
                title + (f" ({engine})" if (engine := samples[-1].engine) else ""),
                str(start or _NONE),
                megabytes(resident.median) if resident else _NONE,
                megabytes(proportional.median) if proportional else _NONE,
                str(samples[0].processes),
                milliseconds(cpu.median) if cpu else _NONE,
            ]
        )
    head = ["server", "first answer, s", "resident, MB", "proportional, MB", "processes", "core-ms a request, c=32"]
    return table(head, rows)


def _choices(results: Results, name: str) -> str:
    rows = []
    for choice in results.choices:
        if choice.workload == name:
            tried = "; ".join(f"{setting}: {number(rate)}" for setting, rate in choice.tried.items())
            rows.append([results.servers.get(choice.server, choice.server), choice.chosen, tried])
    if not rows:
        return ""
    return "Settings that were tried, at 32 at a time, and the one that was kept:\n\n" + table(
        ["server", "kept", "tried, requests/s"], rows
    )


def _skipped(results: Results) -> str:
    if not results.skipped:
        return ""
    return "## Not timed\n\n" + "\n".join(f"- {name}: {reason}" for name, reason in results.skipped.items())


def _scenarios(results: Results) -> str:
    sections = []
    for name, scenario in results.scenarios.items():
        rows = [[key, value(entry)] for key, entry in scenario.items() if not isinstance(entry, list | dict)]
        sections.append(f"### {name}\n\n" + table(["", ""], rows))
    return "## Scenarios\n\n" + "\n\n".join(sections) if sections else ""


def value(entry: object) -> str:
    """One figure of a scenario, as it is written."""
    return number(entry) if isinstance(entry, float) else str(entry)


def _rate(samples: Sequence[Sample], kind: str) -> Figure | None:
    return figure(sample.loads[kind].rate for sample in samples if kind in sample.loads)


def _share(value: Figure | None, whole: float) -> str:
    return f"{value.median / whole:.0%}" if value and whole else _NONE


def _ratio(value: Figure | None, other: float) -> str:
    return number(value.median / other) if value and other else _NONE
