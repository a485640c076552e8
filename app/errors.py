"""What can go wrong, in the domain's own words.

Every class has a stable `code`. Which HTTP status each becomes stands in one table,
`app.api.errors`; nothing below that floor knows of statuses.
"""

from __future__ import annotations

from typing import ClassVar


class FoveaError(Exception):
    """Base of all errors that are meant to be shown to a user: `str(error)` is a full sentence."""

    code: ClassVar[str] = "error"


class InvalidRequest(FoveaError):
    """The request is wrong in a way that the message names, with what is allowed."""

    code = "invalid_request"


class InvalidName(InvalidRequest):
    """A model, dataset or job name outside of the allowed pattern."""

    code = "invalid_name"


class InvalidImage(FoveaError):
    """The bytes are no image, or a damaged one."""

    code = "invalid_image"


class UnsupportedImageFormat(InvalidImage):
    """An image in a format that is not on the allow-list."""

    code = "unsupported_image_format"


class ImageTooLarge(InvalidImage):
    """More pixels than the cap allows; nothing was decoded."""

    code = "image_too_large"


class PayloadTooLarge(FoveaError):
    """A body, or a number of files, over its cap."""

    code = "payload_too_large"


class RequestTimeout(FoveaError):
    """The client was too slow in sending its body."""

    code = "request_timeout"


class NotFound(FoveaError):
    """There is nothing of that name or at that path; the message says what there is."""

    code = "not_found"


class ModelNotFound(NotFound):
    """There is no model of that name; the message says which there are."""

    code = "model_not_found"


class VersionNotFound(NotFound):
    """The model has no such version, or none in production; the message says which it has."""

    code = "version_not_found"


class DatasetNotFound(NotFound):
    """There is no dataset of that name; `GET /api/v1/datasets` lists them."""

    code = "dataset_not_found"


class LayerNotFound(NotFound):
    """The version's network has no layer of that name; the message says which it has."""

    code = "layer_not_found"


class JobNotFound(NotFound):
    """There is no training job with that id; `GET /api/v1/training-jobs` lists them."""

    code = "job_not_found"


class Conflict(FoveaError):
    """The request is fine, but the present state does not allow it."""

    code = "conflict"


class InvalidDataset(FoveaError):
    """An uploaded archive, or a dataset, that cannot be used; the message says why."""

    code = "invalid_dataset"


class InvalidSpec(InvalidRequest):
    """A training spec that does not fit its dataset; the message says why, and what is allowed."""

    code = "invalid_spec"


class VersionRefused(FoveaError):
    """A model version that failed its checks, and is never served: the one asked for, or all in production."""

    code = "version_refused"


class NotExplainable(FoveaError):
    """A version whose network cannot be looked into; the message says why. It answers all the same."""

    code = "not_explainable"


class ExplainUnavailable(FoveaError):
    """This installation cannot look into networks: it has no TensorFlow. The full image has, and `fovea[train]`."""

    code = "explain_unavailable"


class NotReady(FoveaError):
    """Asked for before it could be answered: the service or the model is still loading."""

    code = "not_ready"


class Overloaded(FoveaError):
    """The queue is full; come back in `retry_after` seconds."""

    code = "overloaded"

    def __init__(self, message: str, *, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class DeadlineExceeded(FoveaError):
    """There was no answer within the time that the request had (`Fovea-Timeout-Ms`, or the service's own limit)."""

    code = "deadline_exceeded"


class InferenceFailed(FoveaError):
    """The engine failed, or answered with numbers that are not finite."""

    code = "inference_failed"


class Unauthorized(FoveaError):
    """No key, or one that is not known."""

    code = "unauthorized"


class Forbidden(FoveaError):
    """A known key without the scope that the call needs."""

    code = "forbidden"


class StorageFailed(FoveaError):
    """The disk or bucket refused: full, read-only or away."""

    code = "storage_failed"


class ConfigurationError(FoveaError):
    """Settings that cannot work together; the message says the way out."""

    code = "configuration_error"


class TrainingFailed(FoveaError):
    """A training job that cannot go on; the message is the reason that the job shows."""

    code = "training_failed"
