"""Unsafe or ambiguous image files are refused: content and header are checked, and nothing is dropped silently."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from leakgauge.core import DataError, ImageDomain
from leakgauge.data import dataset, folders, image_folder, pictures

RANDOM = np.random.default_rng(0)


def shades(*shape: int, dtype: Any = np.uint8) -> np.ndarray[Any, Any]:
    return RANDOM.integers(0, np.iinfo(dtype).max, shape, dtype=dtype, endpoint=True)


def encoded(image: Image.Image, form: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def color() -> Image.Image:
    return Image.fromarray(shades(4, 6, 3))


def chunk(kind: bytes, content: bytes) -> bytes:
    checksum = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)


def png(depth: int, kind: int, width: int, height: int, rows: bytes) -> bytes:
    """Return a PNG from the fields of its header and its packed rows, each after a filter byte of 0."""
    header = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    parts = (chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def rows_of(pixels: np.ndarray[Any, Any]) -> bytes:
    return b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)


def check_refused(folder: Path, name: str, content: bytes, *words: str, **options: Any) -> str:
    """Check that a folder with only this file is refused in one line with its name and a remedy."""
    (folder / name).write_bytes(content)
    with pytest.raises(DataError) as caught:
        image_folder(folder, **options)
    line = str(caught.value)
    assert line.isprintable()
    assert name in line
    assert all(word in line for word in words), line
    return line


class TestFormats:
    EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 6 4\n(started) print\n%%EOF\n"

    def test_postscript_under_a_false_name_starts_no_program(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def started(*arguments: Any, **options: Any) -> None:
            pytest.fail(f"a program was started: {arguments}")

        for name in ("Popen", "run", "call", "check_call", "check_output"):
            monkeypatch.setattr(subprocess, name, started)
        monkeypatch.setattr(os, "system", started)
        for ending in pictures.FORMATS:
            check_refused(tmp_path, f"a{ending}", self.EPS, "readable image", "another format")
            (tmp_path / f"a{ending}").unlink()

    @pytest.mark.parametrize("form", ["GIF", "TIFF", "PPM", "TGA", "PCX", "ICO", "SGI", "DDS"])
    def test_other_formats_under_a_false_name(self, tmp_path: Path, form: str) -> None:
        check_refused(tmp_path, "a.png", encoded(color(), form), "another format, or no image")

    @pytest.mark.parametrize(
        ("ending", "form"),
        [(".png", "JPEG"), (".jpg", "PNG"), (".jpeg", "WEBP"), (".webp", "BMP"), (".bmp", "PNG")],
    )
    def test_an_ending_that_is_not_the_content_s(
        self, tmp_path: Path, ending: str, form: str
    ) -> None:
        check_refused(tmp_path, f"a{ending}", encoded(color(), form), form, "ending of its format")

    def test_a_photoshop_file(self, tmp_path: Path) -> None:
        header = b"8BPS" + struct.pack(">H6xHIIHH", 1, 3, 4, 6, 8, 3)
        check_refused(tmp_path, "a.png", header + bytes(100), "another format, or no image")

    @pytest.mark.parametrize("form", ["PNG", "WEBP"])
    def test_several_frames(self, tmp_path: Path, form: str) -> None:
        content = encoded(color(), form, save_all=True, append_images=[color(), color()])
        check_refused(tmp_path, f"a.{form.lower()}", content, "one image in a file", "3 frames")

    def test_a_jpeg_of_several_pictures(self, tmp_path: Path) -> None:
        content = encoded(color(), "MPO", save_all=True, append_images=[color()])
        check_refused(tmp_path, "a.jpg", content, "MPO")


class TestDepth:
    def test_gray_of_16_bits_keeps_all_of_them(self, tmp_path: Path) -> None:
        gray = shades(4, 6, dtype=np.uint16)
        (tmp_path / "a.png").write_bytes(png(16, 0, 6, 4, rows_of(gray)))
        loaded = image_folder(tmp_path)
        assert loaded.domain == ImageDomain(1, 4, 6)
        assert torch.equal(loaded.inputs[0, 0], torch.from_numpy(gray.astype(np.float32) / 65535))

    def test_gray_of_16_bits_resized_stays_in_range(self, tmp_path: Path) -> None:
        gray = np.where(np.arange(64).reshape(8, 8) % 3 == 0, 65535, 0).astype(np.uint16)
        (tmp_path / "a.png").write_bytes(png(16, 0, 8, 8, rows_of(gray)))
        loaded = image_folder(tmp_path, size=5)
        assert loaded.inputs.min() >= 0
        assert loaded.inputs.max() <= 1
        assert loaded.inputs.mean() == pytest.approx(gray.mean() / 65535, abs=0.05)

    def test_gray_of_16_bits_beside_color(self, tmp_path: Path) -> None:
        gray = shades(4, 6, dtype=np.uint16)
        (tmp_path / "a.png").write_bytes(png(16, 0, 6, 4, rows_of(gray)))
        (tmp_path / "b.png").write_bytes(encoded(color(), "PNG"))
        inputs = image_folder(tmp_path).inputs
        assert inputs.shape == (2, 3, 4, 6)
        assert torch.equal(inputs[0, 0], inputs[0, 2])
        assert inputs[0, 1, 2, 3] == pytest.approx(int(gray[2, 3]) / 65535)

    @pytest.mark.parametrize(("kind", "channels"), [(2, 3), (4, 2), (6, 4)])
    def test_more_channels_of_16_bits_are_not_cut_to_8(
        self, tmp_path: Path, kind: int, channels: int
    ) -> None:
        content = png(16, kind, 6, 4, rows_of(shades(4, 6 * channels, dtype=np.uint16)))
        check_refused(tmp_path, "a.png", content, "16 bits a channel", "npz")

    @pytest.mark.parametrize("mode", ["1", "P"])
    def test_one_bit_and_palettes_of_opaque_colors(self, tmp_path: Path, mode: str) -> None:
        image = color().convert(mode)
        (tmp_path / "a.png").write_bytes(encoded(image, "PNG"))
        inputs = image_folder(tmp_path).inputs
        expected = np.array(image.convert("L" if mode == "1" else "RGB")) / 255
        found = inputs[0].permute(1, 2, 0).squeeze(-1).numpy()
        assert found == pytest.approx(expected)

    def test_inks_are_not_guessed_to_be_colors(self, tmp_path: Path) -> None:
        content = encoded(color().convert("CMYK"), "JPEG")
        check_refused(tmp_path, "a.jpg", content, "CMYK", "color profile")


class TestAlpha:
    def layered(self, alpha: int) -> Image.Image:
        image = color().convert("RGBA")
        image.putalpha(alpha)
        return image

    @pytest.mark.parametrize("form", ["PNG", "WEBP"])
    def test_opaque_alpha_says_nothing(self, tmp_path: Path, form: str) -> None:
        image = self.layered(255)
        (tmp_path / f"a.{form.lower()}").write_bytes(encoded(image, form, lossless=True))
        inputs = image_folder(tmp_path).inputs
        expected = torch.from_numpy(np.array(image)[..., :3]).permute(2, 0, 1) / 255
        torch.testing.assert_close(inputs[0], expected)

    def test_transparent_pixels_are_refused_unless_something_lies_behind(
        self, tmp_path: Path
    ) -> None:
        image = self.layered(51)
        check_refused(tmp_path, "a.png", encoded(image, "PNG"), "transparent pixels", "background")
        for name, shade in (("black", 0), ("white", 255)):
            behind: Any = name
            inputs = image_folder(tmp_path, background=behind).inputs
            expected = (np.array(image)[..., :3] * 0.2 + shade * 0.8) / 255
            found = inputs[0].permute(1, 2, 0).numpy()
            assert found == pytest.approx(expected, abs=1.01 / 255)

    @pytest.mark.parametrize(
        "write",
        [
            lambda: encoded(color().convert("P"), "PNG", transparency=bytes(256)),
            lambda: encoded(Image.new("RGB", (6, 4), (9, 8, 7)), "PNG", transparency=(9, 8, 7)),
            lambda: encoded(Image.new("L", (6, 4), 9), "PNG", transparency=9),
            lambda: encoded(Image.new("LA", (6, 4), (9, 100)), "PNG"),
        ],
    )
    def test_every_way_to_be_transparent(self, tmp_path: Path, write: Callable[[], bytes]) -> None:
        check_refused(tmp_path, "a.png", write(), "transparent pixels", "background")

    def test_gray_stays_gray_on_its_background(self, tmp_path: Path) -> None:
        (tmp_path / "a.png").write_bytes(encoded(Image.new("LA", (6, 4), (100, 0)), "PNG"))
        loaded = image_folder(tmp_path, background="white")
        assert loaded.domain == ImageDomain(1, 4, 6)
        assert loaded.inputs.min() == 1

    def test_a_transparent_shade_of_16_bits(self, tmp_path: Path) -> None:
        whole = png(16, 0, 6, 4, rows_of(shades(4, 6, dtype=np.uint16)))
        content = whole.replace(chunk(b"IEND", b""), b"")
        at = content.index(b"IDAT") - 4
        content = content[:at] + chunk(b"tRNS", b"\0\5") + content[at:] + chunk(b"IEND", b"")
        check_refused(tmp_path, "a.png", content, "16 bits without alpha")


class TestSize:
    def test_a_bomb_is_refused_by_its_header(self, tmp_path: Path) -> None:
        content = png(8, 0, 100_000, 100_000, b"")
        check_refused(tmp_path, "a.png", content, "67,108,864 pixels", "10000000000 pixels")
        content = png(8, 0, 10_000, 10_000, b"")
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # A warning by Pillow would be a second line.
            check_refused(tmp_path, "a.png", content, "67,108,864 pixels", "10000x10000")

    def test_a_jpeg_of_many_scans_is_refused_before_it_is_decoded(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        content = encoded(color(), "JPEG", progressive=True)
        scans = content.count(b"\xff\xda")
        assert scans > 3
        monkeypatch.setattr(pictures, "MOST_WORK", scans * 24)
        (tmp_path / "a.jpg").write_bytes(content)
        assert len(image_folder(tmp_path)) == 1
        monkeypatch.setattr(pictures, "MOST_WORK", scans * 24 - 1)
        check_refused(tmp_path, "a.jpg", content, f"{scans} scans of 24 pixels", "baseline")

    def test_no_pixels(self, tmp_path: Path) -> None:
        check_refused(tmp_path, "a.png", png(8, 0, 0, 4, b""))
        check_refused(tmp_path, "a.png", b"")

    @pytest.mark.parametrize("ending", pictures.FORMATS)
    def test_a_file_cut_anywhere(self, tmp_path: Path, ending: str) -> None:
        whole = encoded(color(), pictures.FORMATS[ending])
        for length in range(0, len(whole) // 2, max(1, len(whole) // 20)):
            check_refused(tmp_path, f"a{ending}", whole[:length])

    def test_a_size_that_no_memory_holds(self, tmp_path: Path) -> None:
        (tmp_path / "a.png").write_bytes(encoded(color(), "PNG"))
        for size in (0, -1, 10**6):
            with pytest.raises(DataError, match="size from 1 to 2,048 pixels"):
                image_folder(tmp_path, size=size)

    def test_all_images_together(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in "abc":
            (tmp_path / f"{name}.png").write_bytes(encoded(color(), "PNG"))
        monkeypatch.setattr(dataset, "MOST_VALUES", 2 * 3 * 24)
        with pytest.raises(DataError, match="first 3 of 3 images"):
            image_folder(tmp_path)
        monkeypatch.setattr(folders, "MOST_FILES", 2)
        with pytest.raises(DataError, match="at most 2 images; found 3"):
            image_folder(tmp_path)


class TestFiles:
    def test_a_pipe_is_not_waited_for(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "a.png")
        with pytest.raises(DataError, match=r"a\.png.*named pipe"):
            image_folder(tmp_path)

    def test_links(self, tmp_path: Path) -> None:
        (tmp_path / "whole").mkdir()
        (tmp_path / "whole" / "a.png").write_bytes(encoded(color(), "PNG"))
        (tmp_path / "chosen").mkdir()
        (tmp_path / "chosen" / "b.png").symlink_to(tmp_path / "whole" / "a.png")
        assert len(image_folder(tmp_path / "chosen")) == 1
        (tmp_path / "chosen" / "c.png").symlink_to(tmp_path / "gone.png")
        with pytest.raises(DataError, match=r"c\.png.*file or directory"):
            image_folder(tmp_path / "chosen")
        (tmp_path / "chosen" / "c.png").unlink()
        (tmp_path / "chosen" / "c.png").symlink_to("/dev/zero")
        with pytest.raises(DataError, match=r"c\.png.*character device"):
            image_folder(tmp_path / "chosen")

    def test_what_may_not_be_read(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "a.png").write_bytes(encoded(color(), "PNG"))

        def denied(*arguments: Any, **options: Any) -> None:
            raise PermissionError(13, "Permission denied", str(tmp_path))

        with monkeypatch.context() as patch:
            patch.setattr(Path, "iterdir", denied)
            with pytest.raises(DataError, match=r"listed; found Permission denied.*rights"):
                image_folder(tmp_path)
        with monkeypatch.context() as patch:
            patch.setattr(Image, "open", denied)
            with pytest.raises(DataError, match=r"a\.png.*Permission denied"):
                image_folder(tmp_path)

    @pytest.mark.parametrize("path", ["a\0b", "x" * 5000, "~nobody-of-this-name/x"])
    def test_paths_that_no_system_has(self, path: str) -> None:
        with pytest.raises(DataError) as caught:
            image_folder(path)
        assert str(caught.value).isprintable()

    def test_names_cannot_move_the_cursor(self, tmp_path: Path) -> None:
        (tmp_path / "a\x1b[2J\n\u202e\udc80.png").write_bytes(b"none")
        with pytest.raises(DataError) as caught:
            image_folder(tmp_path)
        line = str(caught.value)
        assert line.isprintable()
        assert line.encode()
        assert "a\\x1b[2J" in line


@pytest.mark.parametrize("ending", [".jpg", ".png"])
def test_images_are_turned_as_their_orientation_says(tmp_path: Path, ending: str) -> None:
    image = Image.fromarray(np.kron(shades(2, 3), np.ones((16, 16), np.uint8)))
    marks = Image.Exif()
    marks[0x0112] = 6  # The camera was turned by 90 degrees.
    (tmp_path / f"a{ending}").write_bytes(encoded(image, pictures.FORMATS[ending], exif=marks))
    loaded = image_folder(tmp_path)
    assert loaded.domain == ImageDomain(1, 48, 32)
    turned = np.array(image.transpose(Image.Transpose.ROTATE_270)) / 255
    assert loaded.inputs[0, 0].numpy() == pytest.approx(turned, abs=0.1)


def test_an_orientation_that_cannot_be_read_is_not_guessed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def torn(*arguments: Any, **options: Any) -> None:
        raise struct.error("unpack requires a buffer of 2 bytes")

    monkeypatch.setattr(ImageOps, "exif_transpose", torn)
    check_refused(tmp_path, "a.png", encoded(color(), "PNG"), "buffer of 2 bytes")
