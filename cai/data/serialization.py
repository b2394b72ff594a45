"""One file for one object: tensors by safetensors, structure as JSON in its header. Loading executes no code.

Only classes registered by `serializable` are written and read, by the name in the register; an object of any other
kind (a user's callable, a live environment) is written as a named hole, and filled from what the caller gives.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
import re
import uuid
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from cai.data.spaces import GridSpace
from cai.errors import CorruptFile

FORMAT = "cai"
FORMAT_VERSION = 1

_REGISTER: dict[str, type] = {}
#: What an object must be split into where its dataclass fields are not it: name -> (to a dict, from a dict).
_CODECS: dict[str, tuple[Callable[[Any], dict[str, Any]], Callable[[dict[str, Any]], Any]]] = {}


class UnfilledHole(ValueError):
    """A file was saved without something that cannot be written, and the reader was not given it."""


def serializable(cls: type) -> type:
    """Registers a class for saving: a dataclass by its fields, another by its `pack()` and `unpack(parts)`.

    Raises:
        ValueError: Another class has the name.
    """
    if _REGISTER.get(cls.__name__, cls) is not cls:
        raise ValueError(f"a serializable class called {cls.__name__} exists already")
    _REGISTER[cls.__name__] = cls
    if hasattr(cls, "pack"):
        _CODECS[cls.__name__] = (cls.pack, cls.unpack)  # type: ignore[attr-defined]
    elif is_dataclass(cls):
        _CODECS[cls.__name__] = (_fields_of, lambda parts: cls(**parts))
    else:
        raise ValueError(f"{cls.__name__} is neither a dataclass nor has pack and unpack")
    return cls


def save(path: str | os.PathLike, kind: str, content: Any) -> None:
    """Writes an object to a file, atomically: a reader sees the old file or the new one.

    Args:
        path: Where to.
        kind: What it is, for the reader's error messages.
        content: The object.
    """
    need_directory(path)  # before the copying
    tensors: dict[str, Tensor] = {}
    tree = _encode(content, tensors, "")
    header = {"format": FORMAT, "version": str(FORMAT_VERSION), "kind": kind, "tree": json.dumps(tree)}
    write_atomically(path, safetensors.torch.save(tensors, header))


def write_atomically(path: str | os.PathLike, content: bytes) -> None:
    """Writes a file so that a reader sees the old one or the new one, whatever happens meanwhile.

    Raises:
        FileNotFoundError: There is no directory for it.
    """
    path = need_directory(path)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with open(temporary, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def remove_leftovers(path: str | os.PathLike) -> None:
    """Removes what writers of a file that were killed in the middle left behind."""
    path = Path(path)
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.*"):
        if re.fullmatch(r"[0-9a-f]{32}", leftover.suffix[1:]):
            leftover.unlink(missing_ok=True)


def need_directory(path: str | os.PathLike) -> Path:
    """Raises FileNotFoundError unless there is a directory for the file; gives the path."""
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"no directory {str(path.parent)!r} to write {path.name!r} to")
    return path


def fingerprint(content: Any) -> str:
    """Computes a digest of an object's content, equal in every process; callables count by their class."""
    tensors: dict[str, Tensor] = {}
    tree = json.dumps(_encode(content, tensors, ""))
    digest = hashlib.sha256(tree.encode())
    for key in sorted(tensors):
        digest.update(tensors[key].numpy().tobytes())
    return digest.hexdigest()


def load(path: str | os.PathLike, kind: str, holes: Callable[[str], Any]) -> Any:
    """Reads an object back.

    Args:
        path: Where from.
        kind: What it must be.
        holes: Gives what stands in a named hole; raises where it cannot.

    Raises:
        FileNotFoundError: There is no such file.
        CorruptFile: The file is truncated, foreign, of another kind or of a newer version.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file {str(path)!r}")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  (not a dict)
    except (safetensors.SafetensorError, OSError) as error:
        raise CorruptFile(f"{str(path)!r} is truncated or not a file of this library ({error})") from None
    if header.get("format") != FORMAT or "tree" not in header:
        raise CorruptFile(f"{str(path)!r} was not written by this library")
    if header.get("version") != str(FORMAT_VERSION):
        raise CorruptFile(
            f"{str(path)!r} has format version {header.get('version')}, this library reads {FORMAT_VERSION}"
        )
    if header.get("kind") != kind:
        raise CorruptFile(f"{str(path)!r} holds a {header.get('kind')}, not a {kind}")
    try:
        return _decode(json.loads(header["tree"]), tensors, holes)
    except UnfilledHole:
        raise
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise CorruptFile(f"{str(path)!r} is damaged: {type(error).__name__} {error}") from None


def _fields_of(value: Any) -> dict[str, Any]:
    return {field.name: getattr(value, field.name) for field in fields(value) if field.init}


def _encode(value: Any, tensors: dict[str, Tensor], name: str) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Tensor):
        tensors[key := f"{len(tensors)}{name}"] = value.detach().cpu().contiguous().clone()
        return {"tensor": key, "learned": value.requires_grad}
    if isinstance(value, np.ndarray):
        return _encode(torch.as_tensor(value), tensors, name)
    if isinstance(value, tuple | list):
        items = [_encode(item, tensors, f"{name}.{i}") for i, item in enumerate(value)]
        return {"tuple": items} if isinstance(value, tuple) else {"list": items}
    if isinstance(value, dict):
        pairs = [[_encode(k, tensors, name), _encode(v, tensors, f"{name}.{k}")] for k, v in value.items()]
        return {"dict": pairs}
    if isinstance(value, gymnasium.Space) and (space := _encode_space(value, tensors, name)) is not None:
        return space
    class_name = type(value).__name__
    if _REGISTER.get(class_name) is type(value):
        parts = _CODECS[class_name][0](value)
        return {"class": class_name, "parts": {k: _encode(v, tensors, f"{name}.{k}") for k, v in parts.items()}}
    return {"hole": name.lstrip(".") or "root", "was": class_name}


def _decode(node: Any, tensors: dict[str, Tensor], holes: Callable[[str], Any]) -> Any:
    if not isinstance(node, dict):
        return node
    if "tensor" in node:
        return tensors[node["tensor"]].requires_grad_(node["learned"])
    if "tuple" in node or "list" in node:
        items = [_decode(item, tensors, holes) for item in (node["tuple"] if "tuple" in node else node["list"])]
        return tuple(items) if "tuple" in node else items
    if "dict" in node:
        return {_decode(k, tensors, holes): _decode(v, tensors, holes) for k, v in node["dict"]}
    if "hole" in node:
        return holes(node["hole"])
    parts = {k: _decode(v, tensors, holes) for k, v in node["parts"].items()}
    if node["class"] in _SPACES:
        return _SPACES[node["class"]](**parts)
    if node["class"] not in _CODECS:
        raise CorruptFile(f"the file names a class {node['class']!r} that this library does not have")
    return _CODECS[node["class"]][1](parts)


def _box(low: Tensor, high: Tensor, dtype: str) -> gymnasium.spaces.Box:
    return gymnasium.spaces.Box(low.numpy(), high.numpy(), dtype=np.dtype(dtype).type)


_SPACES: dict[str, Callable[..., gymnasium.Space]] = {
    "Discrete": gymnasium.spaces.Discrete,
    "MultiDiscrete": lambda nvec: gymnasium.spaces.MultiDiscrete(nvec.numpy()),
    "Box": _box,
    "GridSpace": GridSpace,
}


def _encode_space(space: gymnasium.Space, tensors: dict[str, Tensor], name: str) -> Any:
    parts: dict[str, Any]
    if type(space) is gymnasium.spaces.Discrete:
        parts = {"n": int(space.n), "start": int(space.start)}
    elif type(space) is gymnasium.spaces.MultiDiscrete:
        parts = {"nvec": space.nvec}
    elif type(space) is gymnasium.spaces.Box:
        parts = {"low": space.low, "high": space.high, "dtype": str(space.dtype)}
    elif type(space) is GridSpace:
        keys = ("num_rows", "num_columns", "cells", "moves", "labels")
        parts = {key: getattr(space, key) for key in keys}
    else:
        return None
    encoded = {key: _encode(value, tensors, f"{name}.{key}") for key, value in parts.items()}
    return {"class": type(space).__name__, "parts": encoded}
