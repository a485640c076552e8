"""`python -m benchmarks.environments [PEER…]`: install the peers, each with its locked requirements on its own.

They cannot share one with the product, nor with each other: they pin different versions of the same packages.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.places import ENVIRONMENTS, REPOSITORY

PEERS = ("bentoml", "litserve", "mlserver", "mosec")


def install(peer: str) -> None:
    """Make a peer's environment what its lock file says, unless it is.

    Raises:
        RuntimeError: with the end of what pip said.
    """
    lock = REPOSITORY / "requirements" / f"bench-{peer}.txt"
    folder = ENVIRONMENTS / peer
    stamp = folder / "installed"
    digest = hashlib.sha256(lock.read_bytes()).hexdigest()
    if stamp.is_file() and stamp.read_text() == digest:
        return
    shutil.rmtree(folder, ignore_errors=True)
    _run([sys.executable, "-m", "venv", str(folder)])
    python = str(folder / "bin" / "python")
    _run(
        [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--require-hashes", "-r", str(lock)]
    )
    stamp.write_text(digest)


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{Path(command[0]).name} {' '.join(command[1:4])} failed: {done.stdout[-1000:].strip()}")


if __name__ == "__main__":
    for name in sys.argv[1:] or PEERS:
        print(f"{name} …", flush=True)
        install(name)
