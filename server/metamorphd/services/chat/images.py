"""Reads an image from its first byte to its last, without its pixels: whether it is whole, and its size.

Bytes after the end of an image are ignored, as viewers do: cameras and editors append previews and padding.
"""

import re
import struct
import zlib
from collections.abc import Callable, Iterator

# The parts of a file: chunks, segments, blocks. Encoders fill them, so that the largest image has some 30,000; a file
# of empty ones would take a second to read.
MOST_PARTS = 50_000
# In bytes; a search keeps the GIL, and of the largest image takes a tenth of a second.
STEP_BYTES = 256 * 1024
# The pixels of a PNG are decompressed up to here, in bytes; all of a large one would take a second.
PIXEL_BYTES = 1024 * 1024

Data = bytes | memoryview
Size = tuple[int, int]

# A JPEG marker with a segment, or the end: neither padding, nor an escaped byte, nor a restart. ITU-T T.81, table B.1.
MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd7\xff]")
END_OF_IMAGE, START_OF_SCAN = 0xD9, 0xDA
START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}

# GIF89a, appendix A.
GIF_FRAME, GIF_EXTENSION, GIF_TRAILER = 0x2C, 0x21, 0x3B

# WebP Lossless Bitstream (RFC 9649, section 3.4), and the VP8 Data Format (RFC 6386, section 9.1).
LOSSLESS_START, LOSSY_START = 0x2F, b"\x9d\x01\x2a"

# PNG (third edition), tables 11.1 and 8.1.
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
WHOLE = ((0, 0, 1, 1),)
ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


class BrokenImage(Exception):
    """The bytes are not a whole image."""


def size_of(media_type: str, data: Data) -> Size:
    """Returns the width and height of an image, in pixels, at least 1. Raises BrokenImage if it is not whole."""
    try:
        width, height = READERS[media_type](memoryview(data))
    except (struct.error, IndexError, KeyError, zlib.error) as error:
        raise BrokenImage from error
    if width < 1 or height < 1:
        raise BrokenImage
    return width, height


def _png(data: memoryview) -> Size:
    """Follows the chunks to IEND. Decoders refuse a wrong checksum of a critical chunk, and ignore the others."""
    chunks = _chunks(data)
    name, header = next(chunks)
    if name != b"IHDR":
        raise BrokenImage
    width, height, depth, color, _, _, interlaced = struct.unpack(">IIBBBBB", header)
    expected = _raw_bytes(width, height, depth * CHANNELS[color], ADAM7 if interlaced else WHOLE)
    inflate, inflated = zlib.decompressobj(), 0
    for name, content in chunks:
        if name == b"IDAT" and inflated < min(expected, PIXEL_BYTES):
            inflated += len(inflate.decompress(content, PIXEL_BYTES))
    if inflated < min(expected, PIXEL_BYTES):
        raise BrokenImage
    return width, height


def _chunks(data: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    at = 8
    for _ in range(MOST_PARTS):
        length, name = struct.unpack_from(">I4s", data, at)
        (checksum,) = struct.unpack_from(">I", data, at + 8 + length)
        if name[:1].isupper() and zlib.crc32(data[at + 4 : at + 8 + length]) != checksum:
            raise BrokenImage
        if name == b"IEND":
            return
        yield name, data[at + 8 : at + 8 + length]
        at += 12 + length
    raise BrokenImage


def _raw_bytes(width: int, height: int, bits: int, passes: tuple[tuple[int, int, int, int], ...]) -> int:
    """Returns the size of the decompressed pixels: in each pass, rows that begin with the byte of their filter."""
    total = 0
    for left, top, right, down in passes:
        columns, rows = -((left - width) // right), -((top - height) // down)
        total += rows * (1 + (columns * bits + 7) // 8) if columns > 0 and rows > 0 else 0
    return total


def _jpeg(data: memoryview) -> Size:
    """Follows the segments to the end of the image. Previews within a segment have ends of their own."""
    at, size, scans = 2, None, 0
    for _ in range(MOST_PARTS):
        at = _after_marker(data, at)
        marker = data[at - 1]
        if marker == END_OF_IMAGE:
            if size is None or not scans:
                break
            return size
        (length,) = struct.unpack_from(">H", data, at)
        if marker in START_OF_FRAME:
            height, width = struct.unpack_from(">HH", data, at + 3)
            size = width, height
        scans += marker == START_OF_SCAN
        at += length
    raise BrokenImage


def _after_marker(data: memoryview, at: int) -> int:
    for start in range(at, len(data), STEP_BYTES):
        # A marker may begin in one step and end in the next.
        if (found := MARKER.search(data, start, start + STEP_BYTES + 1)) is not None:
            return found.end()
    raise BrokenImage


def _gif(data: memoryview) -> Size:
    """Follows the blocks to the trailer. A frame may exceed the size in the header; viewers then extend it."""
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    if not (width and height):
        raise BrokenImage
    at, frames, in_block = 13 + _colors(flags), 0, False
    for _ in range(MOST_PARTS):
        kind, at = data[at], at + 1
        if in_block:
            in_block, at = kind > 0, at + kind
        elif kind == GIF_FRAME:
            left, top, columns, rows, flags = struct.unpack_from("<HHHHB", data, at)
            width, height = max(width, left + columns), max(height, top + rows)
            frames, in_block, at = frames + 1, True, at + 10 + _colors(flags)
        elif kind == GIF_EXTENSION:
            in_block, at = True, at + 1
        elif kind == GIF_TRAILER and frames:
            return width, height
        elif kind:
            raise BrokenImage
    raise BrokenImage


def _colors(flags: int) -> int:
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _webp(data: memoryview) -> Size:
    """Follows the chunks to the length in the header. RFC 9649. The padding of the last chunk may be missing."""
    (length,) = struct.unpack_from("<I", data, 4)
    if len(data) + 1 < 8 + length:
        raise BrokenImage
    at, end, size, pictures = 12, min(8 + length, len(data)), None, 0
    for _ in range(MOST_PARTS):
        if at + 8 > end:
            break
        name, length = struct.unpack_from("<4sI", data, at)
        content = data[at + 8 : at + 8 + length]
        if len(content) < length:
            raise BrokenImage
        if size is None and name in (b"VP8X", b"VP8 ", b"VP8L"):
            size = _webp_size(name, content)
        pictures += name in (b"VP8 ", b"VP8L", b"ANMF")
        at += 8 + length + (length & 1)
    else:
        raise BrokenImage
    if size is None or not pictures:
        raise BrokenImage
    return size


def _webp_size(name: bytes, content: memoryview) -> Size:
    if name == b"VP8X":
        return 1 + int.from_bytes(content[4:7], "little"), 1 + int.from_bytes(content[7:10], "little")
    if name == b"VP8 ":
        # The highest two bits are a scale.
        start, width, height = struct.unpack_from("<3sHH", content, 3)
        if start != LOSSY_START:
            raise BrokenImage
        return width & 0x3FFF, height & 0x3FFF
    start, bits = struct.unpack_from("<BI", content)
    if start != LOSSLESS_START:
        raise BrokenImage
    return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)


READERS: dict[str, Callable[[memoryview], Size]] = {
    "image/png": _png,
    "image/jpeg": _jpeg,
    "image/gif": _gif,
    "image/webp": _webp,
}
