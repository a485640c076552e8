"""From encoded bytes to the array that a model sees: one function for training and for serving.

`to_array` is pinned by golden examples that every model version carries. Any change to what
it returns is a change to the meaning of every model: make it a new field of `Preprocessing`.
"""

from __future__ import annotations

import io
import warnings
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError
from pydantic import BaseModel, ConfigDict, Field

from app.errors import ImageTooLarge, InvalidImage, UnsupportedImageFormat

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
MAX_PIXELS = 25_000_000

UInt8Array = npt.NDArray[np.uint8]
Float32Array = npt.NDArray[np.float32]

_RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "box": Image.Resampling.BOX,
}

# JPEG decoders can scale by 1/2, 1/4 and 1/8 while they decode. Asking for at least twice
# the target leaves the resize filter enough to work with.
_DRAFT_MARGIN = 2

# Channel statistics of ImageNet in [0, 1], RGB, as torchvision publishes them; and the BGR
# means in [0, 255] of the original Caffe models, as keras.applications uses them.
_IMAGENET_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
_IMAGENET_STD = np.array([0.229, 0.224, 0.225], np.float32)
_CAFFE_MEAN_BGR = np.array([103.939, 116.779, 123.68], np.float32)


class Preprocessing(BaseModel):
    """How an encoded image becomes a model's input; part of every version's manifest."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    height: int = Field(ge=1, le=4096, description="Rows of the model's input, in pixels.")
    width: int = Field(ge=1, le=4096, description="Columns of the model's input, in pixels.")
    color: Literal["rgb", "grayscale"] = Field("rgb", description="Three channels, or one of luma (ITU-R 601).")
    resample: Literal["nearest", "bilinear", "bicubic", "lanczos", "box"] = Field(
        "bilinear", description="Resize filter; all but `nearest` antialias when they shrink."
    )
    fit: Literal["stretch", "crop", "pad"] = Field(
        "stretch",
        description="What happens to another aspect ratio: ignored, the centre cut out, or filled with black.",
    )
    scaling: Literal["in_model", "0..1", "-1..1", "imagenet", "caffe"] = Field(
        "in_model",
        description="Scaling of uint8 to the model's input. `in_model`: the model takes uint8 and scales by itself.",
    )

    @property
    def channels(self) -> int:
        return 3 if self.color == "rgb" else 1

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of one image: (height, width, channels)."""
        return (self.height, self.width, self.channels)


def to_array(data: bytes, spec: Preprocessing, *, max_pixels: int = MAX_PIXELS) -> UInt8Array:
    """Decode one image and bring it to the model's size and colour.

    The canonical image: the first frame, upright (EXIF orientation), 8 bits a channel
    (16-bit images are scaled, not clipped), transparency laid over white, RGB or luma.
    JPEGs much larger than the target are decoded at a reduced DCT scale.

    Args:
        data: the encoded file, in one of `FORMATS`.
        spec: what the model expects.
        max_pixels: refuse, before decoding, images with more pixels than this.

    Returns:
        uint8 array [height, width, channels], C-contiguous.

    Raises:
        UnsupportedImageFormat: not one of `FORMATS`.
        ImageTooLarge: over `max_pixels`.
        InvalidImage: empty, damaged or truncated.
    """
    if not data:
        raise InvalidImage("The image is empty (0 bytes).")
    try:
        with warnings.catch_warnings():
            # Pillow only warns of bombs, of odd metadata and of cut TIFFs; here each is an error.
            warnings.simplefilter("error")
            image = _open(data, max_pixels)
            if image.format == "JPEG":
                image.draft(None, _draft_size(image, spec))
            image.load()
            return _fit(_to_mode(_upright(image), spec), spec)
    except (UnidentifiedImageError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InvalidImage(f"Not a readable image: {_reason(error)}.") from error
    except InvalidImage:
        raise
    # Decoders raise whatever comes to hand on hostile bytes; to the caller each is a bad image.
    except (OSError, SyntaxError, ValueError, TypeError, KeyError, IndexError, OverflowError, EOFError) as error:
        raise InvalidImage(f"The image is damaged or cut short: {_reason(error)}.") from error
    except (MemoryError, RuntimeError, AttributeError, ArithmeticError, Warning, LookupError) as error:
        raise InvalidImage(f"The image cannot be decoded: {_reason(error)}.") from error


def scale(batch: UInt8Array, spec: Preprocessing) -> UInt8Array | Float32Array:
    """Scale uint8 [n, height, width, channels] to what an imported model takes.

    Returns the batch itself for `in_model`, else float32 of the same shape
    (`caffe` also turns RGB into BGR).
    """
    if spec.scaling == "in_model":
        return batch
    values = batch.astype(np.float32)
    match spec.scaling:
        case "0..1":
            return values / np.float32(255)
        case "-1..1":
            return values / np.float32(127.5) - np.float32(1)
        case "imagenet":
            return (values / np.float32(255) - _IMAGENET_MEAN) / _IMAGENET_STD
        case "caffe":
            return np.ascontiguousarray(values[..., ::-1] - _CAFFE_MEAN_BGR)


def _open(data: bytes, max_pixels: int) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError as error:
        raise UnsupportedImageFormat(f"Not an image in a supported format. Supported: {', '.join(FORMATS)}.") from error
    width, height = image.size
    if width * height > max_pixels:
        raise ImageTooLarge(
            f"The image has {width} x {height} = {width * height:,} pixels; at most {max_pixels:,} are allowed."
        )
    return image


def _draft_size(image: Image.Image, spec: Preprocessing) -> tuple[int, int]:
    """Size to ask of the decoder, in the stored (not yet upright) orientation."""
    width, height = spec.width, spec.height
    if image.getexif().get(0x0112, 1) >= 5:  # orientations 5 to 8 swap the axes
        width, height = height, width
    # One scale serves both axes; the decoder keeps both at or above what is asked.
    return (width * _DRAFT_MARGIN, height * _DRAFT_MARGIN)


def _upright(image: Image.Image) -> Image.Image:
    return ImageOps.exif_transpose(image)


def _to_mode(image: Image.Image, spec: Preprocessing) -> Image.Image:
    """Bring any mode to 8-bit RGB or L, transparency over white."""
    if image.mode.startswith(("I", "F")):
        image = _to_8_bit(image)
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, rgba)
    mode = "RGB" if spec.color == "rgb" else "L"
    if image.mode == mode:
        return image
    # Modes like CMYK, P and YCbCr reach luma by way of RGB only.
    return image.convert("RGB") if mode == "RGB" else image.convert("RGB").convert("L")


def _to_8_bit(image: Image.Image) -> Image.Image:
    """Scale 16-bit (or wider) grey to 8 bits; Pillow's own conversion clips at 255."""
    values = np.asarray(image)
    if values.dtype.kind == "f":
        if not np.isfinite(values).all():
            raise InvalidImage("The image has pixel values that are not finite.")
        # Floating-point TIFFs hold [0, 1] by convention.
        return Image.fromarray(np.rint(np.clip(values, 0, 1) * 255).astype(np.uint8))
    # 65535 / 257 = 255: the exact scaling of 16 bits to 8.
    return Image.fromarray(np.rint(np.clip(values, 0, 65535) / 257).astype(np.uint8))


def _fit(image: Image.Image, spec: Preprocessing) -> UInt8Array:
    size = (spec.width, spec.height)
    resample = _RESAMPLING[spec.resample]
    if spec.fit == "crop":
        image = ImageOps.fit(image, size, method=resample)
    elif spec.fit == "pad":
        image = ImageOps.pad(image, size, method=resample, color=0)
    elif image.size != size:
        image = image.resize(size, resample)
    return np.asarray(image, dtype=np.uint8).reshape(spec.shape)


def _reason(error: BaseException) -> str:
    return (str(error) or type(error).__name__).rstrip(".")[:200]
