"""Images as the files of a multipart form."""

from __future__ import annotations

from collections.abc import Sequence

IMAGES_IN_A_REQUEST = 32
_BOUNDARY = "bench-b7f3c0a2"


def form_type() -> str:
    """Media type of the forms made here."""
    return f"multipart/form-data; boundary={_BOUNDARY}"


def form(images: Sequence[bytes]) -> bytes:
    """A form with the images as files, all under the name `images`."""
    parts = []
    for number, image in enumerate(images):
        kind = "png" if image.startswith(b"\x89PNG") else "jpeg"
        lines = (
            f"--{_BOUNDARY}",
            f'Content-Disposition: form-data; name="images"; filename="{number:02}.{kind}"',
            f"Content-Type: image/{kind}",
            "\r\n",
        )
        parts.append("\r\n".join(lines).encode() + image + b"\r\n")
    return b"".join(parts) + f"--{_BOUNDARY}--\r\n".encode()


def one_image_form(image: bytes) -> bytes:
    return form([image])
