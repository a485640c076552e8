"""A version is loaded only if it is whole and answers its golden examples as it did where it was made."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.errors import StorageFailed, VersionRefused
from app.metrics import Metrics
from app.preprocessing import Float32Array, Preprocessing, UInt8Array
from app.serving.engine_choice import EngineChoice
from app.serving.runtimes.base import Batch, RuntimeLoader
from app.serving.runtimes.fake import FakeRuntime
from app.serving.runtimes.loading import load_fake, load_openvino
from app.serving.versions import LoadedVersion, load_version
from app.store.manifest import Golden
from app.store.registry import Registry
from tests.serving.versions import LABELS, LOGITS, SCALED, SIZE, Forge, add_version, gray

Load = Callable[[int], LoadedVersion]


@pytest.fixture
def load(registry: Registry, metrics: Metrics) -> Callable[..., LoadedVersion]:
    def load(version: int, load_runtime: RuntimeLoader = load_fake) -> LoadedVersion:
        return load_version(
            registry, "shapes", version, choice=EngineChoice.only(load_runtime), lanes=1, threads=1, metrics=metrics
        )

    return load


def shift_pixels(levels: int) -> Forge:
    """Make the trainer have seen pixels that are brighter or darker by `levels` than this decoder gives."""

    def forge(images: UInt8Array, probabilities: Float32Array) -> tuple[UInt8Array, Float32Array]:
        changed = np.where(images < 128, images + levels, images - levels).astype(np.uint8)
        from app.serving.runtimes.fake import probabilities as answer

        return changed, answer(changed, len(LABELS))

    return forge


def test_a_sound_version_is_loaded(registry: Registry, load: Callable[..., LoadedVersion]) -> None:
    """With its manifest and an engine, and nothing to warn of."""
    loaded = load(add_version(registry))
    assert (loaded.model, loaded.version, loaded.warnings) == ("shapes", 1, ())
    assert loaded.manifest.labels == list(LABELS)


@pytest.mark.parametrize("beside", [True, False])
def test_beside_others_a_load_pauses_between_its_steps(
    registry: Registry, metrics: Metrics, monkeypatch: pytest.MonkeyPatch, beside: bool
) -> None:
    """What has queued during a step is answered before the next; alone nobody would gain by that."""
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    choice = EngineChoice.only(load_fake)
    load_version(
        registry, "shapes", add_version(registry), choice=choice, lanes=1, threads=1, metrics=metrics, beside=beside
    )
    assert len(pauses) == (2 if beside else 0)


@pytest.mark.parametrize(
    ("name", "changes"), [("plain", {}), ("logits", LOGITS), ("scaled", SCALED)], ids=["plain", "logits", "scaled"]
)
def test_real_models_pass_their_golden_examples(
    registry: Registry, load: Callable[..., LoadedVersion], saved_models: Path, name: str, changes: dict[str, Any]
) -> None:
    """With OpenVINO, against what TensorFlow computed."""
    version = add_version(registry, saved_model=saved_models / name, **changes)
    assert load(version, load_openvino).runtime.name == "openvino-f32"


@pytest.mark.parametrize("levels", [1, 2])
def test_pixels_that_differ_by_two_levels_are_a_warning(
    registry: Registry, load: Callable[..., LoadedVersion], sample: Callable[..., float], levels: int
) -> None:
    """Another build of the decoder: loaded, with a warning that says how much, and a metric."""
    loaded = load(add_version(registry, forge=shift_pixels(levels)))
    assert f"by up to {levels} of 255 levels" in loaded.warnings[0]
    assert sample("fovea_golden_warnings_total", model="shapes") == 1
    assert sample("fovea_version_refusals_total", model="shapes") == 0


def replace(name: str, array: np.ndarray[Any, Any]) -> Forge:
    def forge(images: UInt8Array, probabilities: Float32Array) -> tuple[UInt8Array, Float32Array]:
        return (array, probabilities) if name == "images" else (images, array)

    return forge


FORGED: dict[str, tuple[dict[str, Any], str]] = {
    "pixels that differ by three levels": (
        {"forge": shift_pixels(3)},
        r"'0.png' gives pixels that differ from the trainer's by up to 3 levels; at most 2 are allowed",
    ),
    "probabilities of another model": (
        {"forge": replace("probabilities", np.full((2, 3), 1 / 3, np.float32))},
        r"its answer to the golden example '\d.png' differs from the trainer's by 0\.\d+; at most 0.0001 is allowed",
    ),
    "expected probabilities that are not numbers": (
        {"forge": replace("probabilities", np.full((2, 3), np.nan, np.float32))},
        "differs from the trainer's by nan",
    ),
    "a label too many": (
        {"labels": [*LABELS, "spiral"]},
        r"its manifest, with 2 golden examples and 4 labels, asks for float32 \[2, 4\]",
    ),
    "another size than that of the golden examples": (
        {"preprocessing": Preprocessing(height=32, width=32, color="grayscale")},
        r"`images` in its golden/expected.npz is uint8 \[2, 28, 28, 1\]; .* asks for uint8 \[2, 32, 32, 1\]",
    ),
    "golden images of something else": (
        {"images": [gray(0), gray(255)]},
        "Its preprocessing is not the one that it was trained with",
    ),
    "a golden example that is no image": ({"images": [b"text", b"text"]}, "'0.png' cannot be decoded: Not an image"),
    "a golden example outside of the version": (
        {"golden": Golden(images=["../../../../etc/hostname", "1.png"])},
        r"names a golden example '../../../../etc/hostname', but not among its files",
    ),
}


@pytest.mark.parametrize(("forgery", "reason"), FORGED.values(), ids=FORGED.keys())
def test_a_forged_version_is_refused_with_the_reason(
    registry: Registry,
    load: Callable[..., LoadedVersion],
    sample: Callable[..., float],
    forgery: dict[str, Any],
    reason: str,
) -> None:
    """Each with a message that names the version and what is wrong with it; and counted."""
    version = add_version(registry, **forgery)
    with pytest.raises(VersionRefused, match=rf"^Version 1 of shapes is refused: .*{reason}"):
        load(version)
    assert sample("fovea_version_refusals_total", model="shapes") == 1


def test_weights_that_are_not_numbers_are_refused(
    registry: Registry, load: Callable[..., LoadedVersion], saved_models: Path
) -> None:
    """A real graph with one NaN among its weights."""
    version = add_version(registry, saved_model=saved_models / "nan")
    with pytest.raises(VersionRefused, match="numbers that are not finite"):
        load(version, load_openvino)


def test_weights_of_another_model_are_refused(
    registry: Registry, load: Callable[..., LoadedVersion], saved_models: Path
) -> None:
    """The golden examples are those of the graph that was trained, and no other passes."""
    with np.load(saved_models / "other" / "reference.npz") as reference:
        wrong = reference["probabilities"][:2]
    version = add_version(registry, saved_model=saved_models / "plain", forge=replace("probabilities", wrong))
    with pytest.raises(VersionRefused, match="differs from the trainer's"):
        load(version, load_openvino)


def test_logits_that_nobody_said_were_logits_are_refused(
    registry: Registry, load: Callable[..., LoadedVersion], saved_models: Path
) -> None:
    """Outputs that do not sum to 1 are no probabilities, however close to what was expected."""
    version = add_version(registry, saved_model=saved_models / "logits")
    with pytest.raises(VersionRefused, match=r"its outputs are no probabilities: they range from .* instead of 1"):
        load(version, load_openvino)


def test_a_graph_with_another_number_of_classes_is_refused(
    registry: Registry, load: Callable[..., LoadedVersion], saved_models: Path
) -> None:
    """Four labels and four expected probabilities do not make four outputs."""
    four = np.full((2, 4), 0.25, np.float32)
    version = add_version(
        registry, saved_model=saved_models / "plain", labels=[*LABELS, "spiral"], forge=replace("probabilities", four)
    )
    with pytest.raises(VersionRefused, match=r"it has 4 labels, but its output is \[1, 3\]"):
        load(version, load_openvino)


def test_a_version_that_depends_on_the_batch_is_refused(registry: Registry, load: Callable[..., LoadedVersion]) -> None:
    """An answer that changes with what else is in the batch would change with the load."""

    class Batchy(FakeRuntime):
        def predict(self, batch: Batch, *, alone: bool = False) -> Float32Array:
            return super().predict(batch if len(batch) > 1 else 255 - batch // 2)

    version = add_version(registry)
    with pytest.raises(VersionRefused, match="differs from those that it gives in a batch"):
        load(version, Batchy)


def test_files_are_checked_before_any_is_opened(
    registry: Registry, load: Callable[..., LoadedVersion], saved_models: Path
) -> None:
    """A changed or missing file is named, and the engine never sees the graph."""

    def unreached(*_: object, **__: object) -> FakeRuntime:
        raise AssertionError("the engine was reached")

    tampered = add_version(registry, saved_model=saved_models / "plain")
    missing = add_version(registry, saved_model=saved_models / "plain")
    with (registry.folder("shapes", tampered) / "saved_model.pb").open("r+b") as file:
        file.write(b"\0")
    (registry.folder("shapes", missing) / "golden" / "expected.npz").unlink()
    with pytest.raises(VersionRefused, match=r"'saved_model.pb' changed since registration"):
        load(tampered, unreached)
    with pytest.raises(VersionRefused, match=r"lacks 'golden/expected.npz'"):
        load(missing, unreached)


def test_whatever_an_engine_raises_is_a_refusal_and_the_engine_is_closed(
    registry: Registry, load: Callable[..., LoadedVersion]
) -> None:
    """A graph that breaks its engine must not break the service."""
    closed = []

    class Broken(FakeRuntime):
        def predict(self, batch: Batch, *, alone: bool = False) -> Float32Array:
            raise RuntimeError("out of luck")

        def close(self) -> None:
            closed.append(True)

    version = add_version(registry)
    with pytest.raises(VersionRefused, match="loading it failed with RuntimeError: out of luck"):
        load(version, Broken)
    assert closed == [True]


def test_a_store_that_cannot_be_read_is_no_fault_of_the_version(
    registry: Registry, load: Callable[..., LoadedVersion]
) -> None:
    """Such a version is not refused: it may be tried again."""

    def away(folder: Path, *_: object, **__: object) -> FakeRuntime:
        raise OSError(5, "Input/output error")

    version = add_version(registry)
    with pytest.raises(StorageFailed, match=r"cannot be read from the model store: Input/output error"):
        load(version, away)
    assert load(version).version == version


def test_a_long_golden_replay_is_compared_image_by_image(
    registry: Registry, load: Callable[..., LoadedVersion]
) -> None:
    """More golden examples than go in one batch: the one that differs is named."""
    from app.serving.runtimes.fake import probabilities as answer
    from tests.serving.versions import png

    arrays = np.random.default_rng(3).integers(0, 256, (70, SIZE, SIZE, 1), np.uint8)
    arrays[65] = 0
    expected = answer(arrays, 3)
    expected[65] = expected[65][::-1]
    version = add_version(
        registry,
        images=[png(array) for array in arrays],
        forge=lambda *_: (arrays, expected),
        golden=Golden(images=[f"{index}.png" for index in range(70)]),
    )
    with pytest.raises(VersionRefused, match=r"golden example '65\.png' differs"):
        load(version)
