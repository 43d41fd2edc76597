"""The first bytes of a file of each media type."""

import struct


def png(width: int = 1, height: int = 1) -> bytes:
    """Returns the beginning of an image, up to its size."""
    return b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + struct.pack(">II", width, height) + b"\x08\x02\0\0\0"


def jpeg(width: int = 1, height: int = 1) -> bytes:
    """Returns the beginning of an image, up to its size."""
    size = struct.pack(">HH", height, width)
    return b"\xff\xd8\xff\xe0\0\x10JFIF\0\x01\x01\0\0\x01\0\x01\0\0\xff\xc0\0\x11\x08" + size + b"\x03" + bytes(10)


def gif(width: int = 1, height: int = 1) -> bytes:
    """Returns the beginning of an image, up to its size."""
    return b"GIF89a" + struct.pack("<HH", width, height) + b"\0\0\0"


def webp(width: int = 1, height: int = 1) -> bytes:
    """Returns the beginning of a lossy image, up to its size."""
    frame = b"\x9d\x01\x2a" + struct.pack("<HH", width, height)
    return b"RIFF\x1e\0\0\0WEBPVP8 \x12\0\0\0\x30\x01\0" + frame + bytes(10)


FILES = {
    "image/png": png(),
    "image/jpeg": jpeg(),
    "image/gif": gif(),
    "image/webp": webp(),
    "application/pdf": b"%PDF-1.7\n",
    "text/plain": "Grüße".encode(),
}
