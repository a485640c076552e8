"""Networks of keras.applications."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import keras
import numpy as np
import pytest
from keras import layers
from pydantic import ValidationError

from app.errors import TrainingFailed
from app.jobs.networks import Pretrained
from app.preprocessing import Preprocessing
from app.training import fit as fit_module
from app.training import pretrained
from app.training.architectures import build
from app.training.checkpoint import Checkpoint
from app.training.fit import fit
from app.training.normalization import Normalization
from app.training.phases import Phase
from app.training.pretrained import base_of, load_weights
from app.training.remaining import TimeLeft
from tests.training.conftest import prepared_job

NAMES = get_args(Pretrained.model_fields["name"].annotation)
PLAIN = Normalization((0.0,) * 3, (255.0,) * 3)
NARROW: dict[str, Any] = {"name": "mobilenet_v2", "width": 0.35}
# An application needs 32 pixels; `shapes` are of 28.
LARGE_ENOUGH = {"height": 32, "width": 32}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights files of the narrowest mobilenet, as Keras writes them in three ways, and one that is none."""
    folder = tmp_path_factory.mktemp("weights")
    keras.utils.set_random_seed(7)
    network = keras.applications.MobileNetV2(
        input_shape=(96, 96, 3), alpha=0.35, include_top=False, weights=None, pooling="avg"
    )
    network.save_weights(folder / "narrow.weights.h5")
    network.save(folder / "narrow.keras")
    (folder / "noise.h5").write_bytes(b"no weights at all")
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_every_application_builds_from_a_random_start(name: Any) -> None:
    """Each gives one logit a class for images of 32 pixels, and looks for no weights anywhere."""
    network = build(Pretrained(name=name), Preprocessing(height=32, width=32), PLAIN, 5, seed=0)
    assert network.name == name
    assert network.output_shape == (None, 5)
    norms = [layer for layer in base_of(network).layers if isinstance(layer, layers.BatchNormalization)]
    assert all(layer.momentum <= 0.9 for layer in norms)


def test_an_application_takes_grey_and_larger_images() -> None:
    """Of any shape, with and without weights that know three channels."""
    preprocessing = Preprocessing(height=224, width=96, color="grayscale")
    for weights in (None, "narrow.keras"):
        network = build(
            Pretrained(**NARROW, weights=weights), preprocessing, Normalization((0.0,), (255.0,)), 2, seed=0
        )
        assert np.isfinite(np.asarray(network(np.zeros((1, 224, 96, 1), np.float32)))).all()


def test_smaller_images_are_refused_with_what_to_do() -> None:
    """The message names the least size and the fields that set it."""
    with pytest.raises(TrainingFailed, match=r"at least 32 x 32 pixels.*28 x 28.*preprocessing\.height"):
        build(Pretrained(**NARROW), Preprocessing(height=28, width=28), PLAIN, 2, seed=0)


@pytest.mark.parametrize("file", ["narrow.weights.h5", "narrow.keras"])
def test_weights_come_from_a_local_file(folder: Path, file: str) -> None:
    """Whichever way Keras wrote them, and whatever the size of the images they were learned on."""
    spec = Pretrained(**NARROW, weights=file)
    network = build(spec, Preprocessing(height=32, width=32), PLAIN, 3, seed=0)
    before = base_of(network).get_weights()
    load_weights(network, spec, folder)
    expected = keras.models.load_model(folder / "narrow.keras").get_weights()
    assert not np.array_equal(before[0], expected[0])
    for array, reference in zip(base_of(network).get_weights(), expected, strict=True):
        np.testing.assert_array_equal(array, reference)


def test_a_weights_file_that_does_not_do_says_why(folder: Path) -> None:
    """It is missing, no such file, or of another network: the message names the file, and what would do."""

    def load(weights: str, **fields: Any) -> None:
        spec = Pretrained(**{**NARROW, **fields}, weights=weights)
        load_weights(build(spec, Preprocessing(height=32, width=32), PLAIN, 3, seed=0), spec, folder)

    with pytest.raises(TrainingFailed, match=r"no weights file 'gone\.h5'.*There are: narrow\.keras"):
        load("gone.h5")
    with pytest.raises(TrainingFailed, match=r"'noise\.h5' does not fit mobilenet_v2.*include_top=False"):
        load("noise.h5")
    with pytest.raises(TrainingFailed, match=r"'narrow\.keras' does not fit mobilenet_v2"):
        load("narrow.keras", width=0.5)


@pytest.mark.parametrize(
    "weights", ["../secret.h5", "/etc/passwd.h5", "https://a.example/x.h5", "x.pkl", ".h5", "a/b.h5"]
)
def test_weights_are_named_by_a_plain_file_name(weights: str) -> None:
    """No path, no address, no other kind of file."""
    with pytest.raises(ValidationError, match="must be the name of a file in the folder"):
        Pretrained(**NARROW, weights=weights)


def test_what_cannot_be_is_refused_by_the_spec() -> None:
    """A width that the network does not come in; a random start that stays frozen."""
    with pytest.raises(ValidationError, match="resnet50_v2 has one width"):
        Pretrained(name="resnet50_v2", width=0.5)
    with pytest.raises(ValidationError, match="frozen_epochs needs `weights`"):
        Pretrained(**NARROW, frozen_epochs=2)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder with weights of a base that is traced in no time, and stands for any other."""

    def base(spec: Pretrained, shape: tuple[int, ...]) -> keras.Model:
        image = keras.Input(shape)
        x = layers.Conv2D(4, 3, strides=4, use_bias=False)(image)
        x = layers.ReLU()(layers.BatchNormalization()(x))
        return keras.Model(image, layers.GlobalAveragePooling2D()(x))

    monkeypatch.setattr(pretrained, "_base", base)
    folder = tmp_path / "weights"
    folder.mkdir()
    keras.utils.set_random_seed(7)
    base(Pretrained(**NARROW), (32, 32, 3)).save(folder / "small.keras")
    return folder


def _job(workspace: Path, **fields: Any) -> Any:
    """A job that starts from the small base, frozen for an epoch."""
    architecture = {**NARROW, "weights": "small.keras", "frozen_epochs": 1}
    return prepared_job(workspace, architecture=architecture, preprocessing=LARGE_ENOUGH, **fields)


def test_a_frozen_base_stays_as_it_was_until_it_is_fine_tuned(tmp_path: Path, small: Path) -> None:
    """In the frozen epochs only the last layer moves; afterwards the base does, at a lower rate."""
    spec, data, reporter, _ = _job(tmp_path, epochs=2, warmup=0, schedule="constant", mixed_precision=False)
    reference = keras.models.load_model(small / "small.keras").trainable_variables

    def kept(epochs: int) -> list[bool]:
        """Whether each of the reference's trained arrays is still among those of the network."""
        checkpoints = tmp_path / f"{epochs}"
        fitted = fit(spec.model_copy(update={"epochs": epochs}), data, checkpoints, reporter, weights_folder=small)
        state = Checkpoint.load(checkpoints)
        assert state is not None
        assert [epoch.learning_rate for epoch in fitted.history] == pytest.approx([0.001, 0.0001][:epochs])
        return [any(np.array_equal(array, other) for other in state.variables) for array in map(np.asarray, reference)]

    assert all(kept(1))
    assert not any(kept(2))


def test_training_does_not_stop_early_while_a_base_is_frozen(tmp_path: Path, small: Path) -> None:
    """Patience is counted from the first epoch of fine-tuning."""
    architecture = {**NARROW, "weights": "small.keras", "frozen_epochs": 4}
    spec, data, reporter, _ = prepared_job(
        tmp_path,
        architecture=architecture,
        preprocessing=LARGE_ENOUGH,
        epochs=50,
        learning_rate=5,
        optimizer="sgd",
        schedule="constant",
        warmup=0,
        early_stopping={"patience": 1},
    )
    fitted = fit(spec, data, tmp_path / "checkpoint", reporter, weights_folder=small)
    assert 5 < len(fitted.history) < 50


class _Interrupted(Exception):
    """Stands for the death of the process."""


def test_a_run_that_breaks_off_between_phases_ends_as_an_unbroken_one(
    tmp_path: Path, small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Resumed where fine-tuning begins, it begins with a fresh optimizer, as it would have; no file is read again.

    Either way the clock knows when what is slower begins.
    """
    spec, data, reporter, _ = _job(tmp_path, epochs=3)
    frozen: list[bool] = []

    def begin(clock: TimeLeft, phase: Phase) -> None:
        frozen.append(phase.frozen)
        real_begin(clock, phase)

    real_begin = TimeLeft.begin
    monkeypatch.setattr(TimeLeft, "begin", begin)
    unbroken = fit(spec, data, tmp_path / "unbroken", reporter, weights_folder=small)
    assert frozen == [True, False]

    def die(*_: Any) -> None:
        raise _Interrupted

    with monkeypatch.context() as patch:
        patch.setattr(fit_module, "_report", die)
        with pytest.raises(_Interrupted):
            fit(spec, data, tmp_path / "broken", reporter, weights_folder=small)
    frozen.clear()
    resumed = fit(spec, data, tmp_path / "broken", reporter, weights_folder=tmp_path / "gone")
    assert frozen == [False]
    for one, other in zip(unbroken.model.get_weights(), resumed.model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_missing_file_fails_the_job_before_it_trains(tmp_path: Path) -> None:
    """The reason is the one that the user can do something about."""
    spec, data, reporter, _ = prepared_job(
        tmp_path, architecture={**NARROW, "weights": "gone.h5"}, preprocessing=LARGE_ENOUGH
    )
    with pytest.raises(TrainingFailed, match="no weights file"):
        fit(spec, data, tmp_path / "checkpoint", reporter, weights_folder=tmp_path / "weights")
