"""How errors leave by gRPC: one table from error class to status code, beside that of `app.api.errors`."""

from __future__ import annotations

from collections.abc import Mapping

from grpc import StatusCode

from app import errors
from app.api.errors import CrossSiteRequest, MisdirectedRequest, NotAcceptable, UnsupportedMediaType

# A class that is missing here has the entry of its nearest ancestor.
CODES: Mapping[type[errors.FoveaError], StatusCode] = {
    errors.FoveaError: StatusCode.INTERNAL,
    errors.InvalidRequest: StatusCode.INVALID_ARGUMENT,
    errors.InvalidName: StatusCode.INVALID_ARGUMENT,
    errors.InvalidImage: StatusCode.INVALID_ARGUMENT,
    errors.UnsupportedImageFormat: StatusCode.INVALID_ARGUMENT,
    errors.ImageTooLarge: StatusCode.INVALID_ARGUMENT,
    # Not RESOURCE_EXHAUSTED: trying again does not help.
    errors.PayloadTooLarge: StatusCode.INVALID_ARGUMENT,
    errors.RequestTimeout: StatusCode.DEADLINE_EXCEEDED,
    errors.NotFound: StatusCode.NOT_FOUND,
    errors.ModelNotFound: StatusCode.NOT_FOUND,
    errors.VersionNotFound: StatusCode.NOT_FOUND,
    errors.DatasetNotFound: StatusCode.NOT_FOUND,
    errors.LayerNotFound: StatusCode.NOT_FOUND,
    errors.JobNotFound: StatusCode.NOT_FOUND,
    errors.Conflict: StatusCode.FAILED_PRECONDITION,
    errors.InvalidDataset: StatusCode.INVALID_ARGUMENT,
    errors.InvalidSpec: StatusCode.INVALID_ARGUMENT,
    errors.VersionRefused: StatusCode.FAILED_PRECONDITION,
    errors.NotExplainable: StatusCode.FAILED_PRECONDITION,
    errors.ExplainUnavailable: StatusCode.UNIMPLEMENTED,
    errors.NotReady: StatusCode.UNAVAILABLE,
    errors.Overloaded: StatusCode.RESOURCE_EXHAUSTED,
    errors.DeadlineExceeded: StatusCode.DEADLINE_EXCEEDED,
    errors.InferenceFailed: StatusCode.INTERNAL,
    errors.Unauthorized: StatusCode.UNAUTHENTICATED,
    errors.Forbidden: StatusCode.PERMISSION_DENIED,
    errors.StorageFailed: StatusCode.INTERNAL,
    errors.ConfigurationError: StatusCode.INTERNAL,
    errors.TrainingFailed: StatusCode.INTERNAL,
    UnsupportedMediaType: StatusCode.INVALID_ARGUMENT,
    NotAcceptable: StatusCode.INVALID_ARGUMENT,
    MisdirectedRequest: StatusCode.INVALID_ARGUMENT,
    CrossSiteRequest: StatusCode.PERMISSION_DENIED,
}


def code_of(error: type[errors.FoveaError]) -> StatusCode:
    """Status code for a class of errors: its own, or its nearest ancestor's."""
    for ancestor in error.__mro__:
        if ancestor in CODES:
            return CODES[ancestor]
    raise AssertionError("FoveaError itself is in the table")
