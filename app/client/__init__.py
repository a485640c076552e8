"""A typed client of the service: `Client`, and `AsyncClient` for asyncio.

It takes httpx and pydantic; NumPy and Pillow only for arrays, rich only for progress bars. docs/client.md has examples.
"""

from app.client.answers import Candidate, Explanation, Failure, Prediction, Result
from app.client.asynchronous import AsyncClient
from app.client.documents import (
    Dataset,
    DatasetSummary,
    Job,
    JobResult,
    JobState,
    Model,
    Progress,
    Promotion,
    Rejected,
    Version,
    VersionSummary,
)
from app.client.errors import (
    Busy,
    ClientError,
    Conflict,
    JobFailed,
    NotAllowed,
    NotFound,
    Problem,
    TimedOut,
    Unreachable,
)
from app.client.exchange import Retries
from app.client.synchronous import Client

__all__ = [
    "AsyncClient",
    "Busy",
    "Candidate",
    "Client",
    "ClientError",
    "Conflict",
    "Dataset",
    "DatasetSummary",
    "Explanation",
    "Failure",
    "Job",
    "JobFailed",
    "JobResult",
    "JobState",
    "Model",
    "NotAllowed",
    "NotFound",
    "Prediction",
    "Problem",
    "Progress",
    "Promotion",
    "Rejected",
    "Result",
    "Retries",
    "TimedOut",
    "Unreachable",
    "Version",
    "VersionSummary",
]
