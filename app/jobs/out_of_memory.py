"""What to say of a job for which the memory did not suffice."""

from __future__ import annotations

from contextlib import suppress

from app.jobs.folder import JobFolder
from app.memory import memory_limit

# What an executor says of a trainer that the kernel may have ended, and what those that ended themselves leave behind.
_SIGNS = ("out of memory", "std::bad_alloc", "cannot allocate memory")


def advice(job: JobFolder) -> str:
    """How much memory there is, and what to make smaller."""
    size = ""
    # Of a job whose spec cannot be read the rest is still worth saying.
    with suppress(OSError, ValueError):
        size = f" (it is {job.spec().batch_size})" if job.spec().batch_size else ""
    return (
        f"{memory_limit() / 1e9:.1f} GB are there, for all that runs beside it too: use a smaller batch_size{size}, "
        "smaller images or fewer filters, or give it more memory."
    )


def suspected(last_words: str) -> bool:
    """Whether how a trainer ended, or the end of its log, tells of memory."""
    return any(sign in last_words.lower() for sign in _SIGNS)
