"""Corpora: five known texts, verified byte for byte, and any text file of your own."""

import contextlib
import hashlib
import os
import re
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from urllib.parse import urlsplit

from charlm_utils.known_corpora import KNOWN, Known

TIMEOUT = 20  # seconds that a server may stay silent
FALLBACK = "python-docs"
_stand_ins: list[str] = []  # corpora that this process could not get


class CorpusUnavailable(RuntimeError):
    """A known corpus is neither on this machine nor to be had; `reason` says why in short."""

    def __init__(self, message: str, reason: str = ""):
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class Corpus:
    """A text and where it came from; `genuine` is False only for a stand-in."""

    name: str
    text: str
    source: str
    genuine: bool = True

    def __len__(self) -> int:
        return len(self.text)


def load_corpus(name_or_path: str | os.PathLike, *, fallback: str | None = None) -> Corpus:
    """Return a known corpus by name, `python-docs`, or the UTF-8 text file at a path.

    A known corpus is looked for in `$CHARLM_DATA`, then in fastdownload's cache, then
    downloaded; its checksum is always verified. With `fallback="python-docs"` a corpus
    that can't be had is replaced by the text every Python carries, and one line says so.

    Raises `CorpusUnavailable` (a known corpus that can't be had), `FileNotFoundError`,
    `IsADirectoryError` or `ValueError` (not UTF-8) with the path in the message.
    """
    name = os.fspath(name_or_path)
    if fallback not in (None, FALLBACK):
        raise ValueError(f"fallback must be None or {FALLBACK!r}, not {fallback!r}")
    if name == FALLBACK:
        return Corpus(FALLBACK, python_docs(), "pydoc_data.topics of this Python")
    if name not in KNOWN:
        return _own_text(Path(name))
    try:
        return _known_text(name)
    except CorpusUnavailable as error:
        if fallback is None or os.environ.get("CHARLM_RECORD") == "1":
            raise
        print(f"{name} can't be had here ({error.reason}); python-docs stands in for it.")
        return stand_in(name)


def letters_only(text: str) -> str:
    """Keep a-z and the space: each run of other characters becomes one space (d2l's cleaning)."""
    return re.sub("[^a-z]+", " ", re.sub("[A-Z]", lambda m: m[0].lower(), text))


def python_docs() -> str:
    """The language reference that ships with Python, as one text (differs by version)."""
    from pydoc_data.topics import topics

    return "\n".join(topics[key] for key in sorted(topics))


def stand_in(name: str) -> Corpus:
    """Python's documentation in place of a known corpus, never longer than that corpus."""
    text, known = python_docs(), KNOWN[name]
    if known.part is not None:  # the three books of appendix A2 must not overlap
        third = len(text) // 3
        text = text[known.part * third : (known.part + 1) * third]
    _stand_ins.append(name)
    return Corpus(name, text[: known.length], "python-docs, standing in", genuine=False)


def stand_in_used() -> bool:
    """Whether any corpus of this process is a stand-in: then no figure is the book's."""
    return bool(_stand_ins)


def gutenberg_body(text: str) -> str:
    """The text between Project Gutenberg's START and END lines: no mark, LF, stripped."""
    text = text.removeprefix("\ufeff").replace("\r\n", "\n")
    start = re.search(r"\*\*\* ?START OF.*?\*\*\*", text, re.DOTALL)
    end = re.search(r"\*\*\* ?END OF", text)
    if start is None or end is None:
        return text.strip()
    return text[start.end() : end.start()].strip()


def find_local(name: str, problems: list[str] | None = None) -> Corpus | None:
    """A known corpus from `$CHARLM_DATA` or the cache; why a copy failed goes to `problems`."""
    for folder in (_data_folder(), cache_folder()):
        path = folder / KNOWN[name].file if folder else None
        try:
            if path is not None and path.is_file():
                return _verified(name, path.read_bytes(), str(path))
        except (ValueError, OSError) as error:
            if problems is not None:
                problems.append(_in_short(error))
    return None


def cache_folder() -> Path:
    """fastdownload's archive folder, without creating anything."""
    return Path("~/.fastdownload/archive").expanduser()


def _own_text(path: Path) -> Corpus:
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; name a text file in it")
    if not path.exists():
        raise FileNotFoundError(
            f"{path} is no file, and no known corpus: {', '.join([*KNOWN, FALLBACK])}"
        )
    text = _decode(path.read_bytes(), str(path)).removeprefix("\ufeff")
    return Corpus(path.stem, text.replace("\r\n", "\n"), str(path))


def _decode(data: bytes, source: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{source} is not UTF-8: byte {data[error.start]:#04x} at offset {error.start}; "
            "save it as UTF-8 and try again"
        ) from None


def _known_text(name: str) -> Corpus:
    known = KNOWN[name]
    problems: list[str] = []
    if (corpus := find_local(name, problems)) is not None:
        return corpus
    if os.environ.get("CHARLM_OFFLINE") == "1":
        problems.append("CHARLM_OFFLINE=1")
    else:
        for url in known.urls:
            try:
                return _verified(name, _download(url, known), url)
            except (OSError, ValueError, HTTPException) as error:
                problems.append(f"{urlsplit(url).netloc}: {_in_short(error)}")
    raise _unavailable(name, problems)


def _in_short(error: Exception) -> str:
    """The first line of an error's text: a server's answer may bring a whole page along."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0] if len(lines[0]) <= 300 else f"{lines[0][:300]}…"


def _data_folder() -> Path | None:
    folder = os.environ.get("CHARLM_DATA")
    if not folder:
        return None
    if not Path(folder).is_dir():
        raise NotADirectoryError(f"CHARLM_DATA is set to {folder}, which is no folder")
    return Path(folder)


def _verified(name: str, data: bytes, source: str) -> Corpus:
    known = KNOWN[name]
    text = _decode(data, source)
    if known.gutenberg:
        text = gutenberg_body(text)
        data = text.encode("utf-8")
    found = hashlib.sha256(data).hexdigest()
    if found != known.sha256:
        raise ValueError(f"{source}: SHA-256 is {found[:12]}…, expected {known.sha256[:12]}…")
    return Corpus(name, text, source)


def _download(url: str, known: Known) -> bytes:
    """Fetch to a `.part` file, verify, then move into the cache; nothing half-written stays."""
    from fastdownload import download_url

    target = cache_folder() / known.file
    part = target.with_name(f"{target.name}.{os.getpid()}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.redirect_stdout(None):  # it prints a stray bar
            download_url(url, part, timeout=TIMEOUT, show_progress=False)
        data = part.read_bytes()
        name = next(key for key, value in KNOWN.items() if value is known)
        _verified(name, data, url)
        part.replace(target)
        return data
    except NameError:  # fastcore means to raise ContentTooShortError, and lacks that name
        raise OSError("the server broke off before the end") from None
    finally:
        for left in target.parent.glob(f"{part.name}*"):
            left.unlink(missing_ok=True)


def _unavailable(name: str, problems: list[str]) -> CorpusUnavailable:
    known = KNOWN[name]
    reason = "; ".join(problems)
    return CorpusUnavailable(
        f"The corpus {name} can't be had: {reason}.\nThree cures:\n"
        f"  1. put {known.file} into a folder and set CHARLM_DATA to that folder "
        f"(address: {known.urls[-1]});\n"
        "  2. connect to the network and call again: it is downloaded once and kept;\n"
        f'  3. go on without it: load_corpus("{name}", fallback="{FALLBACK}"), '
        f"or charlm train {FALLBACK}.",
        reason,
    )
