"""From encoded bytes to the array that a model sees: one function for training and for serving.

`to_array` is pinned by golden examples that every model version carries. Any change to what
it returns is a change to the meaning of every model: make it a new field of `Preprocessing`.
"""

from __future__ import annotations

import io
import warnings
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    ImageOps,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
)
from pydantic import BaseModel, ConfigDict, Field, model_validator

from app import png, webp
from app.errors import ImageTooLarge, InvalidImage, UnsupportedImageFormat

# Importing a decoder registers it. With all of these at hand Pillow never goes looking for
# others, which would import some fifty modules inside of the first request.
_DECODERS: Final = (
    JpegImagePlugin.JpegImageFile,
    PngImagePlugin.PngImageFile,
    WebPImagePlugin.WebPImageFile,
    GifImagePlugin.GifImageFile,
    BmpImagePlugin.BmpImageFile,
    TiffImagePlugin.TiffImageFile,
)
FORMATS: Final = tuple(decoder.format for decoder in _DECODERS)
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

# Tags of EXIF and TIFF.
_ORIENTATION = 0x0112
_BITS_PER_SAMPLE = 0x0102
_PHOTOMETRIC = 0x0106
_WHITE_IS_ZERO = 0
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# Pillow decodes BMPs with run-length encoding in Python, and of a few bytes it can make millions of pixels.
_MAX_RLE_PIXELS = 1_000_000

# The marker that starts a scan of a JPEG. Encoders write about ten; the count also sees what
# looks like one in metadata, hence the room.
_SCAN = b"\xff\xda"
_MAX_SCANS = 100

# 65535 / 257 = 255: the exact scaling of 16 bits to 8, as a table from one to the other.
_EIGHT_BITS: Final[UInt8Array] = ((np.arange(65536, dtype=np.uint32) + 128) // 257).astype(np.uint8)

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

    @model_validator(mode="after")
    def _scaling_has_its_channels(self) -> Preprocessing:
        if self.color == "grayscale" and self.scaling in ("imagenet", "caffe"):
            raise ValueError(f"scaling {self.scaling!r} has constants for three channels; color must be 'rgb'")
        return self

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
        image = png.decode(data, max_pixels) or _decode(data, spec, max_pixels)
        return _fit(_to_mode(image, spec), spec)
    except InvalidImage:
        raise
    # Decoders raise whatever comes to hand on hostile bytes; to the caller each is a bad image.
    except Exception as error:
        raise InvalidImage(f"The image is damaged or cut short: {_reason(error)}.") from error


def ignore_decoder_warnings() -> None:
    """Keep Pillow's remarks on odd metadata off the log; for a process's entry point to call.

    They never change a result, but hostile files can make them by the thousand, each with a
    text of its own, which Python would print and remember.
    """
    warnings.filterwarnings("ignore", module=r"PIL\.")


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


def _decode(data: bytes, spec: Preprocessing, max_pixels: int) -> Image.Image:
    """The pixels of any image, upright, in the file's own mode."""
    image = _open(data, max_pixels)
    # Both kinds of JPEG: a phone's file with several pictures in it (MPO) is one too.
    if isinstance(image, JpegImagePlugin.JpegImageFile):
        image.draft(None, _draft_size(image, spec))
    _scale_color_key(image)
    image.load()
    return _upright(image)


def _open(data: bytes, max_pixels: int) -> ImageFile.ImageFile:
    """Read the header, and no more, of an image of an allowed format and size."""
    # Opening this format takes memory for the pixels.
    if (claimed := webp.size(data)) is not None:
        _check_pixels(claimed, max_pixels)
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError as error:
        raise UnsupportedImageFormat(f"Not an image in a supported format. Supported: {', '.join(FORMATS)}.") from error
    # Pillow has a cap of its own, far above ours.
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageTooLarge(f"The image has too many pixels; at most {max_pixels:,} are allowed.") from error
    pixels = _check_pixels(image.size, max_pixels)
    if pixels > _MAX_RLE_PIXELS and any(tile.codec_name == "bmp_rle" for tile in image.tile):
        raise ImageTooLarge(
            f"The image has {pixels:,} pixels; at most {_MAX_RLE_PIXELS:,} are allowed in a BMP with "
            "run-length encoding. Save it as PNG."
        )
    # A scan of ten bytes makes the decoder walk over the whole picture once more.
    if "progressive" in image.info and (scans := data.count(_SCAN)) > _MAX_SCANS:
        raise InvalidImage(f"The progressive JPEG has {scans:,} scans; at most {_MAX_SCANS} are allowed.")
    # Pillow tells of every cut that takes pixels; this tells of a PNG that lacks its end only.
    if image.format == "PNG" and data.rfind(png.END) < 0:
        raise InvalidImage("The image is damaged or cut short: the PNG has no end.")
    return image


def _check_pixels(size: tuple[int, int], max_pixels: int) -> int:
    """The number of pixels of (width, height).

    Raises:
        ImageTooLarge: over `max_pixels`.
    """
    width, height = size
    if width * height > max_pixels:
        raise ImageTooLarge(
            f"The image has {width} x {height} = {width * height:,} pixels; at most {max_pixels:,} are allowed."
        )
    return width * height


def _draft_size(image: Image.Image, spec: Preprocessing) -> tuple[int, int]:
    """Size to ask of the decoder, in the stored (not yet upright) orientation."""
    width, height = spec.width, spec.height
    if _orientation(image) >= 5:  # 5 to 8 swap the axes
        width, height = height, width
    # One scale serves both axes; the decoder keeps both at or above what is asked.
    return (width * _DRAFT_MARGIN, height * _DRAFT_MARGIN)


def _orientation(image: Image.Image) -> int:
    """EXIF orientation, 1 to 8; 1 (upright) where there is none or it cannot be read."""
    try:
        orientation = image.getexif().get(_ORIENTATION, 1)
        return orientation if orientation in _UPRIGHT else 1
    # Metadata that cannot be parsed says nothing about the pixels.
    except Exception:
        return 1


def _scale_color_key(image: Image.Image) -> None:
    """Bring a PNG's transparent colour, which is in the file's bit depth, to that of the pixels to come."""
    key = image.info.get("transparency")
    if key is None or not isinstance(image, PngImagePlugin.PngImageFile) or not image.tile:
        return
    match image.tile[0].args:
        case "L;2":
            image.info["transparency"] = (key & 0x3) * 85
        case "L;4":
            image.info["transparency"] = (key & 0xF) * 17
        case "RGB;16B":
            image.info["transparency"] = tuple(value >> 8 for value in key)


def _upright(image: Image.Image) -> Image.Image:
    method = _UPRIGHT.get(_orientation(image))
    return image if method is None else image.transpose(method)


def _to_mode(image: Image.Image, spec: Preprocessing) -> Image.Image:
    """Bring any mode to 8-bit RGB or L, transparency over white."""
    if image.mode == "LAB":
        raise UnsupportedImageFormat("Images in CIE L*a*b* colour are not supported. Save it as RGB.")
    if image.mode.startswith(("I", "F")):
        image = _to_8_bit(image)
    if image.has_transparency_data:
        # Premultiplied grey knows but one way out.
        rgba = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, rgba)
    mode = "RGB" if spec.color == "rgb" else "L"
    if image.mode == mode:
        return image
    # Modes like CMYK, P and YCbCr reach luma by way of RGB only.
    return image.convert("RGB") if mode == "RGB" else image.convert("RGB").convert("L")


def _to_8_bit(image: Image.Image) -> Image.Image:
    """Scale grey of more than 8 bits to 8; Pillow's own conversion clips at 255."""
    values = np.asarray(image)
    # Pillow passes over two things in the TIFFs that it opens in these modes.
    tags = image.tag_v2 if isinstance(image, TiffImagePlugin.TiffImageFile) else {}
    inverted = tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO
    if values.dtype.kind == "f":
        if not np.isfinite(values).all():
            raise InvalidImage("The image has pixel values that are not finite.")
        # Floating-point TIFFs hold [0, 1] by convention.
        values = np.clip(values, 0, 1)
        return Image.fromarray(np.rint((1 - values if inverted else values) * 255).astype(np.uint8))
    if values.dtype.itemsize > 2:
        values = np.clip(values, 0, 65535)
    elif tags.get(_BITS_PER_SAMPLE) == (12,):
        values = values << 4 | values >> 8
    grey = _EIGHT_BITS[65535 - values if inverted else values]
    if (key := image.info.get("transparency")) is not None:
        grey[values == key] = 255
    return Image.fromarray(grey)


def _fit(image: Image.Image, spec: Preprocessing) -> UInt8Array:
    size = (spec.width, spec.height)
    if image.size != size:
        image = _resize(image, size, spec)
    # As NumPy would get it of the image by itself, in two thirds of the time.
    return np.frombuffer(image.tobytes(), np.uint8).reshape(spec.shape)


def _resize(image: Image.Image, size: tuple[int, int], spec: Preprocessing) -> Image.Image:
    resample = _RESAMPLING[spec.resample]
    if spec.fit == "crop":
        return ImageOps.fit(image, size, method=resample)
    if spec.fit == "pad":
        return _pad(image, size, resample)
    return image.resize(size, resample)


def _pad(image: Image.Image, size: tuple[int, int], resample: Image.Resampling) -> Image.Image:
    """Make the image as large as fits into `size`, and lay it centred on black.

    As `ImageOps.pad`, which makes nothing at all of an image that is thinner than a row of the result.
    """
    width, height = size
    if image.width / image.height > width / height:
        inner = (width, max(1, round(image.height / image.width * width)))
    else:
        inner = (max(1, round(image.width / image.height * height)), height)
    canvas = Image.new(image.mode, size)
    canvas.paste(image.resize(inner, resample), (round((width - inner[0]) * 0.5), round((height - inner[1]) * 0.5)))
    return canvas


def _reason(error: BaseException) -> str:
    return (str(error) or type(error).__name__).rstrip(".")[:200]
