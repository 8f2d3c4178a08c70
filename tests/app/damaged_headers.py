"""Damages to the header of a `.npy` or `.safetensors` file: another length, another header, one other entry in it."""

from __future__ import annotations

import json
import random
import re

MARKER = "run.by.a.header"

_SHAPES: list[object] = [[12, 5], [5, 12], [12], [12, 4], [4, 5]]
_SHAPES += [[60], [12, 5, 1], [24, 5], [6, 5], [5], [4]]
_ODD_SHAPES: list[object] = [None, 3, {}, "(3,)", [], [[3]], [1] * 70, [2**32, 2**32], [2**62, 0], [-1, -60], [-12, -5]]
_NUMBERS = [0, 1, -1, 2, 3, 7, 60, 2**31, 2**32, 2**61, 2**63, 2**64, 10**30, True, None, 1.0, "3", [2], float("nan")]
_NPY_NAMES = "<f8 <f4 <f2 <i8 |u1 >f4 =f4 f4 <f3 <f16 <c8 |O |V4 <U3 <M8[s] |b1 <u8 < 4f4 f4,f4 \x00 Ω"
_NPY_DTYPES = _NPY_NAMES.split(" ")
_NPY_DTYPES += [[("a", "<f4")], ("<f4", (2**40,)), None, 7, b"<f4", "", "x" * 99]
_TYPES = "F64 F32 F16 BF16 I64 I8 U8 BOOL F8_E4M3 U64 C64 F4 f32"
_SAFE_DTYPES = [*_TYPES.split(), "", None, 7, ["F32"]]
_NAMES = "features labels targets weights outputs weight bias fc.weight fc.bias a.weight . .weight lables __metadata__"
_SAFE_NAMES = [*_NAMES.split(), "", "features ", "\u202e", "é", "x" * 500, "\n", "\ud800"]
_HEADER = "{'descr': '<f4', 'fortran_order': False, 'shape': %s}"
_EXPRESSIONS = [_HEADER % "(9**9**9,)", _HEADER % "(2,) * 999999999", _HEADER % "(12L, 5L)", _HEADER % "(1_2, 0x5)"]
_EXPRESSIONS += [
    _HEADER % f"__import__('os').system('touch {MARKER}')",
    f"open('{MARKER}', 'w')",
    "lambda: 0",
    "f'{1}'",
]
_EXPRESSIONS += [
    _HEADER % "(12, 5), 'shape': (5, 12)",
    "{{}: 1}",
    "{**{}}",
    "'\\q'",
    "1if 1else 2",
    "(" * 5000,
    "#" * 9999,
]
_EXPRESSIONS += [
    "-" * 9000 + "1",
    "[" * 90 + "]" * 90,
    "1+" * 4000 + "1j",
    "9" * 9000,
    "'a'" * 3000,
    _HEADER % ("(" * 999),
]


def _is_npy(content: bytes) -> bool:
    return content[:1] == b"\x93"


def _width(content: bytes) -> int:
    """How many bytes of a .npy file hold the length of its header."""
    return 2 if content[6:7] == b"\1" else 4


def header_end(content: bytes) -> int:
    """Where the header ends when the file is sound; in any case inside the file."""
    start, width = (8, _width(content)) if _is_npy(content) else (0, 8)
    end = start + width + int.from_bytes(content[start : start + width], "little")
    return min(end, len(content))


def change_length(draw: random.Random, content: bytes, sound: dict[str, bytes]) -> bytes:
    """Another stated length of the header."""
    end = header_end(content)
    near = [0, 1, 2, max(end - 9, 0), end - 8, end, len(content)]
    stated = draw.choice([*near, 9999, 10_001, 2**20, 2**20 + 1, 2**31, 2**63, 2**64 - 1])
    start, width = (8, _width(content)) if _is_npy(content) else (0, 8)
    return content[:start] + _counted(max(stated, 0), width) + content[start + width :]


def _counted(length: int, width: int) -> bytes:
    return (length % 256**width).to_bytes(width, "little")


def change_header(draw: random.Random, content: bytes, sound: dict[str, bytes]) -> bytes:
    """Another header, of the stated length, before the same numbers."""
    data = content[header_end(content) :]
    if _is_npy(content):
        version = draw.choice([1, 1, 2, 3])
        text = _npy_header(draw).encode("utf-16" if draw.random() < 0.03 else "utf-8", "replace")
        return b"\x93NUMPY" + bytes([version, 0]) + _counted(len(text), 2 if version == 1 else 4) + text + data
    text = _deep(draw) if draw.random() < 0.1 else _safe_header(draw, len(data))
    return _counted(len(text), 8) + text + data


def change_entry(draw: random.Random, content: bytes, sound: dict[str, bytes]) -> bytes:
    """The same header but for one entry."""
    end = header_end(content)
    if _is_npy(content):
        shape = f"'shape': {_sequence(_shape(draw))}"
        changes = [(r"'descr': '[^']*'", f"'descr': {draw.choice(_NPY_DTYPES)!r}"), (r"'shape': \([^)]*\)", shape)]
        changes += [("False", "True"), ("'shape'", "'shap'")]
        pattern, new = draw.choice(changes)
        start = 8 + _width(content)
        text = re.sub(pattern, lambda _: new, content[start:end].decode("latin-1"), count=1).encode("utf-8", "replace")
        return content[:8] + _counted(len(text), start - 8) + text + content[end:]
    changes = [(r'"dtype":"[^"]*"', f'"dtype":{json.dumps(draw.choice(_SAFE_DTYPES))}')]
    changes += [
        (r'"shape":\[[^]]*\]', f'"shape":{json.dumps(_shape(draw))}'),
        (r"\d+\]\}", f"{draw.choice(_NUMBERS)}]}}"),
    ]
    changes += [(r'"\w*":\{', f"{json.dumps(draw.choice(_SAFE_NAMES))}:{{"), (r"\{", '{"__metadata__":{"a":"b"},')]
    pattern, new = draw.choice(changes)
    text = re.sub(pattern, lambda _: new, content[8:end].decode("latin-1"), count=draw.choice([1, 1, 2])).encode()
    return _counted(len(text), 8) + text + content[end:]


def _shape(draw: random.Random) -> object:
    shape = draw.choice(_SHAPES)
    if draw.random() < 0.1:
        shape = draw.choice(_ODD_SHAPES)
    elif draw.random() < 0.4 and isinstance(shape, list):
        shape = [draw.choice(_NUMBERS), *shape[1:]]
    return shape


def _sequence(shape: object) -> object:
    return tuple(shape) if isinstance(shape, list) else shape


def _npy_header(draw: random.Random) -> str:
    if draw.random() < 0.2:
        return draw.choice(_EXPRESSIONS)
    shape, order = _shape(draw), draw.choice([False, False, True, True, 0, None, "False"])
    entries = {
        "descr": draw.choice(_NPY_DTYPES),
        "fortran_order": order,
        "shape": draw.choice([shape, _sequence(shape)]),
    }
    if draw.random() < 0.1:
        entries.pop(draw.choice(sorted(entries)))
    if draw.random() < 0.1:
        entries[draw.choice(["x", "Shape", ""])] = 1
    return repr(entries) + draw.choice(["", "\n", " " * draw.randrange(99) + "\n", " " * 12_000, "\0", "#"])


def _deep(draw: random.Random) -> bytes:
    depth = draw.choice([10, 1000, 100_000, 2**18])
    deep = [
        b"[" * depth + b"]" * depth,
        b'{"a":' * depth + b"1" + b"}" * depth,
        b"[" * depth,
        b"[" + b"[]," * depth + b"1]",
    ]
    flat = [
        b" " * depth,
        b'"' * depth,
        b"9" * depth,
        b'{"features":' + b"[" * depth,
        b"\xff\xfe{}",
        b"null",
        b"{}",
        b"NaN",
    ]
    return draw.choice(deep + flat)


def _safe_header(draw: random.Random, size: int) -> bytes:
    entries, start = [], 0
    for name in draw.choices(_SAFE_NAMES, k=draw.choice([1, 1, 2, 2, 3, 5])):
        end = draw.choice([size, start + size // 2, start + 240, start + 480, draw.randrange(size + 1)])
        offsets = draw.choice([[start, end], [start, end], [0, end], [end, start], [start + 1, end], [-8, end]])
        if draw.random() < 0.1:
            offsets = draw.choices(_NUMBERS, k=draw.choice([0, 1, 2, 2, 3]))
        info = {"dtype": draw.choice(_SAFE_DTYPES), "shape": _shape(draw), "data_offsets": offsets}
        odd = draw.choice([None, 3, [], {}, info | {"more": 1}, dict(list(info.items())[:2])])
        entries.append(f"{json.dumps(name)}:{json.dumps(odd if draw.random() < 0.1 else info)}")
        start = end
    entries += draw.choices(entries, k=int(draw.random() < 0.1))
    return b"{%s}" % ",".join(entries).encode() + draw.choice([b"", b" " * 8, b"\n", b"\0", b"}", b"\xff"])
