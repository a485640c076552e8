"""Messages as they travel: taken apart before protobuf parses them.

Two reasons. Protobuf copies the bytes in a message several times over; here tensors and images are views of the message
as it came. And two bytes of a message can stand for an object of a hundred: what parsing may cost is bounded first.
Encoding: https://protobuf.dev/programming-guides/encoding
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from app.errors import InvalidRequest

# All fields of a message and of those within it. A request has some ten, and one for each of its images.
_MOST_FIELDS = 20_000
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
# Bytes that become of each field, and of a byte of packed numbers: eight, in a list that doubles as it grows, and then
# an array.
_FIELD_BYTES, _PACKED_GROWTH = 128, 32


@dataclass(frozen=True)
class Shape:
    """What is known of a message's fields, by number."""

    within: Mapping[int, Shape]
    """Those that are messages, whose fields count too."""
    taken: int = 0
    """Number of the field, of bytes, that is taken out instead of parsed; 0: none is."""
    packed: frozenset[int] = frozenset()
    """Those that are packed numbers of varying length."""


PLAIN = Shape({})


@dataclass(frozen=True, slots=True)
class Parts:
    """A message taken apart."""

    rest: bytes
    """The message without what was taken out, to be parsed."""
    taken: list[memoryview]
    """Views of the message."""
    memory: int
    """Bytes that the message may take in all, once it is parsed."""


def take_apart(message: bytes, shape: Shape) -> Parts:
    """Take the field out that `shape` says, and check the rest.

    Raises:
        InvalidRequest: it is no such message, or one of too many fields.
    """
    view = memoryview(message)
    scan = _Scan(view)
    taken: list[memoryview] = []
    rest: list[memoryview] = []
    at = kept = 0
    while at < len(view):
        number, begin, end = scan.field(at, len(view))
        if number == shape.taken:
            taken.append(view[begin:end])
            rest.append(view[kept:at])
            kept = end
        else:
            scan.value(number, begin, end, shape)
        at = end
    rest.append(view[kept:])
    parsed = b"".join(rest) if taken else message
    return Parts(parsed, taken, len(message) + len(parsed) + scan.growth)


class _Scan:
    def __init__(self, view: memoryview) -> None:
        self._view = view
        self._fields = 0
        self._packed = 0

    @property
    def growth(self) -> int:
        """Bytes that parsing makes of what was gone through, besides a copy of it."""
        return self._fields * _FIELD_BYTES + self._packed * _PACKED_GROWTH

    def value(self, number: int, at: int, end: int, shape: Shape) -> None:
        """Go through a field's value, if it is a message. As deep as its shape, which is no deeper than we made it."""
        if number in shape.packed:
            self._packed += end - at
        within = shape.within.get(number)
        while within is not None and at < end:
            inner, begin, stop = self.field(at, end)
            self.value(inner, begin, stop, within)
            at = stop

    def field(self, at: int, end: int) -> tuple[int, int, int]:
        """The field at a place: its number, and where its value begins and ends."""
        self._fields += 1
        if self._fields > _MOST_FIELDS:
            raise InvalidRequest(f"The message has more than {_MOST_FIELDS} fields: send numbers packed, or raw.")
        tag, begin = self._varint(at, end)
        kind = tag & 7
        if kind == _BYTES:
            length, begin = self._varint(begin, end)
            stop = begin + length
        elif kind == _VARINT:
            _, stop = self._varint(begin, end)
        elif kind in (_FIXED64, _FIXED32):
            stop = begin + (8 if kind == _FIXED64 else 4)
        else:
            raise _broken()
        if stop > end or not tag >> 3:
            raise _broken()
        return (tag >> 3 if kind == _BYTES else -1), begin, stop

    def _varint(self, at: int, end: int) -> tuple[int, int]:
        value = shift = 0
        while at < end and shift < 70:
            byte = self._view[at]
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value, at
            shift += 7
        raise _broken()


def _broken() -> InvalidRequest:
    return InvalidRequest("The message is not what the method takes: it ends too early, or has fields of other kinds.")
