"""The Grafana dashboard: each query can be parsed and asks for metrics that the service has."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from app.metrics import Metrics
from tests.system import require_tool

DEPLOY = Path(__file__).parents[2] / "deploy"
SUFFIXES = {"histogram": ("_bucket", "_sum", "_count"), "counter": ("",), "gauge": ("",)}
# What every client library of Prometheus has, of a process on Linux.
STANDARD = {"process_resident_memory_bytes", "process_cpu_seconds_total", "up"}


@pytest.fixture(scope="module")
def dashboard() -> dict[str, Any]:
    document: dict[str, Any] = json.loads((DEPLOY / "grafana/dashboards/fovea.json").read_text())
    return document


def expressions(dashboard: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for panel in dashboard["panels"]:
        for target in panel.get("targets", []):
            yield panel["title"], target["expr"]


def rule_expressions() -> Iterator[tuple[str, str]]:
    for group in yaml.safe_load((DEPLOY / "prometheus/rules/fovea.yml").read_text())["groups"]:
        for rule in group["rules"]:
            yield rule["alert"], rule["expr"]


def known_series() -> dict[str, set[str]]:
    """Every series of the service's own, with its labels."""
    return {
        described.name + suffix: set(described.labels) | ({"le"} if suffix == "_bucket" else set())
        for described in Metrics().describe()
        for suffix in SUFFIXES[described.type]
    }


def test_every_query_can_be_parsed(dashboard: dict[str, Any], tmp_path: Path) -> None:
    """promtool reads them as the expressions of rules, with Grafana's variables replaced."""
    rules = []
    for number, (_, expression) in enumerate(expressions(dashboard)):
        for variable, value in {"$__rate_interval": "1m", "$model": ".*"}.items():
            expression = expression.replace(variable, value)
        assert "$" not in expression
        rules.append({"record": f"panel_{number}", "expr": expression})
    assert len(rules) >= 20
    file = tmp_path / "rules.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    done = subprocess.run([require_tool("promtool"), "check", "rules", file], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_queries_and_rules_name_only_metrics_that_exist(dashboard: dict[str, Any]) -> None:
    """A metric that was renamed would leave its panel empty and its alert silent."""
    series = known_series()
    named: set[str] = set()
    for where, expression in [*expressions(dashboard), *rule_expressions()]:
        for name in re.findall(r"\b(?:fovea|process)_[a-z_]+\b", expression):
            assert name in series.keys() | STANDARD, f"{where}: {name}"
            named.add(name.removesuffix("_bucket").removesuffix("_sum").removesuffix("_count"))
    # And none of ours is left out.
    assert {described.name for described in Metrics().describe()} <= named


def test_queries_and_rules_name_only_labels_that_the_metric_has(dashboard: dict[str, Any]) -> None:
    """A matcher on a label that does not exist matches nothing, in silence."""
    series = known_series()
    checked = 0
    for where, expression in [*expressions(dashboard), *rule_expressions()]:
        for name, matchers in re.findall(r"\b(fovea_[a-z_]+)\{([^}]*)\}", expression):
            for label in re.findall(r"(\w+)\s*[=!]", matchers):
                assert label in series[name] | {"job", "instance"}, f"{where}: {label} of {name}"
                checked += 1
    assert checked >= 40


def test_panels_do_not_overlap(dashboard: dict[str, Any]) -> None:
    """Each has its own place on the grid of 24 columns."""
    taken: dict[tuple[int, int], str] = {}
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert taken.setdefault((x, y), panel["title"]) is panel["title"]
    identifiers = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(identifiers)) == len(identifiers)


def test_grafana_finds_the_dashboard_and_its_data_source() -> None:
    """The provisioned names are those that compose mounts and the dashboard asks for."""
    grafana = yaml.safe_load((DEPLOY.parent / "docker-compose.yml").read_text())["services"]["grafana"]
    mounts = dict(volume.split(":")[:2] for volume in grafana["volumes"])
    [provider] = yaml.safe_load((DEPLOY / "grafana/provisioning/dashboards/fovea.yml").read_text())["providers"]
    assert mounts["./deploy/grafana/dashboards"] == provider["options"]["path"]
    assert mounts["./deploy/grafana/provisioning"] == "/etc/grafana/provisioning"
    home = Path(grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    assert home.parent == Path(provider["options"]["path"])
    assert (DEPLOY / "grafana/dashboards" / home.name).is_file()
    [source] = yaml.safe_load((DEPLOY / "grafana/provisioning/datasources/prometheus.yml").read_text())["datasources"]
    assert source["url"] == "http://prometheus:9090"
