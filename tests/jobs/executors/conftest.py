"""A Ray cluster for the tests of executors: started beside the first of them, gone after the last."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from app.jobs.executors.ray_job import RayJob
from tests.jobs.executors.ray_cluster import RayCluster
from tests.system import missing

_ROOT = Path(__file__).parents[3]

# Makes an executor on the cluster with the stand-in trainer, told by its variables.
MakeRay = Callable[..., RayJob]


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The tests of executors come first, those on Ray last of them, when the cluster has come up.

    First, since processes that share the suite take each other's last tests: of these none,
    for which each would have to start a cluster of its own.
    """
    items.sort(key=_turn)


def _turn(item: pytest.Item) -> int:
    if not item.path.is_relative_to(Path(__file__).parent):
        return 4
    fixtures = getattr(item, "fixturenames", ())
    parameters = item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
    if parameters.get("make") == "ray_job" or "make_ray" in fixtures:
        return 3
    return 1 if "starting_cluster" in fixtures else 2


@pytest.fixture(scope="package")
def starting_cluster() -> Iterator[RayCluster | None]:
    """A cluster that comes up while other tests run; none where Ray is not installed."""
    if sys.platform != "linux" or importlib.util.find_spec("ray") is None:
        yield None
        return
    cluster = RayCluster()
    try:
        yield cluster
    finally:
        cluster.close()


@pytest.fixture(scope="package")
def cluster(starting_cluster: RayCluster | None) -> RayCluster:
    """Two nodes of one core each."""
    if starting_cluster is None:
        missing("Ray (for Linux)")
    assert starting_cluster.address
    return starting_cluster


@pytest.fixture(scope="package")
def make_ray(cluster: RayCluster) -> MakeRay:
    """Makes executors on the cluster."""

    def make(*, capacity: int = 1, module: str = "tests.jobs.stand_in_trainer", **stand_in: str) -> RayJob:
        environment = {f"STAND_IN_{name.upper()}": value for name, value in stand_in.items()}
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("RAY_AUTH_TOKEN", cluster.token)
            return RayJob(
                cluster.address,
                {"PYTHONPATH": str(_ROOT), **environment},
                command=[sys.executable, "-m", module],
                capacity=capacity,
                pace=0.1,
            )

    return make
