"""The page that Prometheus reads."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.multiprocess import MultiProcessCollector

from app.api.metrics import prefers_openmetrics
from tests.api.conftest import API
from tests.server import wait_for

TEXT = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("*/*", TEXT),
        ("text/html,application/xhtml+xml,*/*;q=0.8", TEXT),
        ("application/openmetrics-text", OPENMETRICS),
        # What Prometheus sends, by default and when it is told to prefer its own format.
        (
            "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
            "text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
            OPENMETRICS,
        ),
        ("text/plain;version=0.0.4;q=0.6,application/openmetrics-text;version=1.0.0;q=0.5,*/*;q=0.2", TEXT),
        ("application/openmetrics-text;q=0", TEXT),
        ("application/openmetrics-text;q=much", TEXT),
    ],
)
async def test_the_format_is_the_one_asked_for(api: API, accept: str, kind: str) -> None:
    """OpenMetrics for who names it and prefers it, Prometheus' text for everybody else; never from a cache."""
    response = await api.client.get("/metrics", headers={"Accept": accept})
    assert response.status_code == 200
    assert response.headers["content-type"] == kind
    assert response.headers["cache-control"] == "no-store"
    assert response.text.endswith("# EOF\n") == (kind == OPENMETRICS)
    assert "\nfovea_images_in_flight 0.0\n" in response.text


@pytest.mark.parametrize("accept", ["", ",;,=", "application/openmetrics-text;q=nan", "a" * 9000])
def test_odd_wishes_are_no_error(accept: str) -> None:
    """They get Prometheus' text."""
    assert not prefers_openmetrics(accept)


WORKER = """
import asyncio, os, sys
from pathlib import Path
from app.main import create_app
from app.settings import Settings
folder = Path(sys.argv[1])
app = create_app(Settings(runtime="fake", executor="none", model_store=folder / "store", workspace=folder / "jobs"))
metrics = app.state.services.metrics

async def run():
    async with app.router.lifespan_context(app):
        metrics.predicted("shapes", 1, "early", 2)
        print("counted", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        metrics.predicted("shapes", 1, "late", 3)

asyncio.run(run())
print("ended", flush=True)
os._exit(0)
"""


def test_what_a_process_counts_is_soon_on_the_pages_of_the_others(tmp_path: Path) -> None:
    """Within a second while it runs; at its end, all of it."""
    folder = tmp_path / "metrics"

    def counted() -> dict[str, float]:
        metrics = MultiProcessCollector(CollectorRegistry(), path=str(folder)).collect()  # type: ignore[no-untyped-call]
        samples = [sample for metric in metrics for sample in metric.samples]
        return {s.labels["label"]: s.value for s in samples if s.name == "fovea_predictions_total"}

    process = subprocess.Popen(
        [sys.executable, "-c", WORKER, str(tmp_path)],
        env={**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(folder)},
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with process:
        assert process.stdout is not None
        assert process.stdin is not None
        try:
            assert process.stdout.readline() == "counted\n"
            wait_for(lambda: counted() == {"early": 2}, seconds=10, what="the early count on the page")
            process.stdin.write("\n")
            process.stdin.flush()
            assert process.stdout.readline() == "ended\n"
            assert counted() == {"early": 2, "late": 3}
        finally:
            process.kill()
