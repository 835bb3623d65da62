"""What crosses the fence: frames, and values by exact built-in type."""

import json
import os
from typing import Any

MAX_DEPTH = 200
_SCALARS = (bool, int, str, type(None))


class UnserializableError(ValueError):
    """A value has a type that does not cross the fence."""


def encode(value: Any, depth: int = 0) -> Any:
    """Turn a value into tagged JSON.

    Only the exact built-in types pass: a subclass may redefine equality, and equality is what is to be judged.

    Raises:
        UnserializableError: another type, or deeper than `MAX_DEPTH`.
    """
    if depth > MAX_DEPTH:
        raise UnserializableError("nested too deeply")
    kind = type(value)
    if kind in _SCALARS:
        return value
    if kind is float:
        return {"float": value.hex()}
    if kind is bytes:
        return {"bytes": value.hex()}
    if kind is complex:
        return {"complex": [value.real.hex(), value.imag.hex()]}
    if kind is list:
        return [encode(item, depth + 1) for item in value]
    if kind is tuple:
        return {"tuple": [encode(item, depth + 1) for item in value]}
    if kind in (set, frozenset):
        items = [encode(item, depth + 1) for item in value]
        return {kind.__name__: sorted(items, key=lambda item: json.dumps(item, sort_keys=True))}
    if kind is dict:
        pairs = value.items()
        return {"dict": [[encode(key, depth + 1), encode(item, depth + 1)] for key, item in pairs]}
    raise UnserializableError(f"a value of type {kind.__module__}.{kind.__qualname__} does not cross the fence")


def decode(data: Any) -> Any:
    """Turn tagged JSON back into a value; the inverse of `encode`.

    Raises:
        ValueError: the data was not made by `encode`.
    """
    if isinstance(data, list):
        return [decode(item) for item in data]
    if not isinstance(data, dict):
        return data
    if len(data) != 1:
        raise ValueError("a tagged value has one tag")
    (tag, content), *_ = data.items()
    match tag:
        case "float":
            return float.fromhex(content)
        case "bytes":
            return bytes.fromhex(content)
        case "complex":
            return complex(*map(float.fromhex, content))
        case "tuple":
            return tuple(decode(item) for item in content)
        case "set":
            return {decode(item) for item in content}
        case "frozenset":
            return frozenset(decode(item) for item in content)
        case "dict":
            return {decode(key): decode(item) for key, item in content}
    raise ValueError(f"unknown tag {tag!r}")


def write_frame(handle: int, document: Any) -> None:
    """Write one length-prefixed JSON document."""
    data = json.dumps(document).encode()
    view = memoryview(len(data).to_bytes(8, "big") + data)
    while view:
        view = view[os.write(handle, view) :]


def read_frame(handle: int, limit: int) -> Any:
    """Read one length-prefixed JSON document.

    Raises:
        EOFError: the other side closed.
        ValueError: the document is longer than the limit, or not JSON.
    """
    size = int.from_bytes(_exactly(handle, 8), "big")
    if size > limit:
        raise ValueError(f"a frame of {size} bytes exceeds the limit of {limit}")
    return json.loads(_exactly(handle, size))


def _exactly(handle: int, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        chunk = os.read(handle, min(65536, size - len(data)))
        if not chunk:
            raise EOFError("the other side closed")
        data += chunk
    return bytes(data)
