"""What is chosen from the data where a spec leaves it open."""

from __future__ import annotations

from typing import Any

import pytest

from app.jobs.networks import ResNetSmall
from app.jobs.spec import TrainingSpec
from app.preprocessing import Preprocessing
from app.training.architectures import build
from app.training.normalization import Normalization
from app.training.recipes import Recipe, choose
from tests.training.recipe import recipe


def test_small_greyscale_images_get_the_classic_recipe() -> None:
    """Digits, letters and shapes: the classic network, in float32, and nothing is mirrored."""
    chosen = recipe(images=1347, side=28, color="grayscale", bf16=True)
    assert chosen.architecture.name == "simple_cnn"
    assert (chosen.optimizer, chosen.learning_rate, chosen.weight_decay) == ("adamw", 0.001, 0.0005)
    assert (chosen.epochs, chosen.batch_size) == (30, 64)
    assert not chosen.augmentation.horizontal_flip
    assert not chosen.mirror_average
    assert not chosen.mixed_precision


def test_many_greyscale_images_get_a_narrow_residual_network() -> None:
    """Where there is enough to learn from; they are mirrored no more than few."""
    chosen = recipe(images=50_000, side=28, color="grayscale")
    assert isinstance(chosen.architecture, ResNetSmall)
    assert max(chosen.architecture.filters) < 256
    assert not chosen.augmentation.horizontal_flip
    assert not chosen.mirror_average


def test_small_colour_images_get_the_residual_recipe() -> None:
    """A whitened residual network, Nesterov SGD, smoothing, averages, crops and flips."""
    chosen = recipe(images=44_000, bf16=True)
    assert isinstance(chosen.architecture, ResNetSmall)
    assert chosen.architecture.whitening
    assert (chosen.optimizer, chosen.nesterov, chosen.schedule) == ("sgd", True, "cosine")
    assert chosen.label_smoothing > 0
    assert chosen.weight_average > 0
    assert chosen.mirror_average
    assert chosen.mixed_precision
    assert chosen.augmentation.horizontal_flip
    assert chosen.augmentation.crop_padding == 4
    assert chosen.augmentation.cutout == 8


@pytest.mark.parametrize(
    "labels",
    [tuple("0123456789"), ("A", "b"), ("Turn left", "Turn right"), ("arrow_left", "arrow_up")],
    ids=["digits", "letters", "words", "one of two"],
)
def test_what_may_be_writing_or_point_somewhere_is_not_mirrored(labels: tuple[str, ...]) -> None:
    """Where class names are single digits or letters, or say left or right, colour images are not flipped either."""
    chosen = recipe(labels=labels)
    assert not chosen.augmentation.horizontal_flip
    assert not chosen.mirror_average
    assert recipe(labels=("copyright", "leftover")).augmentation.horizontal_flip


def test_larger_pictures_get_a_deeper_network_and_stronger_changes() -> None:
    """From 49 pixels on: more stages, one more for each doubling, turns and zooms; one answer an image."""
    chosen, larger = recipe(side=64), recipe(side=160)
    assert isinstance(chosen.architecture, ResNetSmall)
    assert isinstance(larger.architecture, ResNetSmall)
    assert len(larger.architecture.filters) > len(chosen.architecture.filters) > 3
    assert chosen.augmentation.rotation > 0
    assert chosen.augmentation.horizontal_flip
    assert not chosen.mirror_average
    grey = recipe(side=96, color="grayscale")
    assert grey.architecture.name == "resnet_small"
    assert not grey.augmentation.horizontal_flip


@pytest.mark.parametrize("color", ["rgb", "grayscale"])
@pytest.mark.parametrize("side", [8, 16, 28, 32, 48, 49, 64, 96, 128, 256])
def test_every_size_gets_a_network_that_can_be_built(side: int, color: str) -> None:
    """No choice pools the images away, whatever their size."""
    chosen = recipe(side=side, color=color)
    preprocessing = Preprocessing.model_validate({"height": side, "width": side, "color": color})
    channels = preprocessing.channels
    normalization = Normalization((0.0,) * channels, (255.0,) * channels)
    model = build(chosen.architecture, preprocessing, normalization, 2, seed=0)
    assert model.output_shape == (None, 2)


def test_a_narrow_picture_gets_fewer_stages() -> None:
    """A strip of 256 x 10 pixels cannot be halved as often as it is wide."""
    preprocessing = Preprocessing(height=10, width=256)
    chosen = choose(
        TrainingSpec(dataset="x"), images=50, total=50, labels=["ab", "cd"], preprocessing=preprocessing, bf16=False
    )
    build(chosen.architecture, preprocessing, Normalization((0.0,) * 3, (255.0,) * 3), 2, seed=0)
    assert isinstance(chosen.architecture, ResNetSmall)
    assert len(chosen.architecture.filters) == 3


def test_time_is_bounded_whatever_the_number_of_images() -> None:
    """More images get fewer epochs, but more passes; very many of them no more than a fixed number."""
    counts = (20, 100, 500, 5_000, 45_000, 200_000, 600_000)
    epochs = [recipe(images=count).epochs for count in counts]
    assert epochs == sorted(epochs, reverse=True)
    passes = [count * number for count, number in zip(counts, epochs, strict=True)]
    assert passes[:5] == sorted(passes[:5])
    assert max(passes) <= 2_000_000
    assert 20 <= epochs[counts.index(45_000)] <= 40
    assert epochs[counts.index(500)] >= 50


def test_few_images_still_get_steps_enough() -> None:
    """Small batches and more epochs make up for it."""
    for count in (20, 60, 200, 700):
        for color in ("rgb", "grayscale"):
            chosen = recipe(images=count, side=28, color=color)
            assert chosen.epochs * max(1, count // min(chosen.batch_size, count)) >= 99


def test_what_the_spec_says_stays() -> None:
    """Only what is left open is chosen, and a zero or a false is not left open."""
    asked: dict[str, Any] = {
        "architecture": {"name": "simple_cnn", "filters": [8]},
        "augmentation": {"rotation": 5},
        "optimizer": "rmsprop",
        "learning_rate": 0.02,
        "weight_decay": 0,
        "label_smoothing": 0,
        "weight_average": 0,
        "mirror_average": False,
        "mixed_precision": True,
        "epochs": 3,
        "batch_size": 7,
    }
    chosen = recipe(**asked).model_dump(mode="json")
    for name, value in asked.items():
        assert chosen[name] == value or value.items() <= chosen[name].items(), name
    assert recipe(color="grayscale", side=28, mirror_average=True).mirror_average


def test_a_recipe_comes_back_as_it_is() -> None:
    """A recipe, or its JSON in a manifest, chooses the same again: training with it is training the same."""
    first = recipe(images=44_000, schedule="step", bf16=True)
    assert isinstance(first, Recipe)
    spec = TrainingSpec.model_validate_json(first.model_dump_json())
    assert spec.model_dump() == first.model_dump()
    other = Preprocessing(height=96, width=96)
    again = choose(spec, images=10, total=10, labels=["left", "right"], preprocessing=other, bf16=False)
    assert again == first


def test_nothing_that_was_chosen_is_left_open_in_a_recipe() -> None:
    """Size, colour, shares held out and all: what is null is what the job does without, or not for training."""
    chosen = recipe(images=44_000, side=40, architecture={"name": "mobilenet_v2"}).model_dump(mode="json")
    assert _open(chosen) == {
        "architecture.weights",
        "early_stopping",
        "resources.cpus",
        "resources.memory_gb",
        "search",
    }
    assert chosen["preprocessing"] | {"height": 40, "width": 40, "color": "rgb"} == chosen["preprocessing"]
    assert chosen["splits"] == {"validation": 2500 / 44_000, "test": 5000 / 44_000}
    asked = recipe(preprocessing={"width": 64, "color": "grayscale"}, splits={"test": 0.2}, step_epochs=7)
    assert (asked.preprocessing.width, asked.preprocessing.height, asked.preprocessing.color) == (64, 32, "grayscale")
    assert (asked.splits.test, asked.splits.validation, asked.step_epochs) == (0.2, 0.1, 7)


def _open(spec: dict[str, Any], prefix: str = "") -> set[str]:
    """Paths of what is null."""
    found = {f"{prefix}{name}" for name, value in spec.items() if value is None}
    for name, value in spec.items():
        if isinstance(value, dict):
            found |= _open(value, f"{prefix}{name}.")
    return found


def test_rates_follow_the_optimizer_that_was_asked_for() -> None:
    """0.001 for adaptive optimizers; sgd's grows with the batch."""
    assert recipe(optimizer="adam").learning_rate == 0.001
    assert recipe(optimizer="sgd", batch_size=64).learning_rate == pytest.approx(0.05)
    assert recipe(optimizer="sgd", batch_size=256).learning_rate == pytest.approx(0.2)
    assert recipe(optimizer="sgd", batch_size=16).learning_rate == pytest.approx(0.05)


def test_bfloat16_is_used_where_the_machine_has_it() -> None:
    """`auto` asks the machine; true and false do not."""
    assert not recipe(bf16=False).mixed_precision
    assert recipe(bf16=False, mixed_precision=True).mixed_precision
    assert not recipe(bf16=True, mixed_precision=False).mixed_precision
