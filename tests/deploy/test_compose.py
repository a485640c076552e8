"""The compose file: what may be reached, what may be written, and that it fits the rest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from app.settings import Settings

ROOT = Path(__file__).parents[2]


class Loader(yaml.SafeLoader):
    """Also knows compose's own tag for "instead of" rather than "in addition to"."""


class Override(list[Any]):
    """A list that replaces the one it is merged with."""


def override(loader: Loader, node: yaml.SequenceNode) -> Override:
    return Override(loader.construct_sequence(node))


Loader.add_constructor("!override", override)


def load(file: str) -> dict[str, Any]:
    document: dict[str, Any] = yaml.load((ROOT / file).read_text(), Loader)
    return document


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    found: dict[str, Any] = load("docker-compose.yml")["services"]
    return found


def test_every_container_is_confined(services: dict[str, Any]) -> None:
    """Read-only, without capabilities, without a way to new ones, with bounds on memory, processes and logs."""
    assert set(services) == {"fovea", "trainer", "proxy", "prometheus", "grafana"}
    for service in services.values():
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert not {"privileged", "cap_add", "user", "pid", "ipc"} & service.keys()
        assert {"mem_limit", "pids_limit", "logging", "healthcheck"} <= service.keys()


def test_nothing_is_published_beyond_this_machine(services: dict[str, Any]) -> None:
    """Without keys everybody who can reach the service may do anything, so only this machine can."""
    published = {name: service["ports"] for name, service in services.items() if "ports" in service}
    assert set(published) == {"proxy", "prometheus", "grafana"}
    assert all(port.startswith("127.0.0.1:") for ports in published.values() for port in ports)


def test_only_the_proxy_and_prometheus_reach_the_service(services: dict[str, Any]) -> None:
    """The service is on a network without a way out; the trainer is on none."""
    networks = load("docker-compose.yml")["networks"]
    assert networks["inside"] == {"internal": True}
    assert services["fovea"]["networks"] == ["inside"]
    assert services["trainer"]["network_mode"] == "none"
    assert "networks" not in services["trainer"]


def test_the_service_queues_and_the_trainer_runs(services: dict[str, Any]) -> None:
    """As in the cluster: the image that answers has no TensorFlow."""
    assert services["fovea"]["build"]["target"] == "serve"
    assert services["fovea"]["environment"]["FOVEA_EXECUTOR"] == "none"
    assert services["trainer"]["build"]["target"] == "full"
    assert services["trainer"]["command"] == ["worker"]
    assert services["fovea"]["volumes"] == services["trainer"]["volumes"]


def test_with_keys_the_service_is_not_anonymous() -> None:
    """The second file takes the permission back before it publishes, and replaces rather than adds."""
    services = load("deploy/compose.keys.yml")["services"]
    environment = services["fovea"]["environment"]
    assert environment["FOVEA_ALLOW_ANONYMOUS"] == "false"
    folder, target, mode = services["fovea"]["volumes"][0].rsplit(":", 2)
    assert folder.startswith("${FOVEA_API_KEYS_FOLDER:?")
    assert Path(environment["FOVEA_API_KEYS"]).parent == Path(target)
    assert mode == "ro"
    assert isinstance(services["proxy"]["ports"], Override)
    assert isinstance(services["proxy"]["volumes"], Override)
    assert not any("loopback" in volume for volume in services["proxy"]["volumes"])


@pytest.mark.parametrize("file", ["docker-compose.yml", "deploy/compose.keys.yml"])
def test_settings_exist_and_mounted_files_too(file: str) -> None:
    """A misspelt variable would be ignored, and a misspelt path would become an empty folder."""
    for service in load(file)["services"].values():
        for variable in service.get("environment", {}):
            if variable.startswith("FOVEA_"):
                assert variable.removeprefix("FOVEA_").lower() in Settings.model_fields
        for volume in service.get("volumes", []):
            if volume.startswith("./"):
                assert (ROOT / volume.split(":")[0]).exists()
                assert volume.endswith(":ro")


def test_containers_get_the_time_that_requests_in_flight_get(services: dict[str, Any]) -> None:
    """Docker kills what has not stopped by then."""
    grace = Settings.model_fields["shutdown_grace"].default
    assert int(services["fovea"]["stop_grace_period"].removesuffix("s")) >= grace + 5


def test_images_of_others_have_a_version(services: dict[str, Any]) -> None:
    """The same file starts the same programs next year."""
    foreign = [service["image"] for service in services.values() if "build" not in service]
    assert len(foreign) == 3
    for image in foreign:
        tag = image.rpartition(":")[2]
        assert any(digit.isdigit() for digit in tag)
