"""What the Dockerfile promises, read from its instructions. deploy/prove.sh builds and runs it."""

from __future__ import annotations

import importlib.metadata
import json
import re
import tomllib
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from app.settings import Settings

ROOT = Path(__file__).parents[2]


@dataclass
class Stage:
    base: str
    instructions: list[tuple[str, str]] = field(default_factory=list)

    def all(self, keyword: str) -> list[str]:
        return [argument for found, argument in self.instructions if found == keyword]


@pytest.fixture(scope="module")
def stages() -> dict[str, Stage]:
    text = (ROOT / "Dockerfile").read_text()
    text = re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", " ")
    found: dict[str, Stage] = {"": Stage("")}
    current = ""
    for line in filter(None, map(str.strip, text.splitlines())):
        keyword, argument = line.split(maxsplit=1)
        if keyword == "FROM":
            base, _, current = argument.split()
            found[current] = Stage(base)
        else:
            found[current].instructions.append((keyword, " ".join(argument.split())))
    return found


def ancestry(stages: dict[str, Stage], name: str) -> list[Stage]:
    """A stage and what it is built from, without what it only copies from."""
    line = [stages[name]]
    while line[-1].base in stages:
        line.append(stages[line[-1].base])
    return line


def last(stages: dict[str, Stage], name: str, keyword: str) -> str:
    return next(stage.all(keyword)[-1] for stage in ancestry(stages, name) if stage.all(keyword))


def environment(stages: dict[str, Stage], name: str) -> dict[str, str]:
    pairs = [pair for stage in reversed(ancestry(stages, name)) for line in stage.all("ENV") for pair in line.split()]
    return dict(pair.split("=", 1) for pair in pairs)


@pytest.mark.parametrize("target", ["serve", "full", "ray"])
def test_an_image_runs_fovea_as_a_user_without_rights(stages: dict[str, Stage], target: str) -> None:
    """A number, so that Kubernetes can see that it is not root; and no shell between it and its signals."""
    assert last(stages, target, "USER") == "10001:10001"
    assert json.loads(last(stages, target, "ENTRYPOINT")) == ["fovea"]
    assert json.loads(last(stages, target, "CMD")) == ["serve"]
    # Nothing becomes root again after that, and nothing is installed.
    instructions = [found for stage in reversed(ancestry(stages, target)) for found, _ in stage.instructions]
    assert "RUN" not in instructions[instructions.index("USER") :]


@pytest.mark.parametrize("target", ["serve", "full", "ray"])
def test_an_image_asks_itself_whether_it_lives(stages: dict[str, Stage], target: str) -> None:
    """With the Python that is there, not with a program that is not; on the port that was set."""
    options, _, command = last(stages, target, "HEALTHCHECK").partition("CMD ")
    assert "--start-period=" in options
    program, flag, code = json.loads(command)
    assert (program, flag) == ("python", "-c")
    assert "/health/live" in code
    assert "FOVEA_PORT" in code
    compile(code, "HEALTHCHECK", "exec")


@pytest.mark.parametrize("target", ["serve", "full", "ray"])
def test_settings_in_the_image_exist(stages: dict[str, Stage], target: str) -> None:
    """A misspelt variable would be ignored in silence."""
    variables = {n.removeprefix("FOVEA_").lower(): v for n, v in environment(stages, target).items() if "FOVEA_" in n}
    assert variables.keys() <= Settings.model_fields.keys()
    settings = Settings.model_validate(variables)
    assert settings.host == "0.0.0.0"
    # Whoever starts the image decides who may use it.
    assert settings.api_keys is None
    assert not settings.allow_anonymous


@pytest.mark.parametrize("target", ["serve", "full"])
def test_an_image_leaves_to_a_platform_what_it_decides(stages: dict[str, Stage], target: str) -> None:
    """What the image sets would win over SageMaker's and Vertex AI's variables; the defaults mean the same places."""
    assert not {"FOVEA_PORT", "FOVEA_MODEL_STORE", "FOVEA_WORKSPACE"} & environment(stages, target).keys()
    folder = Path(last(stages, target, "WORKDIR"))
    fields = Settings.model_fields
    for name in ("model_store", "workspace"):
        assert str(folder / fields[name].default) == f"/app/{name}"
    assert last(stages, target, "EXPOSE") == str(fields["port"].default)
    for capability in ("accept-bind-to-port", "multi-models"):
        assert f'com.amazonaws.sagemaker.capabilities.{capability}="true"' in stages["runtime"].all("LABEL")[0]


def test_only_the_full_image_has_what_trains(stages: dict[str, Stage]) -> None:
    """Each image's environment comes from its own part of the lock."""
    assert stages["serve"].all("COPY") == ["--from=build-serve /opt/fovea /opt/fovea"]
    assert stages["full"].all("COPY") == ["--from=build-full /opt/fovea /opt/fovea"]
    assert "requirements/serve.txt requirements/" in stages["build-serve"].all("COPY")
    assert stages["ray"].all("COPY") == ["--from=build-ray /opt/fovea /opt/fovea"]
    assert "requirements/train.txt requirements/" in stages["build-full"].all("COPY")
    assert "requirements/ray.txt requirements/" in stages["build-ray"].all("COPY")
    lock = (ROOT / "requirements/serve.txt").read_text()
    assert not re.search(r"^(tensorflow|keras)", lock, re.MULTILINE)
    assert not re.search(r"^ray==", lock + (ROOT / "requirements/train.txt").read_text(), re.MULTILINE)


def test_what_a_cluster_trains_with_is_what_one_machine_trains_with() -> None:
    """The lock of Ray's nodes adds to the full image's, and changes none of it: a job may run on either."""
    train, ray = (
        dict(re.findall(r"^(\S+)==(\S+)", (ROOT / f"requirements/{name}.txt").read_text(), re.MULTILINE))
        for name in ("train", "ray")
    )
    assert train.items() <= ray.items()
    assert "ray" in ray


def test_everything_from_the_network_is_checked_against_the_lock(stages: dict[str, Stage]) -> None:
    """pip installs with hashes or without an index; there is no third way, and nothing else downloads."""
    runs = [run for stage in stages.values() for run in stage.all("RUN")]
    installs = [part for run in runs for part in run.split("&&") if re.search(r"pip (install|wheel)", part)]
    assert len(installs) == 8
    for install in installs:
        assert ("--require-hashes" in install) != ("--no-index" in install)
    assert not any(re.search(r"\b(curl|wget|apt-get|git)\b", run) for run in runs)


def test_a_mirrors_configuration_leaves_no_trace(stages: dict[str, Stage]) -> None:
    """It is mounted for the length of a step: neither copied nor given as an argument, which images remember."""
    for stage in stages.values():
        for run in stage.all("RUN"):
            if "--require-hashes" in run:
                assert run.startswith("--mount=type=secret,id=pip_conf,target=/etc/pip.conf ")
        assert not any("INDEX" in line for keyword in ("ARG", "ENV") for line in stage.all(keyword))


def test_both_stages_can_be_built_on_another_base(stages: dict[str, Stage]) -> None:
    """One argument for what builds and what runs: the environment's Python must be the same in both."""
    [base] = stages[""].all("ARG")
    assert base.startswith("BASE_IMAGE=python:3.")
    assert {name for name, stage in stages.items() if stage.base == "${BASE_IMAGE}"} == {"build", "runtime"}


def test_labels_say_what_the_image_is(stages: dict[str, Stage]) -> None:
    """Version and revision; the version is the project's."""
    labels = last(stages, "serve", "LABEL")
    for name in ("title", "description", "version", "revision"):
        assert f"org.opencontainers.image.{name}=" in labels
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert f"VERSION={project['version']}" in stages["runtime"].all("ARG")


def test_the_build_sees_only_what_it_copies(stages: dict[str, Stage]) -> None:
    """.dockerignore leaves out everything and lets back in what COPY names."""
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert lines[0] == "*"
    allowed = {line.removeprefix("!") for line in lines if line.startswith("!")}
    copied = {
        source.split("/")[0]
        for stage in stages.values()
        for copy in stage.all("COPY")
        if "--from" not in copy
        for source in [word for word in copy.split() if not word.startswith("--")][:-1]
    }
    assert copied == allowed


def test_the_build_backends_part_of_the_lock_is_whole(stages: dict[str, Stage]) -> None:
    """The Dockerfile picks the build backend and all that it needs out of the lock, and no more."""
    [run] = [run for run in stages["build"].all("RUN") if "awk" in run]
    match = re.search(r"\^\(([a-z|-]+)\)==", run)
    assert match is not None
    needed, queue = set[str](), ["hatchling"]
    while queue:
        needed.add(queue[-1])
        requirements = map(Requirement, importlib.metadata.requires(queue.pop()) or [])
        queue += [r.name for r in requirements if (r.marker is None or r.marker.evaluate()) and r.name not in needed]
    assert set(match[1].split("|")) == needed
    lock = (ROOT / "requirements/dev.txt").read_text()
    assert all(re.search(rf"^{package}==", lock, re.MULTILINE) for package in needed)
