"""The smallest whole file of each media type. Images are of one colour and any size."""

import struct
import zlib


def png(width: int = 1, height: int = 1) -> bytes:
    """Returns an image in black and white."""
    rows = zlib.compress((b"\0" + bytes((width + 7) // 8)) * height, 9)
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    chunks = (png_chunk(b"IHDR", header), png_chunk(b"IDAT", rows), png_chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def png_chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def jpeg(width: int = 1, height: int = 1) -> bytes:
    """Returns an image in grey: each block of 8 x 8 pixels is two bits, no difference and no detail."""
    blocks = -(-width // 8) * -(-height // 8)
    scan = bytes(blocks // 4) + (bytes([0xFF >> blocks % 4 * 2]) if blocks % 4 else b"")
    one_code = b"\1" + bytes(15) + b"\0"
    segments = (
        (0xE0, b"JFIF\0\1\1\0\0\1\0\1\0\0"),
        (0xDB, b"\0" + b"\1" * 64),
        (0xC0, b"\x08" + struct.pack(">HH", height, width) + b"\1\1\x11\0"),
        (0xC4, b"\0" + one_code + b"\x10" + one_code),
        (0xDA, b"\1\1\0\0\x3f\0"),
    )
    return b"\xff\xd8" + b"".join(jpeg_segment(*segment) for segment in segments) + scan + b"\xff\xd9"


def jpeg_segment(marker: int, content: bytes) -> bytes:
    return b"\xff" + bytes([marker]) + struct.pack(">H", 2 + len(content)) + content


def gif(width: int = 1, height: int = 1) -> bytes:
    """Returns a transparent image with one black pixel."""
    screen = struct.pack("<HHBBB", width, height, 0x80, 0, 0) + bytes(6)
    return b"GIF89a" + screen + b"\x2c" + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\2\2\x44\1\0\x3b"


def webp(width: int = 1, height: int = 1) -> bytes:
    """Returns a lossless image in transparent black: codes of one symbol, which take no bits."""
    size = struct.pack("<I", (width - 1) | (height - 1) << 14 | 1 << 28)
    return riff(b"VP8L", b"\x2f" + size + b"\x88\x88\x08")


def riff(*chunks: bytes) -> bytes:
    """Returns a WebP file of names and contents."""
    body = b"WEBP"
    for name, content in zip(chunks[::2], chunks[1::2], strict=True):
        body += name + struct.pack("<I", len(content)) + content + bytes(len(content) % 2)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def pdf(*, trailer: bytes = b"", pages: int = 1) -> bytes:
    """Returns a document of empty pages. `trailer` has further entries of its trailer."""
    kids = b" ".join(b"%d 0 R" % number for number in range(3, 3 + pages))
    objects = (
        b"<</Type/Catalog/Pages 2 0 R>>",
        b"<</Type/Pages/Kids[%b]/Count %d>>" % (kids, pages),
        *[b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 9 9]>>"] * pages,
    )
    file, table = b"%PDF-1.7\n", b"xref\n0 %d\n0000000000 65535 f \n" % (3 + pages)
    for number, content in enumerate(objects, start=1):
        table += b"%010d 00000 n \n" % len(file)
        file += b"%d 0 obj%bendobj\n" % (number, content)
    end = b"trailer<</Size %d/Root 1 0 R%b>>\nstartxref\n%d\n%%%%EOF\n" % (3 + pages, trailer, len(file))
    return file + table + end


FILES = {
    "image/png": png(),
    "image/jpeg": jpeg(),
    "image/gif": gif(),
    "image/webp": webp(),
    "application/pdf": pdf(),
    "text/plain": "Grüße".encode(),
}
