"""`fovea models`: the versions of the local model store, and which of them is production."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from app.commands.environment import Commands, load_settings, open_registry, open_version, print_table, user
from app.errors import FoveaError, InvalidRequest

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

    from app.settings import Settings
    from app.store.manifest import Manifest, Promotion, PromotionDecision, Refusal
    from app.store.registry import Registry


@click.group(cls=Commands)
def models() -> None:
    """Inspect, promote and import models.

    They are those of the model store (FOVEA_MODEL_STORE). No server is needed; those that serve the
    same store follow within seconds.
    """


@models.command("list")
def list_() -> None:
    """List the models and their versions."""
    settings = load_settings()
    registry = open_registry(settings)
    rows = []
    for model in registry.models():
        production = registry.production(model)
        versions = registry.versions(model)
        accuracy = _accuracy(registry, model, production.version) if production else "-"
        rows.append((model, production.version if production else "-", accuracy, ", ".join(map(str, versions))))
    if not rows:
        click.echo(f"No models in {settings.model_store.absolute()} (FOVEA_MODEL_STORE).", err=True)
        return
    print_table(("MODEL", "PRODUCTION", "ACCURACY", "VERSIONS"), rows)


@models.command()
@click.argument("model")
@click.argument("version", required=False, type=click.IntRange(min=1))
@click.option("--json", "as_json", is_flag=True, help="Print the version's manifest as JSON.")
def show(model: str, version: int | None, as_json: bool) -> None:
    """Show a model, or one of its versions."""
    settings = load_settings()
    registry = open_registry(settings)
    if version is None and not as_json:
        _show_model(registry, model)
        return
    if version is None:
        raise InvalidRequest("--json prints one version's manifest: name the version.")
    manifest = registry.manifest(model, version)
    if as_json:
        click.echo(manifest.model_dump_json(indent=2))
        return
    production = registry.production(model)
    note = ", in production" if production and production.version == version else ""
    click.echo(f"{model} version {version}{note}")
    folder = registry.folder(model, version)
    facts = _facts(manifest) | _engines(settings, folder, manifest) | {"files": str(folder)}
    column = max(map(len, facts))
    for name, fact in facts.items():
        click.echo(f"  {name.ljust(column)}  {fact}")


@models.command()
@click.argument("model")
@click.argument("version", type=click.IntRange(min=1))
@click.option("--reason", default="", help="Why, for the promotion log.")
def promote(model: str, version: int, reason: str) -> None:
    """Make a version the production version.

    Before, VERSION of MODEL goes through the checks that a server makes when it loads it.
    """
    settings = load_settings()
    registry = open_registry(settings)
    check(settings, registry, model, version)
    print_promotion(model, registry.promote(model, version, by=user(), reason=reason))


@models.command()
@click.argument("model")
@click.option("--reason", default="", help="Why, for the promotion log.")
def rollback(model: str, reason: str) -> None:
    """Go back to the version before.

    Makes that version of MODEL production which was so before the present one. Twice goes two back;
    to undo it, promote.
    """
    settings = load_settings()
    registry = open_registry(settings)
    previous, present = registry.previous(model), registry.production(model)
    check(settings, registry, model, previous)
    entry = registry.rollback(model, by=user(), reason=reason, to=previous)
    click.echo(f"Version {entry.version} of {model} is in production again.")
    if present is not None:
        click.echo(f"Undo:     fovea models promote {model} {present.version}")


def check(settings: Settings, registry: Registry, model: str, version: int) -> None:
    """Load a version as a server would, and replay its golden examples.

    Raises:
        ModelNotFound, VersionNotFound: there is no such version.
        VersionRefused: with the reason.
    """
    loaded = open_version(settings, registry, model, version)
    loaded.runtime.close()
    for warning in loaded.warnings:
        click.echo(f"Warning: {warning}", err=True)


def _facts(manifest: Manifest) -> dict[str, str]:
    """What a person wants to know of a version, by name."""
    height, width, _ = manifest.preprocessing.shape
    color = "greyscale" if manifest.preprocessing.color == "grayscale" else "colour"
    facts = {
        "made": f"{manifest.created_at:%Y-%m-%d %H:%M} by {manifest.created_by}",
        "input": f"{width} x {height} pixels, {color}, {manifest.preprocessing.fit}",
        "labels": ", ".join(manifest.labels),
    }
    metrics = manifest.metrics
    facts |= {
        name.replace("_", " "): _figure(name, value)
        for name, value in metrics.items()
        if name not in ("accuracy_low", "accuracy_high")
    }
    if "accuracy" in metrics and "accuracy_low" in metrics and "accuracy_high" in metrics:
        facts["accuracy"] += f" (95 % confidence: {metrics['accuracy_low']:.2%} to {metrics['accuracy_high']:.2%})"
    if manifest.calibration:
        errors = f"{manifest.calibration.ece:.2%}, {manifest.calibration.ece_uncalibrated:.2%} before"
        facts["calibration error"] = f"{errors} (temperature {manifest.calibration.temperature:.3g})"
    if manifest.unknown:
        facts["unknown below"] = f"{manifest.unknown.threshold:.3f} ({manifest.unknown.coverage:.1%} are above)"
    if manifest.data:
        counts = ", ".join(f"{count:,} {split}" for split, count in manifest.data.counts.items())
        facts["data"] = f"{manifest.data.dataset} ({counts})"
    return facts


def _engines(settings: Settings, folder: Path, manifest: Manifest) -> dict[str, str]:
    """The engine that was chosen for a version here, and how fast each was, as it was measured last."""
    from app.serving.likeness import kind_of
    from app.serving.tuning_cache import TuningCache

    choices = TuningCache(settings.cache_folder / "engines").of(kind_of(folder, manifest))
    if not choices:
        return {}
    choice = choices[0]
    rates = ", ".join(f"{name} {rate:,.0f}/s" for name, rate in choice.candidates.items())
    return {
        "engine": f"{choice.engine}, {choice.best_batch} images a call",
        "measured": f"{choice.measured_at:%Y-%m-%d %H:%M} on one of {choice.circumstances['lanes']} lanes: {rates}",
    }


def _figure(name: str, value: float) -> str:
    if name.endswith("accuracy"):
        return f"{value:.2%}"
    return f"{value:,.0f}" if value.is_integer() else f"{value:,.4g}"


def _show_model(registry: Registry, model: str) -> None:
    production = registry.production(model)
    rows = []
    for version in registry.versions(model):
        mark = "production" if production and production.version == version else ""
        rows.append((version, _accuracy(registry, model, version), _made(registry, model, version), mark))
    print_table(("VERSION", "ACCURACY", "MADE", ""), rows)
    # A refusal stands after the promotion that it came after.
    log: list[tuple[tuple[int, int, datetime], str, Promotion | Refusal]] = [
        *(((entry.sequence, 0, entry.at), entry.action, entry) for entry in registry.promotions(model)),
        *(((refusal.after, 1, refusal.at), "refuse", refusal) for refusal in registry.refusals(model)),
    ]
    log.sort(key=lambda line: line[0])
    if log:
        click.echo()
        lines = [(f"{entry.at:%Y-%m-%d %H:%M}", what, entry.version, entry.by, entry.reason) for _, what, entry in log]
        print_table(("WHEN", "WHAT", "VERSION", "WHO", "WHY"), lines)
        for _, _, entry in log:
            if entry.decision is not None:
                click.echo(f"\nHow version {entry.version} compared with version {entry.decision.production}:")
                _print_decision(entry.decision)


def _print_decision(decision: PromotionDecision) -> None:
    """The numbers that a promotion rests on."""
    left_out = f", {decision.left_out:,} left out that production was trained on" if decision.left_out else ""
    facts = {
        "verdict": decision.verdict.replace("_", " "),
        "test images": f"{decision.images:,}{left_out}",
        "accuracy": f"{decision.candidate_accuracy:.2%} against {decision.production_accuracy:.2%}",
        "right": f"{decision.right_both:,} by both, {decision.right_candidate_only:,} by the new one only, "
        f"{decision.right_production_only:,} by the old one only (McNemar: p = {decision.p_value:.2g})",
        "difference": f"{decision.difference:+.2f} points; each of {decision.low:+.2f} and {decision.high:+.2f} with "
        f"{decision.confidence:.0%} confidence; {-decision.margin:+g} is put up with",
        "worst class": f"{decision.worst_class!r}: {decision.worst_class_difference:+.1f} points of "
        f"{decision.worst_class_images:,} images; {-decision.class_bound:+g} is put up with",
    }
    column = max(map(len, facts))
    for name, fact in facts.items():
        click.echo(f"  {name.ljust(column)}  {fact}")


def _accuracy(registry: Registry, model: str, version: int) -> str:
    try:
        accuracy = registry.manifest(model, version).metrics.get("accuracy")
    except FoveaError:
        return "unreadable"
    return "-" if accuracy is None else f"{accuracy:.4f}"


def _made(registry: Registry, model: str, version: int) -> str:
    try:
        manifest = registry.manifest(model, version)
    except FoveaError:
        return "unreadable"
    return f"{manifest.created_at:%Y-%m-%d %H:%M} by {manifest.created_by}"


def print_promotion(model: str, entry: Promotion) -> None:
    """Say what answers from now on."""
    click.echo(f"Version {entry.version} of {model} is in production.")
