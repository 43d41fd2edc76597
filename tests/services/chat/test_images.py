"""An image is read to its end, so that a broken one is refused before it is stored."""

import contextlib
import random
import struct
import time
import zlib
from typing import Any

import pytest
from metamorphd.services.chat.images import STEP_BYTES, BrokenImage, size_of

from tests.support.media import gif, jpeg, jpeg_segment, png, png_chunk, riff, webp

SIGNATURE, END = b"\x89PNG\r\n\x1a\n", png_chunk(b"IEND", b"")
LARGEST = 10 * 1024 * 1024 // 4 * 3


def png_of(*chunks: tuple[bytes, bytes], size: tuple[int, int] = (8, 2), depth: int = 8, color: int = 2) -> bytes:
    """Returns a PNG with the given chunks between its header and its end."""
    header = struct.pack(">IIBBBBB", *size, depth, color, 0, 0, 0)
    return SIGNATURE + png_chunk(b"IHDR", header) + b"".join(png_chunk(*chunk) for chunk in chunks) + END


def interlaced(width: int, height: int, *, missing: int = 0) -> bytes:
    """Returns an image of eight bits a pixel in seven passes, without the last `missing` bytes of its pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 1)
    pixels = {(x, y) for x in range(width) for y in range(height)}
    sizes = []
    for x, y, right, down in ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2)):
        of_pass = {pixel for pixel in pixels if pixel[0] % right == x and pixel[1] % down == y}
        sizes += [len(of_pass) + len({row for _, row in of_pass})]
    sizes += [(width + 1) * (height // 2)]
    rows = zlib.compress(bytes(sum(sizes) - missing))
    return SIGNATURE + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", rows) + END


def animated_gif(frames: int) -> bytes:
    """Returns an animation with a comment, delays, and palettes of its frames."""
    start, frame = gif(9, 9)[:19], b"\x2c\0\0\0\0\1\0\1\0\x80" + bytes(6) + b"\2\2\x44\1\0"
    loop = b"\x21\xff\x0bNETSCAPE2.0\3\1\0\0\0"
    return start + loop + b"\x21\xfe\x03a;b\0" + (b"\x21\xf9\4\4\x0a\0\0\0" + frame) * frames + b"\x3b"


def with_preview() -> bytes:
    """Returns a photo as cameras write it: a preview in its metadata, and another image after it."""
    return jpeg()[:2] + jpeg_segment(0xE1, b"Exif\0\0" + jpeg()) + jpeg(9, 9)[2:] + jpeg() + bytes(100)


def progressive() -> bytes:
    """Returns an image whose scans follow each other, with tables between and a restart within."""
    whole = jpeg(9, 9)
    scan = whole.index(b"\xff\xda")
    table = whole[whole.index(b"\xff\xc4") : scan]
    return whole[:-2] + b"\xff\xd0\1\xff\0\2\xff" + table + whole[scan:-2] + b"\xff\xff\xd9"


ROWS = zlib.compress(bytes(50))
VP8 = bytes.fromhex("3001009d012a010001000fc0fe25a400037000fee6b50000")
EXTENDED = b"\x12\0\0\0" + bytes([8, 0, 0, 4, 0, 0])
WHOLE = [
    ("png", png(9, 9), (9, 9)),
    ("png", png_of((b"tEXt", b"a\0IEND"), (b"IDAT", ROWS[:5]), (b"IDAT", b""), (b"IDAT", ROWS[5:])), (8, 2)),
    ("png", png_of((b"IDAT", zlib.compress(bytes(2_000_000))), size=(600, 700)), (600, 700)),
    ("png", png(9, 9).replace(b"IEND", b"tEXt\0\0\0\0\0\0\0\0IEND"), (9, 9)),
    *[("png", interlaced(width, 6), (width, 6)) for width in (1, 2, 4, 5, 8, 17)],
    ("jpeg", with_preview(), (9, 9)),
    ("jpeg", progressive(), (9, 9)),
    ("gif", animated_gif(30), (9, 9)),
    ("gif", gif().replace(b"\2\x44\1\0\x3b", b"\1\x44\1\1\0\x3b"), (1, 1)),
    ("gif", gif().replace(b"GIF89a", b"GIF87a").replace(b"\0\x3b", b"\0\0\0\x3b"), (1, 1)),
    ("gif", gif(5, 5)[:-15] + struct.pack("<HHHHB", 3, 0, 4, 9, 0) + gif()[-6:], (7, 9)),
    ("webp", riff(b"VP8 ", VP8), (1, 1)),
    ("webp", riff(b"VP8 ", VP8.replace(b"\x2a\1\0\1\0", b"\x2a\1\x40\2\x80")), (1, 2)),
    ("webp", riff(b"VP8X", EXTENDED, b"ICCP", b"abc", b"VP8L", webp(9, 5)[20:-1]), (9, 5)),
    ("webp", riff(b"VP8X", EXTENDED, b"ANIM", bytes(6), b"ANMF", bytes(40), b"ANMF", bytes(40)), (9, 5)),
    ("webp", riff(b"VP8L", webp(9, 5)[20:] + b"\0")[:-1], (9, 5)),
]
BROKEN = [
    ("png", png_of((b"IDAT", b"no pixels"))),
    ("png", png_of()),
    ("png", png_of((b"IDAT", zlib.compress(bytes(49))))),
    ("png", png_of((b"IDAT", ROWS[:-9]))),
    ("png", png_of((b"IDAT", ROWS), color=5)),
    ("png", png(9, 9)[:8] + png_chunk(b"tEXt", png(9, 9)[16:29]) + png(9, 9)[33:]),
    ("png", png(9, 9).replace(b"IDAT", b"IDAt")),
    ("png", png(9, 9)[:-1] + b"a"),
    ("png", interlaced(17, 6, missing=1)),
    ("jpeg", jpeg()[:-2]),
    ("jpeg", with_preview()[:-260]),
    ("jpeg", b"\xff\xd8\xff\xd9"),
    ("jpeg", jpeg().replace(b"\xff\xc0", b"\xff\xe2")),
    ("jpeg", jpeg().replace(b"\xff\xda", b"\xff\xe2")),
    ("jpeg", jpeg()[:2] + b"\xff\xe1\xff\xff" + jpeg()[2:]),
    ("gif", gif()[:13] + gif()[19:]),
    ("gif", gif()[:19] + b"\x3b"),
    ("gif", gif()[:19] + b"a" + gif()[19:]),
    ("gif", animated_gif(3)[:-1]),
    ("gif", gif(0, 1)),
    ("gif", gif(1, 0)),
    ("webp", riff(b"ICCP", b"abc")),
    ("webp", riff(b"VP8X", EXTENDED)),
    ("webp", riff(b"VP8 ", VP8.replace(b"\x9d", b"\x9c"))),
    ("webp", webp()[:4] + b"\x20" + webp()[5:]),
    ("webp", webp()[:16] + b"\x10" + webp()[17:]),
    ("webp", riff(b"VP8L", b"\x2e" + webp()[21:])),
    ("webp", riff(b"VP8 ", VP8.replace(b"\x2a\1\0\1", b"\x2a\0\0\1"))),
    ("webp", webp()[:-2]),
    ("webp", webp()[:4] + b"\x04" + webp()[5:]),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "data", "size"), WHOLE)
def test_the_size_of_a_whole_image_is_found(kind: str, data: bytes, size: tuple[int, int]) -> None:
    assert size_of(f"image/{kind}", data) == size
    assert size_of(f"image/{kind}", memoryview(bytearray(data + b"\xff\0\x3b" * 9))) == size


@pytest.mark.parametrize(("kind", "data"), BROKEN)
def test_a_broken_image_has_no_size(kind: str, data: bytes) -> None:
    with pytest.raises(BrokenImage):
        size_of(f"image/{kind}", data)


@pytest.mark.parametrize("make", [png, jpeg, gif, webp])
def test_an_image_that_ends_anywhere_before_its_end_is_broken(make: Any) -> None:
    data = make(40, 30)
    for length in range(4, len(data) - (make is webp)):
        with pytest.raises(BrokenImage):
            size_of(f"image/{make.__name__}", data[:length])


@pytest.mark.parametrize(("kind", "data", "_"), WHOLE)
def test_damage_never_raises_anything_else(kind: str, data: bytes, _: tuple[int, int]) -> None:
    chance = random.Random(1)  # noqa: S311
    for _number in range(300):
        damaged = bytearray(data)
        for _place in range(chance.randrange(1, 5)):
            damaged[chance.randrange(len(data))] = chance.randrange(256)
        with contextlib.suppress(BrokenImage):
            assert min(size_of(f"image/{kind}", bytes(damaged))) > 0


@pytest.mark.parametrize(
    ("kind", "start", "part"),
    [
        ("png", png()[:33], png_chunk(b"IDAT", b"")),
        ("jpeg", jpeg()[:-2], b"\xff\xe0\0\2"),
        ("jpeg", jpeg()[:-2], b"\xff"),
        ("jpeg", jpeg()[:-2], b"\xff\xd0"),
        ("gif", gif()[:-4], b"\1a"),
        ("gif", gif()[:-1], b"\0"),
        ("webp", b"RIFF" + struct.pack("<I", LARGEST - 8) + b"WEBP", b"ABCD\0\0\0\0"),
    ],
)
def test_the_time_to_read_an_image_grows_with_its_size_at_most(kind: str, start: bytes, part: bytes) -> None:
    spent = []
    for size in (LARGEST // 8, LARGEST):
        data, began = (start + part * (size // len(part)))[:size], time.thread_time()
        with pytest.raises(BrokenImage):
            size_of(f"image/{kind}", data)
        spent.append(time.thread_time() - began)
    less, more = spent
    assert more < 24 * less + 0.05


@pytest.mark.parametrize("shift", range(-3, 4))
def test_a_marker_is_found_wherever_a_search_ends(shift: int) -> None:
    assert size_of("image/jpeg", jpeg()[:-2] + bytes(STEP_BYTES + shift) + jpeg()[-2:]) == (1, 1)


def test_only_the_first_pixels_of_an_image_are_decompressed() -> None:
    rows = zlib.compress(bytes(192_008_000))
    pieces = [(b"IDAT", rows[start : start + 8192]) for start in range(0, len(rows), 8192)]
    data = png_of(*pieces, size=(8000, 8000))
    began = time.thread_time()
    assert size_of("image/png", data) == (8000, 8000)
    assert time.thread_time() - began < 0.1
