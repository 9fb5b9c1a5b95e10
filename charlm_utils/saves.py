"""Files saved in one step, and files read without trust.

A save writes its files into the sub-folder `.save.part`, forces them to disk and renames it to
`.save`. That rename is the switch: before it the old files stand, after it the new ones do. Then
the files move from `.save` to their own places, one by one. A reader looks into `.save` first,
so that a save killed among the moves reads as the new one; killed before the switch, it never
was. Whoever locks the folder next moves on or sweeps away what is there.

Whatever is wrong with a file that is read, the error is one `CheckpointError` of one line.
"""

import contextlib
import errno
import hashlib
import json
import math
import os
import shutil
import stat
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError
from safetensors.torch import load as from_bytes
from torch import Tensor

try:
    import fcntl
except ImportError:  # Windows
    import msvcrt


PART, READY, LOCK = ".save.part", ".save", ".lock"
JSON_LIMIT = 16 * 2**20  # bytes; a thousand epochs take a tenth of a megabyte
HEADER_LIMIT = 2**20  # bytes; a hundred layers take a twentieth of it
BITS = {"F64": 64, "F32": 32, "F16": 16, "BF16": 16, "I64": 64, "I32": 32, "I16": 16, "I8": 8}
BITS |= {"U8": 8, "BOOL": 8, "U16": 16, "U32": 32, "U64": 64, "C64": 64, "F8_E4M3": 8, "F8_E5M2": 8}
Header = dict[str, tuple[str, tuple[int, ...]]]  # the type (F32 …) and shape of each tensor


class CheckpointError(ValueError):
    """A checkpoint that can't be read or does not fit; the message names file and field."""


# ---- writing ----------------------------------------------------------------------------------


def write_files(folder: str | os.PathLike, files: dict[str, bytes]) -> None:
    """Put all files into a folder (made if missing) in one step; others there stay.

    Whatever happens, the folder reads as before or as after, and what is as after is on disk.
    Raises `OSError` where it can't be written, `CheckpointError` while another run holds it.
    """
    folder = Path(folder)
    with lock_folder(folder):
        _finish(folder)
        for name in files:
            if (folder / name).is_dir():
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), folder / name)
        part = folder / PART
        try:
            os.mkdir(part)
            for name, data in files.items():
                _write(part / name, data)
            _sync_folder(part)
            os.rename(part, folder / READY)  # the switch
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise
        _sync_folder(folder)
        _finish(folder)


def _finish(folder: Path) -> None:
    """Complete a save that was killed after its switch; sweep one killed before it."""
    ready = folder / READY
    if ready.is_dir():
        for name in sorted(os.listdir(ready)):
            os.replace(ready / name, folder / name)
        os.rmdir(ready)
        _sync_folder(folder)
    if (folder / PART).is_dir():
        shutil.rmtree(folder / PART)
    for part in folder.glob(".*.*.[0-9]*.part"):  # as earlier versions left them
        os.unlink(part)


def _write(path: Path, data: bytes) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
    try:
        rest = memoryview(data)
        while len(rest):
            rest = rest[os.write(handle, rest) :]
        os.fsync(handle)
    finally:
        os.close(handle)


def _sync_folder(folder: Path) -> None:
    """Force names to disk. Windows has no such call, and some file systems refuse it."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(handle)


_mine: set[tuple[str, int, int]] = set()  # folder, process and thread of the locks held here


@contextlib.contextmanager
def lock_folder(folder: str | os.PathLike) -> Iterator[None]:
    """Keep every other run out of a folder, which is made if missing.

    The thread that holds it may enter again. The operating system gives the lock back when the
    process ends, in whatever way. Raises `CheckpointError` naming the folder while another run
    holds it, `OSError` where it can't be written.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    key = (os.path.realpath(folder), os.getpid(), threading.get_ident())
    if key in _mine:
        yield
        return
    handle = take_lock(folder / LOCK)
    if handle is None:
        raise CheckpointError(f"{folder} is in use by another run")
    _mine.add(key)
    try:
        _finish(folder)
        yield
    finally:
        _mine.discard(key)
        give_back_lock(handle, folder / LOCK)


def take_lock(path: Path) -> int | None:
    """A lock file, made if missing, opened and held; None while another process holds it.

    The operating system gives the lock back when the process ends, in whatever way: a file that
    is left over locks nobody out. Else `give_back_lock` does.
    """
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            held = _lock(handle)
            with contextlib.suppress(FileNotFoundError):
                if held and os.path.samestat(os.fstat(handle), os.stat(path)):
                    return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)
        if not held:  # else its holder removed the file while we waited at it
            return None


def _lock(handle: int) -> bool:
    """Whether the open file is now this process's, as far as its file system knows locks."""
    try:
        if sys.platform == "win32":
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in (errno.EAGAIN, errno.EACCES)  # else nobody can be kept out
    return True


def give_back_lock(handle: int, path: Path) -> None:
    """Remove the file while it is still locked; Windows removes no open file, so there after."""
    try:
        if os.name != "nt":
            with contextlib.suppress(OSError):
                os.unlink(path)
    finally:  # a second Ctrl-C may come here, too
        os.close(handle)
    if os.name == "nt":
        with contextlib.suppress(OSError):
            os.unlink(path)


# ---- reading ----------------------------------------------------------------------------------


def exists(path: Path) -> bool:
    """Whether there is such a file, in its place or in a save that was not finished."""
    return (path.parent / READY / path.name).exists() or path.exists()


@contextlib.contextmanager
def open_file(path: Path) -> Iterator[BinaryIO]:
    """A plain file, open for reading, in its place or in a save that was not finished."""
    try:
        with _open(path) as file:
            yield file
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file") from None
    except OSError as error:
        raise CheckpointError(f"{path}: can't be read ({error.strerror})") from None
    except MemoryError:
        raise CheckpointError(f"{path}: too large for this machine's memory") from None


def _open(path: Path) -> BinaryIO:
    for place in (path.parent / READY / path.name, path):
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            if not stat.S_ISREG(os.stat(place).st_mode):  # a pipe or a device never ends
                raise CheckpointError(f"{path}: not a plain file")
            return open(place, "rb")
    raise FileNotFoundError


def read_file(path: Path, most: int = JSON_LIMIT) -> bytes:
    """The bytes of a plain file of at most so many, or `CheckpointError`."""
    with open_file(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > most:
            raise CheckpointError(f"{path}: {size:,} bytes, more than the {most:,} that are read")
        return file.read()


def read_json(path: Path) -> dict:
    """The object in a JSON file, or `CheckpointError`."""
    return parse_json(read_file(path), path)


def parse_json(data: bytes, path: Path) -> dict:
    """The object in the bytes of a JSON file, or `CheckpointError` naming `path`."""
    try:
        value = json.loads(data.decode("utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{path}: not a JSON file ({short(error)})") from None
    except RecursionError:
        raise CheckpointError(f"{path}: nested too deeply") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: holds no JSON object")
    return value


def read_field(saved: dict, name: str, kind: type, path: Path) -> Any:
    """The field `name`, which must be there and of this kind."""
    if not isinstance(saved.get(name), kind):
        raise CheckpointError(f"{path}: the field {name} is missing or no {kind.__name__}")
    return saved[name]


def to_json(value: dict) -> bytes:
    """An object as the bytes of a JSON file."""
    return (json.dumps(value, ensure_ascii=False, indent=1) + "\n").encode("utf-8")


def short(value: object) -> str:
    """A value as a message shows it: one line, not long."""
    try:
        text = str(value)
    except (RecursionError, ValueError):  # nested, or an integer of very many digits
        text = f"a {type(value).__name__}"
    text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text[:121])
    return text if len(text) <= 120 else text[:119] + "…"


def portable(tensor: Tensor) -> Tensor:
    """A copy of a tensor on the CPU, as safetensors wants it."""
    return tensor.detach().to("cpu").contiguous().clone()


def read_tensors(
    path: Path,
    check: Callable[[Header], None] | None = None,
    sums: dict[str, str] | None = None,
    of: str = "config.json",
) -> dict[str, Tensor]:
    """All tensors of a safetensors file, or `CheckpointError`.

    `check` sees names, types and shapes before any number is read. `sums` holds checksums by
    file name, found in the file `of`. Copied to memory of their own: in the file they lie at any
    address, and the last bit of a matrix product depends on how its operands are aligned.
    """
    with open_file(path) as file:
        header = _header(file, path)
        if check is not None:
            check(header)
        file.seek(0)
        data = file.read()
    check_sum(path, data, sums, of)
    try:
        return {name: tensor.clone() for name, tensor in from_bytes(data).items()}
    except (SafetensorError, ValueError, KeyError, MemoryError) as error:
        raise CheckpointError(f"{path}: not a whole safetensors file ({short(error)})") from None


def _header(file: BinaryIO, path: Path) -> Header:
    """The table at the start: it must account for the size of the file, to the byte."""
    size, start = os.fstat(file.fileno()).st_size, file.read(8)
    length = int.from_bytes(start, "little")
    if len(start) < 8 or length > size - 8:
        raise CheckpointError(f"{path}: not a whole safetensors file (it has {size} bytes)")
    if length > HEADER_LIMIT:
        raise CheckpointError(f"{path}: a header of {length:,} bytes")
    entries, found, total = parse_json(file.read(length), path), {}, 0
    entries.pop("__metadata__", None)
    for name, entry in entries.items():
        try:
            kind, shape = entry["dtype"], tuple(entry["shape"])
            sizes = all(type(n) is int and 0 <= n < 2**48 for n in shape) and len(shape) < 9
            bits = BITS[kind] * math.prod(shape) if sizes else None
        except (TypeError, KeyError):
            bits = None
        if bits is None:
            raise CheckpointError(f"{path}: the entry of {short(name)} is no tensor's")
        found[name], total = (kind, shape), total + bits // 8
    if total != size - 8 - length:
        wanted = 8 + length + total
        raise CheckpointError(f"{path}: not a whole safetensors file ({size} bytes of {wanted})")
    return found


def check_finite(path: Path, tensors: dict[str, Tensor]) -> None:
    """Raise `CheckpointError` naming the first tensor with a NaN or an infinity in it."""
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise CheckpointError(f"{path}: {name} holds numbers that are not finite")


# ---- checksums --------------------------------------------------------------------------------


def checksum(data: bytes) -> str:
    """SHA-256, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def check_sum(path: Path, data: bytes, sums: dict[str, str] | None, of: str) -> None:
    """Raise `CheckpointError` unless a file is the one whose checksum stands in the file `of`."""
    if sums and checksum(data) != sums.get(path.name):
        raise CheckpointError(f"{path}: damaged, or not of the same save as {of} (sha256)")


def sign(name: str, value: dict) -> bytes:
    """A JSON file whose field `sha256` holds checksums of other files: its own is added.

    It is taken over what is written here, without itself.
    """
    return to_json(value | {"sha256": value["sha256"] | {name: checksum(to_json(value))}})


def read_signed(path: Path, others: set[str], optional: set[str] | None = None) -> dict:
    """A JSON file made by `sign`, whose `sha256` names itself and the files `others`.

    Earlier versions did not sign: the field may name only `optional`, or, if that is empty,
    be missing.
    """
    value, optional = read_json(path), optional or set()
    if not optional and "sha256" not in value:
        return value
    sums = read_field(value, "sha256", dict, path)
    if not all(isinstance(text, str) for text in sums.values()):
        raise CheckpointError(f"{path}: the field sha256 holds other than checksums")
    if optional and sums.keys() == optional:
        return value
    if sums.keys() != others | {path.name}:
        raise CheckpointError(f"{path}: the field sha256 names other files: {short(list(sums))}")
    rest = value | {"sha256": {name: sums[name] for name in sums if name != path.name}}
    try:
        own = checksum(to_json(rest))
    except (ValueError, RecursionError):
        own = None
    if own != sums[path.name]:
        raise CheckpointError(f"{path}: damaged (sha256)")
    return value
