import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from intraq_cli.errors import DataError
from intraq_cli.evaluation.data import open_data
from intraq_cli.evaluation.image_files import ImageReader, UnreadableImageError
from intraq_cli.models.input_spec import InputSpec

SPEC = InputSpec((3, 8, 8), (0.5,) * 3, (0.5,) * 3, "bilinear", 1.0)


def reader(mode, edge):
    """A reader that returns images without a transform."""
    return ImageReader(mode, edge, lambda image: image)


def png(folder, name, colour=(255, 255, 255)):
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), colour).save(folder / name, format="PNG")


def bomb(path, width, height):
    """A PNG of a few bytes whose header claims a huge picture."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(b"\0" * 100)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b""))


def program(path):
    """PostScript, which PIL would hand to another program."""
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n")


def link(path):
    path.symlink_to(path.parents[2] / "private.png")


BAD = {
    "empty": lambda p: p.write_bytes(b""),
    "text": lambda p: p.write_text("not an image"),
    "truncated": lambda p: (png(p.parent, "whole"), p.write_bytes((p.parent / "whole").read_bytes()[:50])),
    "bomb": lambda p: bomb(p, 60_000, 60_000),
    "ribbon": lambda p: bomb(p, 80_000_000, 1),
    "a folder": lambda p: p.mkdir(),
    "a pipe": os.mkfifo,
    "link to nothing": lambda p: p.symlink_to("nothing"),
    "link in a circle": lambda p: p.symlink_to(p.name),
    "link out": link,
    "postscript": program,
    "floats": lambda p: Image.fromarray(np.ones((8, 8), np.float32)).save(p, format="TIFF"),
}


@pytest.mark.parametrize("kind", BAD)
def test_unusable_image_is_skipped_and_counted_in_a_warning(tmp_path, kind):
    png(tmp_path, "private.png")
    data = tmp_path / "data"
    for name in ("0/a.png", "0/c.png", "1/a.png"):
        png(data, name)
    BAD[kind](data / "0" / "b.png")
    events = []
    batches = list(open_data(str(data), SPEC, 2, None).batches(2, events.append))
    assert [y.tolist() for _, y, _ in batches] == [[0], [0, 1]]  # 0/a and 0/b, 0/c and 1/a
    (warning,) = events
    assert "1 of 4 images were left out" in warning.message
    assert "b.png" in warning.message


def test_too_many_unusable_images_are_an_error(tmp_path):
    for k in range(40):
        png(tmp_path, f"0/{k:02}.png")
    png(tmp_path, "1/a.png")
    for k in range(10):
        (tmp_path / f"0/{k:02}.png").write_bytes(b"")
    events = []
    assert sum(len(y) for _, y, _ in open_data(str(tmp_path), SPEC, 2, None).batches(8, events.append)) == 31
    assert len(events) == 1
    (tmp_path / "0/20.png").write_bytes(b"")
    with pytest.raises(DataError, match="11 of 41 images cannot be used"):
        list(open_data(str(tmp_path), SPEC, 2, None).batches(8))
    (tmp_path / "2").mkdir()
    (tmp_path / "2/a.png").write_bytes(b"")
    with pytest.raises(DataError, match="1 of 1 images cannot be used"):
        list(open_data(str(tmp_path), SPEC, 3, None).sample(1, next_seed_of(41, 42)).batches(8))


def next_seed_of(index, count):
    """A seed that samples the image ``index`` first."""
    import torch

    seeds = ((s, torch.randperm(count, generator=torch.Generator().manual_seed(s))[0]) for s in range(10_000))
    return next(seed for seed, first in seeds if first == index)


def test_links_to_the_data_folder_and_within_it_are_followed(tmp_path):
    png(tmp_path, "real/0/a.png")
    png(tmp_path, "real/1/b.png")
    (tmp_path / "real/1/again.png").symlink_to("../0/a.png")
    (tmp_path / "data").symlink_to("real")
    events = []
    ((_, y, _),) = open_data(str(tmp_path / "data"), SPEC, 2, None).batches(8, events.append)
    assert y.tolist() == [0, 1, 1]
    assert not events


def test_class_folder_that_links_out_of_the_data_folder_is_refused(tmp_path):
    png(tmp_path, "data/0/a.png")
    png(tmp_path, "elsewhere/b.png")
    (tmp_path / "data/1").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="link that points outside") as caught:
        open_data(str(tmp_path / "data"), SPEC, 2, None)
    assert "cp -rL" in caught.value.hint


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
def test_16_bit_images_keep_their_brightness(tmp_path, suffix):
    Image.fromarray(np.full((8, 8), 0x4000, np.uint16)).save(tmp_path / f"deep.{suffix}")
    image = reader("RGB", 8).read(tmp_path / f"deep.{suffix}", tmp_path)
    assert image.mode == "RGB"
    assert np.unique(image).tolist() == [0x40]


@pytest.mark.parametrize("header", ["P5 8 8 65535 ", "P5 8 8 300 "])
def test_dark_16_bit_pgm_is_scaled_by_its_declared_maximum(tmp_path, header):
    most = int(header.split()[-1])
    (tmp_path / "dark.pgm").write_bytes(header.encode() + np.full(64, 200, ">u2").tobytes())
    image = reader("L", 8).read(tmp_path / "dark.pgm", tmp_path)
    assert np.unique(image).tolist() == [200 * 256 // (most + 1)]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK"])
def test_all_common_colour_modes_are_read(tmp_path, mode):
    white = Image.new("RGB", (8, 8), "white").convert(mode)
    path = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    white.save(path)
    assert np.asarray(reader("RGB", 8).read(path, tmp_path)).min() >= 254


def test_first_frame_of_an_animation_is_read(tmp_path):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.png", format="GIF", save_all=True, append_images=frames[1:])
    assert reader("RGB", 8).read(tmp_path / "a.png", tmp_path).getpixel((0, 0)) == (255, 0, 0)


def test_image_that_would_be_huge_when_resized_is_refused(tmp_path):
    Image.new("RGB", (30_000, 1)).save(tmp_path / "ribbon.png")
    reader("RGB", 8).read(tmp_path / "ribbon.png", tmp_path)
    with pytest.raises(UnreadableImageError, match="too long and narrow"):
        reader("RGB", 224).read(tmp_path / "ribbon.png", tmp_path)


def test_32_bit_integer_images_are_scaled_by_their_range_of_values(tmp_path):
    pixels = np.arange(64, dtype=np.int32).reshape(8, 8)
    for top, wanted in ((255, pixels * 4), (65535, pixels * 4)):
        values = pixels * 4 if top == 255 else pixels * 1024 + 512
        Image.fromarray(values).save(tmp_path / "a.tif")
        read = reader("L", 8.0).read(tmp_path / "a.tif", tmp_path)
        assert np.array_equal(np.asarray(read), wanted.astype(np.uint8) if top == 255 else (values >> 8))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_upright_by_their_exif_orientation(tmp_path, orientation):
    """The file holds a transposed picture, and reading must undo that."""
    upright = Image.fromarray(np.arange(48, dtype=np.uint8).reshape(6, 8) * 5)
    methods = Image.Transpose
    stored = {
        2: methods.FLIP_LEFT_RIGHT, 3: methods.ROTATE_180, 4: methods.FLIP_TOP_BOTTOM, 5: methods.TRANSPOSE,
        6: methods.ROTATE_90, 7: methods.TRANSVERSE, 8: methods.ROTATE_270,
    }  # fmt: skip
    picture = upright.transpose(stored[orientation]) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture.save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(reader("L", 8).read(tmp_path / "a.png", tmp_path), upright)


def test_picture_with_damaged_exif_data_is_still_read(tmp_path):
    Image.new("RGB", (8, 8), "white").save(tmp_path / "a.jpg", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    assert np.asarray(reader("RGB", 8).read(tmp_path / "a.jpg", tmp_path)).min() >= 254
