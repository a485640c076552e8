"""Small versions to register. Nothing here needs an engine: the registry never looks into a model."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from app.preprocessing import Preprocessing
from app.store.manifest import Golden, Manifest, PromotionDecision, TensorSpec
from app.store.registry import Registry


def manifest(model: str = "cats", *, created_by: str = "test") -> Manifest:
    return Manifest(
        model=model,
        labels=["cat", "dog"],
        preprocessing=Preprocessing(height=8, width=8),
        input=TensorSpec(name="image", dtype="uint8", shape=(-1, 8, 8, 3)),
        output=TensorSpec(name="probabilities", dtype="float32", shape=(-1, 2)),
        golden=Golden(images=["0.png"]),
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
        created_by=created_by,
    )


def fill(folder: Path, content: str = "weights") -> None:
    """Write the files of a version, in folders as a SavedModel has them."""
    (folder / "saved_model.pb").write_text("graph")
    (folder / "variables").mkdir()
    (folder / "variables" / "variables.data").write_text(content)


def add_version(registry: Registry, model: str = "cats", *, created_by: str = "test") -> int:
    with registry.staging() as staged:
        fill(staged, created_by)
        return registry.register(staged, manifest(model, created_by=created_by))


def decision(candidate: int, production: int) -> PromotionDecision:
    """A comparison that speaks for the candidate."""
    return PromotionDecision(
        verdict="better",
        candidate=candidate,
        production=production,
        images=1000,
        left_out=20,
        right_both=900,
        right_candidate_only=41,
        right_production_only=18,
        p_value=0.0037,
        difference=2.3,
        low=0.98,
        high=3.69,
        confidence=0.95,
        margin=1.0,
        class_bound=5.0,
        worst_class="dog",
        worst_class_difference=-0.5,
        worst_class_images=480,
    )
