"""Headers for files that were made of training data, which may come from strangers."""

from __future__ import annotations

from typing import Final

SANDBOX: Final = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; img-src data:; sandbox",
    "X-Frame-Options": "SAMEORIGIN",
    "Cache-Control": "private, max-age=3600",
}
"""Pictures and pages are shown, but nothing in them runs or reaches out."""
