"""Damaged images and masks of every format, drawn by seed: read, or refused in one line that names the file."""

from __future__ import annotations

import io
import random
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from padim_bench import PadimBenchError, Protocol
from padim_bench.data.decoding import MAX_PIXELS_VARIABLE
from padim_bench.data.masks import read_mask
from padim_bench.data.notes import Notes
from padim_bench.data.transforms import read_image

EACH = 60  # files drawn of a format
PROTOCOL = Protocol.of("small", resize=16, crop=None)
PIXELS = np.random.default_rng(0).integers(0, 256, (24, 20, 3), dtype=np.uint8)
MASK = np.where(PIXELS[:, :, 0] > 128, 255, 0).astype(np.uint8)
EXTREMES = (bytes(4), b"\xff" * 4, b"\x7f\xff\xff\xff", b"\x80\0\0\0", b"\0\0\0\1", b"\xff\xff", b"\0\0", b"\0\x40")


def encoded(kind: str, pixels: np.ndarray | Image.Image, **options: object) -> bytes:
    out = io.BytesIO()
    (pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)).save(out, kind, **options)
    return out.getvalue()


def sound_files() -> dict[str, list[bytes]]:
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "maker"
    colour = Image.fromarray(PIXELS)
    wide, real = PIXELS[:, :, 0].astype(np.uint16) * np.uint16(200), PIXELS[:, :, 0].astype(np.float32)
    more = {"save_all": True, "append_images": [colour, colour]}
    compressions = ("raw", "tiff_deflate", "tiff_lzw", "packbits", "jpeg")
    return {
        "PNG": [
            encoded("PNG", PIXELS, exif=exif),
            *(encoded("PNG", p) for p in (MASK, wide, MASK > 0, colour.convert("P"), colour.convert("RGBA"))),
            encoded("PNG", colour, **more),
        ],
        "JPEG": [
            encoded("JPEG", PIXELS, exif=exif),
            encoded("JPEG", MASK),
            encoded("JPEG", PIXELS, progressive=True),
            encoded("JPEG", colour.convert("CMYK")),
        ],
        "TIFF": [
            *(encoded("TIFF", PIXELS, compression=c, exif=exif) for c in compressions),
            *(encoded("TIFF", p) for p in (wide, real, wide.astype(np.int32), colour.convert("P"))),
            encoded("TIFF", MASK > 0, compression="group4"),
            encoded("TIFF", colour, **more),
        ],
        "BMP": [encoded("BMP", p) for p in (PIXELS, MASK, MASK > 0, colour.convert("P"))],
        "GIF": [encoded("GIF", colour), encoded("GIF", MASK), encoded("GIF", colour, **more)],
        "WEBP": [encoded("WEBP", PIXELS, exif=exif), encoded("WEBP", colour.convert("RGBA"), lossless=True)],
        "PPM": [
            *(encoded("PPM", p) for p in (PIXELS, MASK, MASK > 0, real)),
            b"P2\n# drawn by hand\n4 4\n255\n" + b" ".join(b"%d" % i for i in range(16)),
            b"P1\n4 4\n" + b"1 0 " * 8,
        ],
        "JPEG2000": [encoded("JPEG2000", PIXELS), encoded("JPEG2000", wide)],
        "TGA": [encoded("TGA", PIXELS, compression="tga_rle"), encoded("TGA", MASK)],
        "PCX": [encoded("PCX", PIXELS), encoded("PCX", MASK)],
        "SGI": [encoded("SGI", PIXELS), encoded("SGI", MASK)],
    }


def damaged(content: bytes, draw: random.Random) -> bytes:
    """One to eight flipped bits, changed, lost or added bytes, extreme numbers or cuts, half of them in the header."""
    found = bytearray(content)
    for _ in range(draw.choice((1, 1, 1, 2, 4, 8))):
        at = draw.randrange(len(found)) if draw.random() < 0.5 else draw.randrange(min(len(found), 120))
        match draw.randrange(6):
            case 0:
                found[at] ^= 1 << draw.randrange(8)
            case 1:
                found[at] = draw.randrange(256)
            case 2:
                extreme = draw.choice(EXTREMES)
                found[at : at + len(extreme)] = extreme
            case 3:
                del found[at : at + draw.randrange(1, 9)]
            case 4:
                found[at:at] = draw.randbytes(draw.randrange(1, 9))
            case 5 if draw.random() < 0.3:
                del found[at:]
        found = found or bytearray(1)
    return bytes(found)


@pytest.mark.timeout(120)
@pytest.mark.filterwarnings("ignore")  # Pillow's, on odd tags
@pytest.mark.parametrize("kind", sound_files())
def test_a_damaged_file_is_read_or_refused_in_one_line_that_names_it(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(MAX_PIXELS_VARIABLE, "1000000")  # sizes are drawn too
    draw = random.Random(zlib.crc32(kind.encode()))
    path, sound = tmp_path / "file", sound_files()[kind]
    outcomes = []
    for i in range(EACH):
        path.write_bytes(damaged(sound[i % len(sound)], draw))
        for what in ("image", "12 bits", "mask"):
            try:
                if what == "mask":
                    mask, _ = read_mask(path, Notes())
                    assert (mask.ndim, mask.dtype) == (2, np.bool_)
                else:
                    protocol = PROTOCOL if what == "image" else PROTOCOL.vary(bits=12)
                    pixels, _, _ = read_image(path, protocol, notes=Notes())
                    assert (pixels.shape, pixels.dtype) == ((3, 16, 16), np.uint8)
                outcomes.append("read")
            except PadimBenchError as error:
                message = str(error)
                assert str(path) in message
                assert "\n" not in message
                assert "object at 0x" not in message
                assert len(message) < 700
                outcomes.append("refused")
    assert {"read", "refused"} == set(outcomes)  # the damage is neither too much nor too little
