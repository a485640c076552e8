"""What the trials of a search are made of."""

from __future__ import annotations

from dataclasses import dataclass

from app.jobs.networks import Pretrained
from app.jobs.search import Search, Values, with_values
from app.jobs.spec import TrainingSpec
from app.preprocessing import Preprocessing
from app.training.recipes import Recipe, choose

_LEAST_EPOCHS = 3


@dataclass(frozen=True)
class Plan:
    """What trials are made of: a spec that searches, and what was chosen from the data."""

    spec: TrainingSpec
    search: Search
    images: int
    """In the training split."""
    labels: list[str]
    preprocessing: Preprocessing

    def full(self, values: Values) -> TrainingSpec:
        """The spec of the job with `values` in it, and no search.

        Raises:
            ValueError: these values do not go together.
        """
        spec = self.spec.model_copy(update={"search": None})
        if spec.augmentation is None and any(path.startswith("augmentation.") for path in values):
            # What is not searched over stays as it would have been chosen.
            spec = spec.model_copy(update={"augmentation": self._chosen(spec).augmentation})
        return TrainingSpec.model_validate(with_values(spec.model_dump(mode="json"), values))

    def trial(self, values: Values) -> TrainingSpec:
        """The same for as many epochs as a trial has.

        Raises:
            ValueError: these values do not go together.
        """
        full = self.full(values)
        if "epochs" in values:
            return full
        whole = self.epochs(full)
        epochs = self.search.epochs or max(_LEAST_EPOCHS, -(-whole // 3))
        changed: dict[str, object] = {"epochs": epochs}
        # What is given in epochs keeps its share of them, or a trial had its base frozen to the end.
        if full.step_epochs is not None:
            changed["step_epochs"] = max(1, round(full.step_epochs * epochs / whole))
        network = full.architecture
        if isinstance(network, Pretrained) and network.frozen_epochs:
            frozen = max(1, round(network.frozen_epochs * epochs / whole))
            if network.frozen_epochs < whole:
                frozen = min(frozen, epochs - 1)
            changed["architecture"] = network.model_copy(update={"frozen_epochs": frozen})
        return full.model_copy(update=changed)

    def epochs(self, spec: TrainingSpec) -> int:
        """Epochs that `spec` asks for, or that would be chosen."""
        return self._chosen(spec).epochs

    def _chosen(self, spec: TrainingSpec) -> Recipe:
        # Neither augmentation nor epochs hang on bf16, or on how many images are held out.
        images, labels = self.images, self.labels
        return choose(spec, images=images, total=images, labels=labels, preprocessing=self.preprocessing, bf16=False)
