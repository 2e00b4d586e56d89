"""Files that survive a kill: atomic writes, hashed weights, append-only JSON lines. No pickle anywhere.

Weights are safetensors whose metadata carries the SHA-256 of their content, which is also what the server's ledger
records of a broadcast and the capture mod of a receipt, and a second one of the metadata; reading verifies both. Other
files may have their hash beside them (``save_hashed``).
"""

import hashlib
import io
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from tokenize import TokenError
from typing import Any, TypeVar, cast
from zipfile import BadZipFile

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as _serialise

from fedinverse.errors import IntegrityError

Weights = Mapping[str, NDArray[Any]]
T = TypeVar("T")
_ABOUT_SHA = "metadata-sha256"


def _umask() -> int:
    """Return the permissions that this process's user takes away from new files; reading it means setting it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


_UMASK = _umask()


def check_regular(path: Path) -> None:
    """Raise ``IntegrityError`` if ``path`` is a pipe, a device or the like: reading one may wait for ever."""
    if path.exists() and not path.is_file():
        raise IntegrityError(f"{path}: is no regular file")


def atomic_write(path: Path, content: bytes | str) -> None:
    """Write ``content`` to ``path`` so that a reader sees the old file or the whole new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_UMASK)  # noqa: PTH101 - mkstemp makes it private
        os.replace(temporary, path)  # noqa: PTH105 - atomic within one directory
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` atomically as indented JSON."""
    atomic_write(path, json.dumps(value, indent=2, sort_keys=True) + "\n")


def read_json(path: Path) -> Any:
    """Read JSON; a damaged file raises ``IntegrityError`` that names it."""
    check_regular(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise IntegrityError(f"{path}: not valid JSON ({error}); delete it to have it made again") from error


def save_array(path: Path, array: NDArray[Any]) -> None:
    """Write one array atomically as ``.npy`` (no pickle), so that readers can memory-map it."""
    buffer = io.BytesIO()
    np.save(buffer, np.asarray(array, order="C"), allow_pickle=False)
    atomic_write(path, buffer.getvalue())


def read_object(path: Path, *keys: str) -> dict[str, Any]:
    """Read a JSON object that has ``keys``; anything else raises ``IntegrityError`` that names file and key."""
    value = read_json(path)
    if not isinstance(value, dict):
        raise IntegrityError(f"{path}: holds no JSON object; delete it to have it made again")
    missing = [key for key in keys if key not in value]
    if missing:
        raise IntegrityError(f"{path}: lacks '{missing[0]}'; delete it to have it made again")
    return value


def typed(kind: type[T], value: Any, path: Path) -> T:
    """Return the JSON ``value`` that ``path`` holds as the dataclass ``kind``, every key known and of its type.

    Raises:
        IntegrityError: it does not fit; names the file and the key.
    """
    known = {field.name for field in fields(cast(Any, kind))}
    if not isinstance(value, dict) or not value.keys() <= known:
        surplus = sorted(map(str, value.keys() - known)) if isinstance(value, dict) else [json.dumps(value)[:40]]
        raise IntegrityError(f"{path}: {', '.join(surplus)} is not of a {kind.__name__}; the file was altered")
    try:
        return TypeAdapter(kind).validate_json(json.dumps(value), strict=True)
    except ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(map(str, problem["loc"]))
        raise IntegrityError(f"{path}: '{place}': {problem['msg']}; the file was altered") from None


def save_hashed(path: Path, content: bytes) -> None:
    """Write ``content`` atomically, then its SHA-256 into ``PATH.sha256``."""
    atomic_write(path, content)
    atomic_write(_hash_of(path), hashlib.sha256(content).hexdigest() + "\n")


def read_hashed(path: Path) -> bytes:
    """Return the bytes that ``save_hashed`` wrote; ``IntegrityError`` names a file that is absent or was altered.

    A file without a hash beside it (made elsewhere) is accepted.
    """
    check_regular(path)
    try:
        content = path.read_bytes()
        stored = _hash_of(path).read_bytes().strip() if _hash_of(path).exists() else None
    except OSError as error:
        raise IntegrityError(f"{path}: not readable ({error})") from error
    if stored is not None and stored != hashlib.sha256(content).hexdigest().encode():
        raise IntegrityError(f"{path}: its SHA-256 is not the one in {_hash_of(path).name}; the file was altered")
    return content


def _hash_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def load_array(path: Path, *, memory_mapped: bool = False) -> NDArray[Any]:
    """Read one array of ``.npy``; what is none raises ``IntegrityError`` that names the file."""
    check_regular(path)
    try:
        array = np.load(path, mmap_mode="r" if memory_mapped else None, allow_pickle=False)
    except (OSError, ValueError, EOFError, SyntaxError, TokenError, BadZipFile) as error:  # a header in Python; zipped
        raise IntegrityError(f"{path}: not a readable array ({error}); delete it") from error
    if not isinstance(array, np.ndarray):  # several, zipped
        raise IntegrityError(f"{path}: holds several arrays where one is read; delete it")
    return array


def append_jsonl(path: Path, *records: Mapping[str, Any]) -> None:
    """Append ``records``, one JSON object a line, durably. A line torn by an earlier kill is cut off first.

    Raises:
        IntegrityError: ``path`` is a link: what it leads to is somebody else's.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_symlink():
        raise IntegrityError(f"{path}: is a link to another file, which is not written to; remove it")
    check_regular(path)
    with path.open("a+b") as file:
        _cut_torn_line(file.fileno())
        file.write("".join(json.dumps(record, sort_keys=True) + "\n" for record in records).encode())
        file.flush()
        os.fsync(file.fileno())


def _cut_torn_line(handle: int) -> None:
    size = os.fstat(handle).st_size
    tail = os.pread(handle, min(size, 1 << 16), max(0, size - (1 << 16)))
    if tail and not tail.endswith(b"\n"):
        os.ftruncate(handle, size - len(tail) + tail.rfind(b"\n") + 1)


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Read JSON lines, each an object; a torn last line is left out, any other damage raises ``IntegrityError``."""
    if not path.exists():
        return []
    check_regular(path)
    *lines, last = path.read_bytes().split(b"\n")
    del last  # text after the last newline: empty, or torn
    try:
        records = [json.loads(line) for line in lines]
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise IntegrityError(f"{path}: a line is not valid JSON ({error})") from error
    if not all(isinstance(line, dict) for line in records):
        raise IntegrityError(f"{path}: a line is no JSON object")
    return records


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def content_sha256(value: Any) -> str:
    """Return the SHA-256 of a JSON-serialisable value in canonical form: the cache key of a configuration."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def weights_sha256(weights: Weights) -> str:
    """Return the SHA-256 of named arrays: name, dtype, shape and bytes of each, in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        array = np.asarray(weights[name])
        digest.update(f"{name}|{array.dtype.str}|{array.shape}|".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def save_weights(
    path: Path, weights: Weights, metadata: Mapping[str, str | int | float] | None = None, sha256: str = ""
) -> str:
    """Write named arrays atomically as safetensors with ``metadata`` and their SHA-256; return the hash.

    Args:
        sha256: ``weights_sha256(weights)``, where it is known.
    """
    arrays = {name: np.asarray(array, order="C") for name, array in weights.items()}
    sha = sha256 or weights_sha256(arrays)
    header = {key: str(value) for key, value in (metadata or {}).items()} | {"sha256": sha}
    # Alone, the content's hash needs no hash of its own; and of one key, unlike of several, safetensors writes the same
    # bytes every time.
    about = {_ABOUT_SHA: content_sha256(header)} if metadata else {}
    atomic_write(path, _serialise(arrays, metadata=header | about))
    return sha


def read_metadata(path: Path) -> dict[str, str]:
    """Return the metadata of a safetensors file (no array is read); what does not fit its own hash is refused."""
    check_regular(path)
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise IntegrityError(f"{path}: not a readable safetensors file ({error})") from error
    stored = metadata.pop(_ABOUT_SHA, None)
    if stored is not None and stored != content_sha256(metadata):
        raise IntegrityError(f"{path}: its metadata does not match its hash; the file was altered, delete it")
    return metadata


def load_weights(path: Path, *, finite: bool = True) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """Read arrays and metadata; verify the stored SHA-256 and, unless ``finite`` is False, that all are finite.

    bfloat16 becomes float32.

    Raises:
        IntegrityError: unreadable, truncated, altered (hash mismatch), or holding NaN or infinity. A file without
            a stored hash (made elsewhere) is accepted; its hash is computed and put into the metadata.
    """
    metadata = read_metadata(path)
    try:
        with safe_open(path, framework="pt") as file:  # numpy does not know every type that such a file may hold
            weights = {name: _as_numpy(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, OSError) as error:
        raise IntegrityError(f"{path}: not a readable safetensors file ({error})") from error
    except (TypeError, RuntimeError, ValueError) as error:
        raise IntegrityError(f"{path}: holds arrays of a type that is not read here ({error}); save float32") from error
    sha = weights_sha256(weights)
    if metadata.setdefault("sha256", sha) != sha:
        raise IntegrityError(
            f"{path}: content hash {sha[:12]} does not match the recorded {metadata['sha256'][:12]}; "
            "the file was altered, delete it"
        )
    if finite:
        check_finite(weights, str(path))
    return weights, metadata


def check_finite(weights: Weights, origin: str) -> None:
    """Raise ``IntegrityError`` naming ``origin`` and the array if any value is NaN or infinite."""
    for name, array in weights.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise IntegrityError(f"{origin}: array '{name}' holds NaN or infinite values")


def to_weights(module: torch.nn.Module) -> dict[str, NDArray[Any]]:
    """Return a module's parameters and buffers as named numpy arrays (copies, on the CPU, contiguous).

    bfloat16, which numpy does not know, becomes float32: the same values.
    """
    return {name: _as_numpy(value) for name, value in module.state_dict().items()}


def _as_numpy(value: torch.Tensor) -> NDArray[Any]:
    dtype = torch.float32 if value.dtype == torch.bfloat16 else value.dtype
    copied = value.detach().to("cpu", dtype, copy=True, memory_format=torch.contiguous_format)
    return copied.numpy()


def into_module(module: torch.nn.Module, weights: Weights, origin: str) -> None:
    """Copy ``weights`` into ``module`` in place, strictly.

    Raises:
        IntegrityError: names or shapes differ; the message names ``origin``, the array and both shapes.
    """
    state = module.state_dict()
    missing, extra = sorted(state.keys() - weights.keys()), sorted(weights.keys() - state.keys())
    if missing or extra:
        raise IntegrityError(
            f"{origin}: arrays do not fit {type(module).__name__}: missing {missing[:3]}, unexpected {extra[:3]}"
        )
    with torch.no_grad():
        for name, tensor in state.items():
            array = np.asarray(weights[name])
            if tuple(array.shape) != tuple(tensor.shape):
                raise IntegrityError(
                    f"{origin}: array '{name}' has shape {tuple(array.shape)}, "
                    f"{type(module).__name__} needs {tuple(tensor.shape)}"
                )
            tensor.copy_(torch.from_numpy(array if array.flags.writeable else np.array(array)))
