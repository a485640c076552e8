"""Looks into models for the server, which has no TensorFlow: `python -m app.training.explainer FOLDER`.

`app.serving.explaining` starts it and asks. It listens on a socket in FOLDER, of which it holds the lock: there is one
explainer in a folder, whoever starts more. It ends when nobody is connected any more, or nobody has asked for long.
"""

from __future__ import annotations

import argparse
import fcntl
import gc
import os
import socket
import sys
import threading
import time
from collections import OrderedDict
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING

from app.explanations import LOCK, SOCKET, TAKEN
from app.priority import yield_to_others
from app.trimming import trim_memory

if TYPE_CHECKING:
    from app.explanations import Findings, Question
    from app.store.manifest import Manifest
    from app.training.explained_graph import ExplainedGraph

# Versions that are held open; each takes some times its weights.
_OPEN = 2
# Who is connected to nobody waits so long for the next one.
_ALONE_SECONDS = 1.0
# For the one that started this process to connect.
_FIRST_SECONDS = 30.0
_MOST_BYTES = 64 * 2**20

_Answer = tuple["Findings", bytes]


def main() -> None:
    """Serve until nobody needs it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--idle", type=float, default=600.0)
    arguments = parser.parse_args()
    yield_to_others()
    # A relative name: those of sockets may have a hundred letters only.
    os.chdir(arguments.folder)
    with open(LOCK, "a+b") as lock:  # noqa: PTH123
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            sys.exit(TAKEN)
        # For people: which process it is.
        lock.truncate(0)
        lock.write(str(os.getpid()).encode())
        lock.flush()
        # What one that was killed left behind.
        with suppress(FileNotFoundError):
            os.unlink(SOCKET)  # noqa: PTH108
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(SOCKET)
            listener.listen(64)
            # Whoever is waiting connects now, and is answered once TensorFlow is there.
            os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
            Explainer(arguments.idle).serve(listener)
    # TensorFlow takes seconds to take itself apart, and holds nothing that the system does not free.
    os._exit(0)


class Explainer:
    """Answers the questions of any number of connections, one at a time."""

    def __init__(self, idle: float) -> None:
        """`idle`: seconds without a question after which it ends."""
        self._idle = idle
        self._asked = time.monotonic()
        self._connections = 0
        self._busy = threading.Lock()
        self._counting = threading.Lock()
        self._graphs: OrderedDict[tuple[Path, int], tuple[Manifest, ExplainedGraph]] = OrderedDict()

    def serve(self, listener: socket.socket) -> None:
        """Until nobody is connected, or asks."""
        listener.settimeout(0.5)
        alone_since = time.monotonic() + _FIRST_SECONDS - _ALONE_SECONDS
        while True:
            try:
                accepted, _ = listener.accept()
            except TimeoutError:
                now = time.monotonic()
                if self._connections:
                    alone_since = now
                # Not in the middle of an answer, however long it takes.
                if self._busy.acquire(blocking=False):
                    if now - self._asked > self._idle or now - alone_since > _ALONE_SECONDS:
                        # Before the lock goes: nobody may connect to one that ends.
                        os.unlink(SOCKET)  # noqa: PTH108
                        return
                    self._busy.release()
                continue
            accepted.settimeout(None)
            alone_since = time.monotonic()
            with self._counting:
                self._connections += 1
            threading.Thread(target=self._attend, args=(Connection(accepted.detach()),), daemon=True).start()

    def _attend(self, connection: Connection) -> None:
        try:
            with connection:
                while True:
                    question, image = connection.recv_bytes(_MOST_BYTES), connection.recv_bytes(_MOST_BYTES)
                    with self._busy:
                        self._asked = time.monotonic()
                        said, picture = self._answer(question, image)
                        self._asked = time.monotonic()
                    connection.send_bytes(said)
                    connection.send_bytes(picture)
        # The other side has gone.
        except (EOFError, OSError):
            pass
        finally:
            with self._counting:
                self._connections -= 1

    def _answer(self, question: bytes, image: bytes) -> tuple[bytes, bytes]:
        from app.errors import FoveaError
        from app.explanations import Question, Refusal

        try:
            findings, picture = self.explain(Question.model_validate_json(question), image)
        except FoveaError as error:
            return b"-" + Refusal(code=error.code, message=str(error)).model_dump_json().encode(), b""
        except Exception as error:
            reason = f"The explainer failed with {type(error).__name__}: {str(error).strip()[:300].rstrip('.')}."
            return b"-" + Refusal(code="inference_failed", message=reason).model_dump_json().encode(), b""
        return b"+" + findings.model_dump_json().encode(), picture

    def explain(self, question: Question, image: bytes) -> _Answer:
        """The answer, and a PNG, empty where there is none.

        Raises:
            InvalidRequest, LayerNotFound, NotExplainable, VersionRefused, ModelNotFound, VersionNotFound.
        """
        import numpy as np

        from app.errors import NotExplainable
        from app.explanations import Findings

        manifest, graph = self._opened(question)
        from app.training import interpretation, interpretation_pictures

        try:
            match question.method:
                case "layers":
                    return Findings(layer=graph.last.name, layers=graph.layers), b""
                case "filters":
                    name, filters = interpretation.filters(graph)
                    return Findings(layer=name), interpretation_pictures.filter_grid(name, filters)
                case "activations":
                    pixels = np.frombuffer(image, np.uint8).reshape(manifest.preprocessing.shape)
                    maps = interpretation.activations(graph, pixels, layer=question.layer)
                    return Findings(layer=maps.layer), interpretation_pictures.activation_grid(pixels, maps)
                case "gradcam":
                    pixels = np.frombuffer(image, np.uint8).reshape(manifest.preprocessing.shape)
                    heat = interpretation.gradcam(
                        graph, pixels, manifest.labels, layer=question.layer, label=question.label
                    )
                    findings = Findings(label=heat.label, probability=heat.probability, layer=heat.layer)
                    return findings, interpretation_pictures.overlay(pixels, heat)
        except NotExplainable as error:
            raise NotExplainable(
                f"Version {question.version} of {question.model} cannot be explained in this way: {error}"
            ) from error

    def _opened(self, question: Question) -> tuple[Manifest, ExplainedGraph]:
        """The version's graph, opened if it is not."""
        from app.errors import NotExplainable
        from app.store.manifest import MANIFEST
        from app.store.registry import Registry

        registry = Registry(question.store)
        folder = registry.folder(question.model, question.version)
        # What was removed may have come again as another.
        key = (folder, (folder / MANIFEST).stat().st_mtime_ns)
        if key not in self._graphs:
            # A SavedModel is a program: nothing of it is opened that is not as it was registered.
            manifest = registry.verify(question.model, question.version)
            if "saved_model.pb" not in manifest.files:
                raise NotExplainable(
                    f"Version {question.version} of {question.model} cannot be explained: it has no SavedModel."
                )
            from app.training.explained_graph import ExplainedGraph

            while len(self._graphs) >= _OPEN:
                self._graphs.popitem(last=False)[1][1].close()
            try:
                graph = ExplainedGraph(folder, manifest)
            except NotExplainable as error:
                raise NotExplainable(
                    f"Version {question.version} of {question.model} cannot be explained: {error}"
                ) from error
            self._graphs[key] = (manifest, graph)
            # A graph is full of cycles, and what taking it apart took is several times its weights.
            gc.collect()
            trim_memory()
        self._graphs.move_to_end(key)
        return self._graphs[key]


if __name__ == "__main__":
    main()
