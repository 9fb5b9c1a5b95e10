"""Corpora: five known texts, verified byte for byte, and any text file of your own."""

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

TIMEOUT = 20  # seconds that a server may stay silent
FALLBACK = "python-docs"
_GITHUB = "https://raw.githubusercontent.com"
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


@dataclass(frozen=True)
class Known:
    """File name, checksum and addresses of a known corpus.

    `sha256` is that of the file's bytes or, with `gutenberg`, of the canonical text
    (`gutenberg_body`, as UTF-8), because Project Gutenberg's served bytes change.
    """

    sha256: str
    length: int  # characters
    urls: tuple[str, ...]
    file: str
    gutenberg: bool = False
    part: int | None = None  # which third of the stand-in serves for this book


KNOWN = {
    "nietzsche": Known(
        sha256="23cf69874ab69d3d256099ab530ea4be24d47d9675b673bcc67cbcd6298ec647",
        length=600_893,
        urls=(
            f"{_GITHUB}/mattdangerw/keras-text-generation/"
            "58c870ac2482e3145045fd5d7c019add39ae0456/data/nietzsche/input.txt",
            "https://s3.amazonaws.com/text-datasets/nietzsche.txt",
        ),
        file="nietzsche.txt",
    ),
    "tinyshakespeare": Known(
        sha256="86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
        length=1_115_394,
        urls=(
            f"{_GITHUB}/karpathy/char-rnn/"
            "d1d7aa34fdb3626174bce1d753e6cc6845ce7087/data/tinyshakespeare/input.txt",
            f"{_GITHUB}/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
        ),
        file="tinyshakespeare.txt",
    ),
    "timemachine": Known(
        sha256="8424dbd9532ac81f7e5f0b6add90e6952baea29158309d7d1bf3884f4e12c516",
        length=178_979,
        urls=(
            f"{_GITHUB}/d2l-ai/d2l-zh/5918a8b9e8dd92e5085c15118e76c919b04f09a7/data/timemachine.txt",
            "http://d2l-data.s3-accelerate.amazonaws.com/timemachine.txt",
        ),
        file="timemachine.txt",
        part=0,
    ),
    "war_of_the_worlds": Known(
        sha256="045c25c6fec21e75f74c9cc0cce1b9c7d90841085c21e3408ced715469c05f98",
        length=337_430,
        urls=(
            f"{_GITHUB}/denisgaudare/tempopython/"
            "f7ddcdd5f1ba03e302c8d495d2a357a7d0790a5f/data/pg36.txt",
            "https://www.gutenberg.org/cache/epub/36/pg36.txt",
        ),
        file="war_of_the_worlds.txt",
        gutenberg=True,
        part=1,
    ),
    "secret_history_court_of_spain": Known(
        sha256="8b691a73e46aca8595885ff026f31e1f1ced02ead20f3fb9b0718d6a1c5fd42c",
        length=518_808,
        urls=(
            f"{_GITHUB}/GITenberg/"
            "The-secret-history-of-the-court-of-Spain-during-the-last-century_71557/"
            "73e129f9db96aed7873aa5211d190d9d1d6664eb/71557-0.txt",
            "https://www.gutenberg.org/cache/epub/71557/pg71557.txt",
        ),
        file="secret_history_court_of_spain.txt",
        gutenberg=True,
        part=2,
    ),
}


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
        if fallback is None or os.environ.get("CHARLM_RECORD"):
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
        if path is not None and path.is_file():
            try:
                return _verified(name, path.read_bytes(), str(path))
            except (ValueError, OSError) as error:
                if problems is not None:
                    problems.append(str(error))
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
    text = _decode(path.read_bytes(), path).removeprefix("\ufeff")
    return Corpus(path.stem, text.replace("\r\n", "\n"), str(path))


def _decode(data: bytes, path: Path) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is not UTF-8: byte {data[error.start]:#04x} at offset {error.start}; "
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
            except (OSError, ValueError) as error:
                problems.append(f"{urlsplit(url).netloc}: {error}")
    raise _unavailable(name, problems)


def _data_folder() -> Path | None:
    folder = os.environ.get("CHARLM_DATA")
    if not folder:
        return None
    if not Path(folder).is_dir():
        raise NotADirectoryError(f"CHARLM_DATA is set to {folder}, which is no folder")
    return Path(folder)


def _verified(name: str, data: bytes, source: str) -> Corpus:
    known = KNOWN[name]
    text = _decode(data, Path(source))
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
        download_url(url, part, timeout=TIMEOUT, show_progress=False)
        data = part.read_bytes()
        name = next(key for key, value in KNOWN.items() if value is known)
        _verified(name, data, url)
        part.replace(target)
        return data
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
