"""Hostile inputs for `fuzz.py` and the tests: a valid file of each kind, and its mutations."""

from __future__ import annotations

import inspect
import io
import json
import os
import random
import re
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save as tensors_to_bytes

from leakgauge.audit.materials import DATA, MODELS
from leakgauge.audit.options import CONTEXT
from leakgauge.audit.resolve import ATTACKS, DEFENSES, THREATS, TRAININGS

Random = random.Random

INTEGERS = [0, 1, 2, 3, 7, 8, 255, 256, 65535, 65536, 2**31 - 1, 2**31, 2**32, 2**63 - 1, 2**64 - 1]
VALUES = [
    *(
        "0",
        "-1",
        "1",
        "2",
        "3",
        "10",
        "1000",
        "100000",
        "9223372036854775807",
        "9223372036854775808",
    ),
    *("-9223372036854775809", "9" * 31, "9" * 5000, "0x" + "f" * 5000, "1e30", "1e308", "1e-308"),
    *(
        "-0.0",
        "inf",
        "-inf",
        "nan",
        "true",
        "false",
        "[]",
        "{}",
        "[[]]",
        "[1, 2]",
        '""',
        "''",
        "0.5",
    ),
    *("1979-05-27", "07:32:00", "1979-05-27T07:32:00Z", '"\\u0000"', '"\\u001b[2J"', '"\\n"'),
    *(
        '"' + "x" * 10_000 + '"',
        "[" * 400,
        "{a = " * 400,
        "[" * 31 + "]" * 31,
        '["", {}]',
        '"../.."',
    ),
    *(
        "[1, 2, 3, 4, 5, 6, 7, 8, 9, 10]",
        "[nan]",
        "[[1], [2]]",
        '{name = ""}',
        "{x = 1}",
        '["none"]',
    ),
]
NAMES = [
    *(
        "builtins:open",
        "sys:exit",
        "os:system",
        "pathlib:Path",
        "torch:save",
        "numpy:save",
        ":",
        "a:b",
    ),
    *(
        "",
        "none",
        "\\u202e",
        "~nobody-here/x",
        "/dev/zero",
        "/dev/stdin",
        "/",
        ".",
        "..",
        "data.npz",
    ),
    *(
        "images",
        "weights.safetensors",
        "broken.npz",
        "pipe",
        "x" * 300,
        "antigravity:x",
        "__main__:x",
    ),
]
OPTIONS = ["steps", "lr", "width", "depth", "size", "batch_size", "epochs", "attack", "labels"]
OPTIONS += ["std", "sparsity", "clients", "path", "weights", "seed", "format", "iterations", "name"]

Content = bytes
"""The bytes of a file."""


# Bytes


def mutated_bytes(content: Content, rng: Random, *, most: int = 6) -> Content:
    """Return the content after one to `most` flips, cuts, insertions, copies and hostile integers."""
    data = bytearray(content)
    for _ in range(rng.randint(1, most)):
        at = rng.randrange(len(data) + 1)
        length = rng.choice([1, 2, 4, 8, rng.randint(1, 64)])
        match rng.randrange(7):
            case 0 if data:
                data[at % len(data)] ^= 1 << rng.randrange(8)
            case 1:
                del data[at:]
            case 2:
                del data[at : at + length]
            case 3:
                data[at:at] = bytes(rng.randrange(256) for _ in range(length))
            case 4:
                data[at:at] = data[at : at + length]
            case 5:
                width = rng.choice([1, 2, 4, 8])
                value = rng.choice(INTEGERS) % 256**width
                data[at : at + width] = value.to_bytes(width, rng.choice(["little", "big"]))
            case _:
                data[at : at + length] = bytes([rng.choice([0, 255])]) * length
    return bytes(data)


# Specifications

Tree = dict[str, Any]
"""A section: options by name, or the text of a TOML value."""

_MODELS: list[Tree] = [
    {"name": "mlp", "width": 8, "depth": 2},
    {"name": "lenet"},
    {"name": "cnn", "activation": "tanh"},
    {"name": "vit", "patch": 4, "dim": 8, "depth": 1, "heads": 2},
    {"name": "mlp", "width": 8, "depth": 3, "activation": "gelu", "dropout": 0.1, "train": True},
    {"name": "mlp", "width": 8, "depth": 2},
    {"name": "convnet", "width": 2},
    {"name": "cnn6"},
    {"name": "resnet20"},
]
_DATA: list[Tree] = [
    {"name": "npz", "path": "data.npz"},
    {"name": "image_folder", "path": "images", "size": 16},
    {"name": "photos", "size": 16},
    {"name": "npz", "path": "table.npz"},
    {"name": "diabetes"},
]
_TRAINING: list[Tree] = [
    {"name": "fedsgd"},
    {"name": "fedsgd", "batch_size": [1, 2]},
    {"name": "fedavg", "learning_rate": 0.1, "epochs": 2, "batch_size": 2},
]
_QUICK = {"dcs2": {"steps": 2}, "ats": {"candidates": 2}}
"""Options of defenses that search. They get few steps, since each setting runs once before an audit starts."""
_PARTS: dict[str, dict[str, Any]] = {
    "attacks": ATTACKS,
    "defenses": DEFENSES,
    "threat": THREATS,
    "training": TRAININGS,
    "model": MODELS,
    "data": DATA,
}


def specification(rng: Random) -> list[tuple[str, Any]]:
    """Return the sections of a valid specification, or of one whose parts do not suit each other."""
    flat = rng.random() < 0.3
    data = rng.choice(_DATA[3:] if flat else _DATA[:3])
    model = rng.choice([_MODELS[0], _MODELS[4]] if flat else _MODELS)
    sections: list[tuple[str, Any]] = [
        ("data", dict(data)),
        ("model", dict(model)),
        ("attacks", [{"name": n} for n in rng.sample(sorted(ATTACKS), rng.randint(1, 2))]),
    ]
    if rng.random() < 0.4:
        sections.append(("training", dict(rng.choice(_TRAINING))))
    if rng.random() < 0.5:
        name = rng.choice(sorted(DEFENSES))
        sections.append(("defenses", [{"name": "none"}, {"name": name, **_QUICK.get(name, {})}]))
    if rng.random() < 0.3:
        sections.append(("threat", {"name": rng.choice(sorted(THREATS))}))
    if rng.random() < 0.1:
        sections.append(("examples", [0, 3, 1]))
    if rng.random() < 0.1:
        sections.append(("repeats", 2))
    if rng.random() < 0.1:
        sections.append(("utility", {"clients": 2, "rounds": 1}))
    return sections


def written(value: Any) -> str:
    """Return a value as TOML. A `Verbatim` is TOML already, and stays unchanged."""
    match value:
        case Verbatim():
            return str(value)
        case bool():
            return str(value).lower()
        case dict():
            return "{" + ", ".join(f"{key} = {written(v)}" for key, v in value.items()) + "}"
        case list():
            return "[" + ", ".join(map(written, value)) + "]"
        case str():
            return json.dumps(value)
        case _:
            return repr(value)


class Verbatim(str):
    """Text of a TOML value."""


_SIMPLE = ["0", "1", "2", "3", "-1", "0.0", "0.5", "1.0", "2.5", "-0.5", "1e-300", "1e300", "nan"]
_SIMPLE += [
    "inf",
    "true",
    "false",
    '""',
    "[]",
    "[1, 2]",
    "[0.5, 0.25]",
    '["a", "b"]',
    "1000",
    "100000",
]
_SIMPLE += ["9223372036854775807", "[[0, 1], [1, 0]]", "{}", '{name = "mlp", width = 4}', "[[]]"]


_WHOLE = [
    "0",
    "1",
    "2",
    "3",
    "5",
    "16",
    "1000",
    "100000",
    "2147483648",
    "9223372036854775807",
    "-1",
]
_REAL = [
    "0.0",
    "1e-300",
    "1e-8",
    "0.1",
    "0.5",
    "0.999999",
    "1.0",
    "3.0",
    "1e8",
    "1e300",
    "-0.5",
    "nan",
]


def _with_option(sections: list[tuple[str, Any]], rng: Random) -> None:
    """Set one of a part's own options to a value of its kind, or of any kind."""
    held = [(key, value) for key, value in sections if key in _PARTS]
    key, value = rng.choice(held)
    part = rng.choice(value) if isinstance(value, list) else value
    maker = _PARTS[key].get(part["name"])
    parameters = {} if maker is None else inspect.signature(maker).parameters
    known = [n for n in parameters if n not in CONTEXT]
    name = rng.choice([*known, *known, *known, rng.choice(OPTIONS)])
    default = parameters[name].default if name in parameters else None
    part[name] = Verbatim(rng.choice(_literals(default, rng)))


def _literals(default: Any, rng: Random) -> list[str]:
    """Return TOML values for an option with this default."""
    if rng.random() < 0.7:
        match default:
            case bool():
                return ["true", "false"]
            case int():
                return _WHOLE
            case float():
                return _REAL
            case str():
                return [f'"{text}"' for text in ("fp16", "int4", "relu", "1-2+3", "linear0", "x")]
    return [*_SIMPLE, *_SIMPLE, *VALUES, *(f'"{name}"' for name in NAMES)]


def text_of(sections: list[tuple[str, Any]], rng: Random) -> str:
    """Return the specification as TOML. Its case is at the top or in a list."""
    text = "\n".join(f"{key} = {written(value)}" for key, value in sections) + "\n"
    return f"seed = {rng.randrange(10)}\n[[cases]]\n{text}" if rng.random() < 0.2 else text


_TOKEN = re.compile(r'"[^"\n]*"|[\w.+-]+|[\[\]{}=,\n]')


def _hostile(rng: Random) -> str:
    """Return a hostile value or name as TOML."""
    names = [*ATTACKS, *DEFENSES, *THREATS, *DATA, *MODELS, *NAMES]
    return rng.choice(VALUES) if rng.random() < 0.6 else f'"{rng.choice(names)}"'


def _swapped(text: str, rng: Random) -> str:
    """Replace, drop or double one token, or give it an option."""
    tokens = list(_TOKEN.finditer(text))
    if not tokens:
        return text + _hostile(rng)
    token = rng.choice(tokens)
    old = token.group()
    option = f"{rng.choice(OPTIONS)} = {_hostile(rng)}"
    new = rng.choice(
        [
            _hostile(rng),
            _hostile(rng),
            "",
            old + old,
            rng.choice(tokens).group(),
            f"{{name = {old}, {option}}}",
            f"{{name = {old}, {option}}}",
            f"[{old}, {_hostile(rng)}]",
        ]
    )
    return text[: token.start()] + new + text[token.end() :]


def mutated_specification(rng: Random) -> tuple[Content, tuple[str, ...]]:
    """Return the bytes of a specification, and settings as `--set` takes them."""
    sections = specification(rng)
    roll = rng.random()
    if roll < 0.6:
        for _ in range(rng.choice([1, 1, 1, 2])):
            _with_option(sections, rng)
    text = text_of(sections, rng)
    settings: tuple[str, ...] = ()
    if rng.random() < 0.15:
        keys = [*OPTIONS, "data", "model", "attacks", "0", "cases", "9" * 20, "", "a.b", "training"]
        path = ".".join(rng.choice(keys) for _ in range(rng.randint(1, 4)))
        settings = (f"{path}={_hostile(rng).strip(chr(34))}",)
    if 0.6 <= roll < 0.9:
        for _ in range(rng.choice([1, 1, 2])):
            text = _swapped(text, rng)
    content = text.encode()
    if rng.random() < 0.05:
        content = mutated_bytes(content, rng)
    if rng.random() < 0.02:
        content = rng.choice([b"\xef\xbb\xbf", b"\xff\xfe", b"\0"]) + content
    return content, settings


# Archives

ARRAYS: dict[str, dict[str, Any]] = {
    "images": {"images": np.full((6, 8, 8), 7, np.uint8), "labels": np.arange(6) % 2},
    "color": {
        "train_images": np.full((6, 8, 8, 3), 7, np.uint16),
        "train_labels": np.arange(6)[:, None] % 2,
        "classes": np.array(["a", "b"]),
    },
    "table": {
        "inputs": np.asfortranarray(np.full((6, 3), 0.5)),
        "labels": np.arange(6) % 3,
        "columns": np.array(["a", "b", "c"]),
        "lows": np.zeros(3),
        "highs": np.ones(3, np.int64),
    },
}
_DTYPES = ["u1", ">u2", "<i8", "f2", "<f4", ">f8", "g", "c8", "c16", "?", "U3", "S3", "O", "V2"]
_DTYPES += ["M8[s]", "m8[s]", "u8", "f8", "i1"]
_SHAPES = [(), (0,), (6,), (6, 1), (1, 6), (6, 0), (6, 3), (3, 6, 1), (6, 8, 8, 9), (1, 1, 1, 1, 1)]
_DESCRIPTIONS = [
    *(
        "'|O'",
        "'<f99999999'",
        "'<U999999999'",
        "[('a', '<f4')]",
        "'|u1'",
        "'<c16'",
        "'|V0'",
        "'|S0'",
    ),
    *("None", "'\\x00'", "('|u1', (9, 9))", "[" * 200, "'<f8'", "'>i2'"),
]
_DIMENSIONS = ["(1152921504606846976, 8)", f"({10**50},)", "(-1,)", "(6, 8, 8)", "()", "(0, 0)"]
_DIMENSIONS += ["(2.5,)", "[6]", "6", "(" + "1," * 5000 + ")", "('a',)", "(True,)"]


def _array_bytes(value: Any, rng: Random) -> Content:
    """Return the .npy form of an array, sometimes with a mutated header."""
    stream = io.BytesIO()
    np.lib.format.write_array(stream, np.asarray(value), allow_pickle=True)
    content = stream.getvalue()
    if rng.random() < 0.15:
        end = content.index(b"\n") + 1
        text = content[10:end].decode("latin-1")
        if rng.random() < 0.5:
            text = re.sub(
                r"'descr': [^,]*", lambda m: f"'descr': {rng.choice(_DESCRIPTIONS)}", text
            )
        if rng.random() < 0.5:
            text = re.sub(
                r"'shape': \([^)]*\)", lambda m: f"'shape': {rng.choice(_DIMENSIONS)}", text
            )
        if rng.random() < 0.2:
            text = text.replace("False", rng.choice(["True", "None", "3", "'x'"]))
        header = text.encode("latin-1")
        content = content[:8] + struct.pack("<H", len(header) % 65536) + header + content[end:]
    return content


def mutated_archive(rng: Random) -> Content:
    """Return the bytes of a .npz file with mutated arrays, headers, fields of the zip format, or any bytes."""
    arrays = dict(ARRAYS[rng.choice(sorted(ARRAYS))])
    for key in list(arrays):
        if rng.random() < 0.1:
            shape = rng.choice([arrays[key].shape, rng.choice(_SHAPES)])
            filled = rng.choice([0, 1, 255, -1, float("nan"), 1e300, "\ufeffé", 2**63])
            made = np.empty(shape, rng.choice(_DTYPES))
            try:
                made[...] = filled
            except (ValueError, OverflowError, TypeError):
                made[...] = np.zeros((), made.dtype)
            arrays[key] = made
        if rng.random() < 0.05:
            del arrays[key]
    stream = io.BytesIO()
    method = rng.choice([*[zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED] * 8, zipfile.ZIP_BZIP2])
    with zipfile.ZipFile(stream, "w", method) as archive:
        for key, value in arrays.items():
            name = rng.choice([key] * 20 + ["../" + key, "/" + key, key + "\0", "labels", "é"])
            if f"{name}.npy" not in archive.namelist():
                archive.writestr(f"{name}.npy", _array_bytes(value, rng))
    content = stream.getvalue()
    roll = rng.random()
    if roll < 0.3:
        return _zip_fields(content, rng)
    return mutated_bytes(content, rng, most=3) if roll < 0.5 else content


def _zip_fields(content: Content, rng: Random) -> Content:
    """Set fields of local headers, of the directory or of its end to hostile values."""
    data = bytearray(content)
    for _ in range(rng.randint(1, 3)):
        mark, length = rng.choice([(b"PK\3\4", 30), (b"PK\1\2", 46), (b"PK\5\6", 22)])
        places = [m.start() for m in re.finditer(re.escape(mark), bytes(data))]
        if not places:
            continue
        width = rng.choice([2, 4])
        at = rng.choice(places) + rng.randrange(4, length - width + 1, 2)
        value = rng.choice([*INTEGERS, rng.randrange(2**16)]) % 256**width
        data[at : at + width] = value.to_bytes(width, "little")
    return bytes(data)


# Images

_ENDINGS = [".png", ".jpg", ".jpeg", ".webp", ".bmp"]
_SAVED = ["PNG", "PNG", "PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "ICO", "TGA", "PDF"]
_RAW = [
    b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 6 4\nshowpage\n%%EOF\n",
    b"8BPS\0\1" + bytes(30),
    b"",
    b"\0" * 100,
    b"GIF89a",
    b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    b"\x89PNG\r\n\x1a\n",
]
_OWN = {"PNG": ".png", "JPEG": ".jpg", "WEBP": ".webp", "BMP": ".bmp"}


def _picture(rng: Random) -> tuple[str, Content]:
    """Return the ending and the bytes of an image, or of something that is no image."""
    if rng.random() < 0.08:
        return rng.choice(_ENDINGS), rng.choice(_RAW)
    form = rng.choice(_SAVED)
    mode = rng.choice(["RGB", "L", "RGB", "L", "RGBA", "LA", "P", "1", "I;16", "CMYK", "F", "I"])
    image = Image.new(mode, rng.choice([(8, 8)] * 8 + [(1, 1), (9, 5), (300, 200)]))
    if rng.random() < 0.6:
        form, mode = rng.choice(sorted(_OWN)), rng.choice(["RGB", "L"])
        image = Image.new(mode, (8, 8))
    options: dict[str, Any] = {}
    if rng.random() < 0.1:
        options["transparency"] = 0
    if rng.random() < 0.15:
        marks = Image.Exif()
        marks[0x0112] = rng.choice([0, 1, 3, 6, 8, 9, 65535])
        options["exif"] = rng.choice([marks.tobytes(), mutated_bytes(marks.tobytes(), rng)])
    if rng.random() < 0.05:
        options |= {"save_all": True, "append_images": [Image.new(mode, (8, 8), 1)]}
    stream = io.BytesIO()
    try:
        image.save(stream, form, **options)
    # Not every format holds every mode and option, and Pillow raises many exceptions. Then the image is plain.
    except Exception:  # noqa: BLE001
        stream = io.BytesIO()
        form = "PNG"
        Image.new("RGB", (8, 8)).save(stream, form)
    ending = _OWN.get(form, ".png")
    return (ending if rng.random() < 0.85 else rng.choice(_ENDINGS)), stream.getvalue()


def _png_chunks(content: Content, rng: Random) -> Content:
    """Change, add, double or move chunks of a PNG. Their checksums are right."""
    chunks: list[tuple[bytes, bytes]] = []
    at = 8
    while at + 8 <= len(content):
        (length,) = struct.unpack(">I", content[at : at + 4])
        chunks.append((content[at + 4 : at + 8], content[at + 8 : at + 8 + length]))
        at += length + 12
    for _ in range(rng.randint(1, 3)):
        i = rng.randrange(len(chunks))
        kind, body = chunks[i]
        match rng.randrange(5):
            case 0:
                chunks[i] = kind, mutated_bytes(body, rng, most=2)
            case 1:
                more = rng.choice([b"tRNS", b"PLTE", b"acTL", b"fcTL", b"eXIf", b"zTXt", b"iCCP"])
                chunks.insert(
                    i, (more, bytes(rng.randrange(256) for _ in range(rng.randint(0, 40))))
                )
            case 2:
                chunks.insert(rng.randrange(len(chunks)), chunks[i])
            case 3 if len(chunks) > 1:
                del chunks[i]
            case _:
                fields = [rng.choice([0, 1, 8, 9, 70_000, 2**31 - 1, 2**32 - 1]) for _ in range(2)]
                depth, color = rng.choice([1, 2, 4, 8, 16, 3]), rng.choice([0, 2, 3, 4, 6, 1, 7])
                body = struct.pack(">IIBBBBB", *fields, depth, color, 0, 0, rng.choice([0, 1, 2]))
                chunks[0] = b"IHDR", body
    parts = [
        struct.pack(">I", len(b)) + k + b + struct.pack(">I", zlib.crc32(k + b)) for k, b in chunks
    ]
    return content[:8] + b"".join(parts)


def mutated_picture(rng: Random) -> tuple[str, Content]:
    """Return the ending and the bytes of an image file."""
    ending, content = _picture(rng)
    roll = rng.random()
    if roll < 0.2 and content.startswith(b"\x89PNG") and len(content) > 40:
        return ending, _png_chunks(content, rng)
    return ending, mutated_bytes(content, rng, most=3) if roll < 0.45 else content


def write_folder(root: Path, rng: Random) -> None:
    """Fill a folder with images, and sometimes with pipes, links and odd names."""
    for i in range(rng.randint(1, 3)):
        group = root / rng.choice(["", "", "a", "b", "c.png", "\x1b[2J"])
        group.mkdir(exist_ok=True)
        ending, content = mutated_picture(rng)
        stem = rng.choice(
            [f"{i}"] * 12 + ["\x1b[2J\n", "\udc80", ".hidden", "\u202e", "a b", "x" * 200]
        )
        (group / f"{stem}{ending}").write_bytes(content)
    place = root / f"odd{rng.choice(_ENDINGS)}"
    roll = rng.random()
    if roll < 0.02:
        os.mkfifo(place)
    elif roll < 0.06:
        place.symlink_to(
            rng.choice(["/dev/zero", "gone", place.name, "/dev/stdin", "/proc/self/mem"])
        )
    elif roll < 0.08:
        place.mkdir()


# Tensors

_HEADERS = [
    "F32",
    "F64",
    "F16",
    "BF16",
    "F8_E4M3",
    "F8_E5M2",
    "I64",
    "U16",
    "BOOL",
    "C64",
    "F4",
    "X",
]


def mutated_tensors(rng: Random, tensors: dict[str, torch.Tensor]) -> Content:
    """Return the bytes of a safetensors file with mutated values, header entries, or any bytes."""
    held = dict(tensors)
    name = rng.choice(sorted(held))
    match rng.randrange(8):
        case 0:
            held[name] = torch.full_like(held[name], rng.choice([float("nan"), float("inf"), 1e38]))
        case 1:
            held[rng.choice(["\x1b[2J", "", "x" * 5000, "é", name + " "])] = held.pop(name)
        case 2:
            held[name] = held[name].to(
                rng.choice([torch.int8, torch.bool, torch.float8_e5m2, torch.complex64, torch.half])
            )
        case 3:
            held[name] = held[name].reshape(-1)
    content = tensors_to_bytes(
        held, metadata={"kind": rng.choice(["gradient", "delta", "\x1b", ""])}
    )
    roll = rng.random()
    if roll < 0.5:
        return _tensor_header(content, rng)
    return mutated_bytes(content, rng) if roll < 0.9 else content


def _tensor_header(content: Content, rng: Random) -> Content:
    """Mutate the header of a safetensors file."""
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    name = rng.choice([key for key in header if key != "__metadata__"])
    entry = header[name]
    match rng.randrange(8):
        case 0:
            entry["dtype"] = rng.choice(_HEADERS)
        case 1:
            entry["shape"] = rng.choice([[], [0], [-1], [2**40, 2**40], ["a"], None, [1] * 500, 3])
        case 2:
            entry["data_offsets"] = rng.choice([[0, 2**62], [8, 4], [0], None, [-1, 4], [0, 0]])
        case 3:
            header["__metadata__"] = rng.choice([{"kind": 3}, [], {"kind": "x" * 5000}, {"a": {}}])
        case 4:
            header[rng.choice(["a", name + "\n", ""])] = rng.choice(
                [entry, 3, None, {}, {"dtype": "F32"}]
            )
        case 5:
            text = json.dumps(header).encode()
            text = rng.choice(
                [b"[" * 3000, text[:-2], text + b"}", text.replace(b'"', b"'"), b"\xff"]
            )
            return struct.pack("<Q", len(text)) + text + content[8 + length :]
        case 6:
            fields = rng.choice([*INTEGERS, length + 1, length - 1]) % 2**64
            return struct.pack("<Q", fields) + content[8:]
        case _:
            entry[rng.choice(["dtype", "shape", "data_offsets"])] = rng.choice(
                [True, 1.5, "F32", {}]
            )
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + content[8 + length :]


Writer = Callable[[Path, Random], Any]
