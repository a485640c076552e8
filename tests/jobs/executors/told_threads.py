"""In a trial's place: prints how many threads it was told to have."""

from __future__ import annotations

import os

if __name__ == "__main__":
    print(os.environ["FOVEA_TRAINING_THREADS"])
