"""The first bytes of a file of each media type."""

FILES = {
    "image/png": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
    "image/jpeg": b"\xff\xd8\xff\xe0\0\x10JFIF",
    "image/gif": b"GIF89a\x01\0\x01\0",
    "image/webp": b"RIFF\n\x1a\0\0WEBPVP8 ",
    "application/pdf": b"%PDF-1.7\n",
    "text/plain": "Grüße".encode(),
}
