"""What the service measures about itself, in Prometheus' terms. `docs/metrics.md` has the same list.

Label sets are closed: routes are templates, models and labels come from the store, and reasons
and stages from the tuples in `instruments`; nothing that a client sends becomes a label.

With several worker processes, set `PROMETHEUS_MULTIPROC_DIR` to an empty folder that they share
before any of them starts. Each then answers for all.
"""

from app.metrics.instruments import Description, Rejection, Stage
from app.metrics.page import Work
from app.metrics.recorder import Metrics

__all__ = ["Description", "Metrics", "Rejection", "Stage", "Work"]
