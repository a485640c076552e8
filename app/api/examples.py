"""Examples of the bodies and answers of the API, for its OpenAPI document. One story: photos of flowers."""

from __future__ import annotations

from typing import Any

from app.jobs.spec import TrainingSpec

_DIGEST = "a3c1f0d4e97b5826c4d0b8e1f27a6935d8c7b40e5f1a2963c8d7e4b5a60f1928"
_WHO = "20261122-163012-0f3c9ab"

REPORT: dict[str, Any] = {
    "name": "flowers",
    "description": "",
    "builtin": False,
    "created_at": "2026-11-22T16:28:40Z",
    "created_by": "ann",
    "fingerprint": _DIGEST,
    "images": 3668,
    "bytes": 228_813_984,
    "classes": {"daisy": 633, "dandelion": 898, "rose": 640, "sunflower": 699, "tulip": 798},
    "splits": {},
    "sizes": {
        "width": {"min": 143, "median": 320.0, "max": 1024},
        "height": {"min": 159, "median": 240.0, "max": 442},
    },
    "formats": {"JPEG": 3668},
    "modes": {"RGB": 3668},
    "grayscale": False,
    "rejected_files": 2,
    "rejected": [
        {"name": "rose/notes.txt", "reason": "Not an image in a supported format. Supported: JPEG, PNG, WEBP."},
        {"name": "tulip/0412.jpg", "reason": "The image is damaged or cut short."},
    ],
    "ignored_files": 1,
    "duplicate_files": 1,
    "duplicates": [
        {
            "name": "daisy/0007.jpg",
            "copies": ["tulip/0007.jpg"],
            "labels": ["daisy", "tulip"],
            "splits": [],
            "thumbnails": ["0001.png"],
        }
    ],
    "conflicting_duplicates": 1,
    "near_duplicate_files": 1,
    "near_duplicates": [
        {
            "name": "rose/0012.jpg",
            "copies": ["rose/0399.jpg"],
            "labels": ["rose"],
            "splits": [],
            "thumbnails": ["0002.png", "0003.png"],
        }
    ],
    "conflicting_near_duplicates": 0,
    "cross_split_duplicates": 0,
    "distinct_images": {"daisy": 633, "dandelion": 898, "rose": 640, "sunflower": 699, "tulip": 798},
    "small_classes": [],
    "missing_in_splits": {},
    "extreme_size_files": 0,
    "extreme_sizes": [],
    "case_twins": [],
    "case_twin_thumbnails": {},
    "warnings": ["Images that occur several times under different labels: 1. See duplicates."],
}

DATASETS: dict[str, Any] = {
    "datasets": [
        {
            **{field: REPORT[field] for field in ("name", "description", "builtin", "created_at", "created_by")},
            **{field: REPORT[field] for field in ("images", "bytes", "sizes", "grayscale")},
            **{field: REPORT[field] for field in ("rejected_files", "duplicate_files")},
            "class_count": 5,
            "warning_count": 1,
            "problem": None,
        },
        {
            "name": "digits",
            "description": "Handwritten digits.",
            "builtin": True,
            "images": 1797,
            "class_count": 10,
            "sizes": {"width": {"min": 8, "median": 8, "max": 8}, "height": {"min": 8, "median": 8, "max": 8}},
            "grayscale": True,
        },
    ]
}

SPECS: dict[str, Any] = {
    "digits": {"summary": "Built-in digits with the defaults", "value": {"dataset": "digits"}},
    "shapes": {
        "summary": "Noisy lines, a small network, promoted if it is better",
        "value": {
            "dataset": "shapes",
            "model": "lines",
            "shapes": {"images": 1500, "noise": 0.2},
            "architecture": {"name": "simple_cnn", "filters": [16, 32], "dense_units": 64},
            "epochs": 5,
            "promotion": "if_better",
        },
    },
    "photos": {
        "summary": "An uploaded dataset of photos, augmented",
        "value": {
            "dataset": "flowers",
            "preprocessing": {"height": 64, "width": 64, "fit": "crop"},
            "architecture": {"name": "resnet_small", "filters": [64, 128, 192], "blocks": 1},
            "augmentation": {"horizontal_flip": True, "shift": 0.1, "brightness": 0.2},
            "epochs": 30,
            "early_stopping": {"patience": 5},
        },
    },
    "search": {
        "summary": "Twenty trials of 8 epochs first, and the best of them in full",
        "value": {
            "dataset": "flowers",
            "architecture": {"name": "resnet_small"},
            "search": {
                "method": "tpe",
                "space": {
                    "architecture.filters": [[32, 64, 128], [64, 128, 192]],
                    "learning_rate": {"low": 0.01, "high": 0.5, "log": True},
                    "augmentation.rotation": {"low": 0, "high": 30, "step": 10},
                },
                "trials": 20,
                "epochs": 8,
            },
        },
    },
}

_SPEC: dict[str, Any] = TrainingSpec.model_validate(SPECS["photos"]["value"]).model_dump(mode="json")
_METRICS = {"accuracy": 0.874, "macro_f1": 0.869, "loss": 0.412}

QUEUED: dict[str, Any] = {
    "id": _WHO,
    "state": "queued",
    "attempt": 0,
    "submitted_at": "2026-11-22T16:30:12Z",
    "cancel_requested": False,
    "ahead": 1,
    "spec": _SPEC,
    "epochs": 30,
    "history": [],
}
RUNNING: dict[str, Any] = {
    **QUEUED,
    "state": "running",
    "ahead": None,
    "attempt": 1,
    "started_at": "2026-11-22T16:30:13Z",
    "phase": "fit",
    "message": "Epoch 1 of 30",
    "epoch": 1,
    "remaining_seconds": 391.5,
    "history": [
        {
            "at": "2026-11-22T16:30:31Z",
            "attempt": 1,
            "phase": "fit",
            "message": "Epoch 1 of 30",
            "epoch": 1,
            "epochs": 30,
            "loss": 1.21,
            "accuracy": 0.497,
            "val_loss": 1.04,
            "val_accuracy": 0.583,
            "learning_rate": 0.001,
            "seconds": 13.5,
            "remaining_seconds": 391.5,
        }
    ],
}
SUCCEEDED: dict[str, Any] = {
    **RUNNING,
    "state": "succeeded",
    "finished_at": "2026-11-22T16:37:02Z",
    "phase": "register",
    "message": "Version 2 of flowers",
    "epoch": 30,
    "remaining_seconds": None,
    "result": {
        "model": "flowers",
        "version": 2,
        "metrics": _METRICS,
        "promoted": False,
        "promotion_reason": "The promotion policy is manual.",
    },
}
TRIALS: dict[str, Any] = {
    "job": _WHO,
    "search": TrainingSpec.model_validate(SPECS["search"]["value"]).model_dump(mode="json")["search"],
    "done": False,
    "seconds": 95.2,
    "best": 1,
    "importances": None,
    "remark": "",
    "trials": [
        {
            "number": 1,
            "state": "complete",
            "values": {"architecture.filters": [32, 64, 128], "learning_rate": 0.08331, "augmentation.rotation": 10},
            "val_accuracy": 0.812,
            "val_loss": 0.561,
            "best_epoch": 8,
            "epochs": 8,
            "parameters": 594_213,
            "seconds": 61.4,
            "curve": [{"epoch": 1, "val_accuracy": 0.511, "val_loss": 1.203}],
        },
        {
            "number": 2,
            "state": "running",
            "values": {"architecture.filters": [64, 128, 192], "learning_rate": 0.2107, "augmentation.rotation": 0},
            "val_accuracy": 0.498,
            "val_loss": 1.31,
            "epochs": 8,
            "curve": [{"epoch": 1, "val_accuracy": 0.498, "val_loss": 1.31}],
        },
    ],
}
CANCELLED: dict[str, Any] = {
    **QUEUED,
    "state": "cancelled",
    "ahead": None,
    "finished_at": "2026-11-22T16:30:13Z",
    "reason": "Cancelled before it began.",
    "cancel_requested": True,
}
JOBS: dict[str, Any] = {"jobs": [{**SUCCEEDED, "history": []}]}

_TUNING = {
    "engine": "litert-f32",
    "precision": "f32",
    "batch": 8,
    "images_per_second": 17650.2,
    "seconds_alone": 0.000058,
    "candidates": {"openvino-f32": 14930.7, "litert-f32": 17650.2},
}
_MODEL: dict[str, Any] = {
    "name": "flowers",
    "versions": [1, 2],
    "production": 1,
    "serving": 1,
    "runtime": "litert-f32",
    "tuning": _TUNING,
    "state": "ready",
    "ready": True,
    "reason": None,
    "warnings": [],
}
MODELS: dict[str, Any] = {"models": [_MODEL]}
MODEL: dict[str, Any] = {
    **_MODEL,
    "details": [
        {"version": 2, "created_at": "2026-11-22T16:37:01Z", "created_by": _WHO, "metrics": _METRICS, "problem": None},
        {"version": 1, "problem": "The model.json of version 1 of flowers is not valid: labels: Field required."},
    ],
}

_EVALUATION = "/api/v1/models/flowers/versions/2/evaluation"
VERSION: dict[str, Any] = {
    "model": "flowers",
    "version": 2,
    "production": False,
    "serving": False,
    "manifest": {
        "schema_version": 1,
        "model": "flowers",
        "labels": list(REPORT["classes"]),
        "preprocessing": {"height": 64, "width": 64, "color": "rgb", "resample": "bilinear", "fit": "crop"},
        "input": {"name": "image", "dtype": "uint8", "shape": [-1, 64, 64, 3]},
        "output": {"name": "probabilities", "dtype": "float32", "shape": [-1, 5]},
        "activation": "none",
        "golden": {"images": ["00.png", "01.png"], "tolerance": 0.0001},
        "metrics": _METRICS,
        "data": {"dataset": "flowers", "sha256": _DIGEST, "counts": {"train": 2751, "validation": 367, "test": 550}},
        "training_spec": _SPEC,
        "parent": 1,
        "created_at": "2026-11-22T16:37:01Z",
        "created_by": _WHO,
        "software": {"fovea": "0.1.0", "keras": "3.15.0", "tensorflow": "2.21.0"},
        "files": {"evaluation/report.json": _DIGEST, "evaluation/mistakes/00.png": _DIGEST, "saved_model.pb": _DIGEST},
    },
    "evaluation": {"accuracy": 0.874, "mistakes": [{"picture": "mistakes/00.png", "label": "rose"}]},
    "links": {name: f"{_EVALUATION}/{name}" for name in ("mistakes/00.png", "report.json")},
}

_PROMOTED: dict[str, Any] = {
    "sequence": 2,
    "version": 2,
    "at": "2026-11-22T17:02:11Z",
    "by": "ann",
    "reason": "Two points better on the test split.",
    "action": "promote",
}
PROMOTED: dict[str, Any] = {"model": "flowers", **_PROMOTED}
ROLLED_BACK: dict[str, Any] = {
    **PROMOTED,
    "sequence": 3,
    "version": 1,
    "at": "2026-11-22T17:40:58Z",
    "reason": "Roses are called tulips.",
    "action": "rollback",
}
_DECISION: dict[str, Any] = {
    "verdict": "better",
    "candidate": 3,
    "production": 2,
    "images": 620,
    "left_out": 0,
    "right_both": 521,
    "right_candidate_only": 38,
    "right_production_only": 17,
    "p_value": 0.0064,
    "difference": 3.39,
    "low": 1.46,
    "high": 5.44,
    "confidence": 0.95,
    "margin": 1.0,
    "class_bound": 10.0,
    "worst_class": "tulip",
    "worst_class_difference": -1.6,
    "worst_class_images": 124,
    "lost_classes": [],
}
PROMOTIONS: dict[str, Any] = {
    "model": "flowers",
    "promotions": [
        {**_PROMOTED, "sequence": 1, "version": 1, "at": "2026-11-20T09:12:45Z", "reason": "The first."},
        _PROMOTED,
        {
            **_PROMOTED,
            "sequence": 3,
            "version": 3,
            "at": "2026-11-23T08:30:04Z",
            "by": "training job 20261123-081502-7f3a",
            "reason": "policy: if_better; better: accuracy 90.16% against 86.77% of production version 2 on the same "
            "620 test images; 38 gained, 17 lost, +3.39 points (+1.46 to +5.44), p = 0.0064",
            "decision": _DECISION,
        },
    ],
    "refusals": [
        {
            "after": 3,
            "version": 4,
            "at": "2026-11-24T02:11:37Z",
            "by": "training job 20261124-015804-11c9",
            "reason": "not promoted: neither better nor within 1 points for certain: accuracy 90.00% against 90.16% of "
            "production version 3 on the same 620 test images; 17 gained, 18 lost, -0.16 points (-1.75 to +1.42), "
            "p = 1; more test images would tell, or a wider promotion_margin",
            "decision": {
                **_DECISION,
                "verdict": "undecided",
                "candidate": 4,
                "production": 3,
                "right_both": 541,
                "right_candidate_only": 17,
                "right_production_only": 18,
                "p_value": 1.0,
                "difference": -0.16,
                "low": -1.75,
                "high": 1.42,
            },
        }
    ],
}

PROMOTE: dict[str, Any] = {
    "why": {"summary": "With a reason", "value": {"version": 2, "reason": "Two points better on the test split."}},
    "short": {"summary": "Without", "value": {"version": 2}},
}
ROLLBACK: dict[str, Any] = {
    "why": {"summary": "With a reason", "value": {"reason": "Roses are called tulips."}},
    "short": {"summary": "Without", "value": {}},
}


def answer(description: str, status: int = 200, **values: Any) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route for an answer in JSON, with an example of each name."""
    examples = {
        name: {"summary": name.replace("_", " ").capitalize(), "value": value} for name, value in values.items()
    }
    return {status: {"description": description, "content": {"application/json": {"examples": examples}}}}


def binary(content: str, command: str) -> dict[str, Any]:
    """The `examples` of a body of bytes, which no document can hold: what it is, and how to send it."""
    return {"file": {"summary": content, "description": f"`{command}`", "value": f"(the bytes of {content})"}}


def files(command: str, *names: str) -> dict[str, Any]:
    """The `examples` of a multipart body with these files; a single one is no list."""
    sent = [f"(the bytes of {name})" for name in names]
    value = {"file": sent if len(sent) > 1 else sent[0]}
    return {"files": {"summary": " and ".join(names), "description": f"`{command}`", "value": value}}
