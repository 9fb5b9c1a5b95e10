"""Corpora: five known texts, verified byte for byte, and any text file of your own."""

import contextlib
import hashlib
import os
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from charlm_utils.download import fetch

_GITHUB = "https://raw.githubusercontent.com"


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

    @property
    def limit(self) -> int:
        """Bytes that a copy of the file may have at most.

        A character takes at most four bytes in UTF-8; Gutenberg's header and licence take 20,000.
        """
        return 4 * self.length + 100_000


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
TIMEOUT = 20  # seconds that a server may stay silent
DEADLINE = 60  # seconds that one address may take in all
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
    `IsADirectoryError`, `ValueError` (empty, not UTF-8) or another `OSError`, each with the
    path in its message.
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


def cache_folder() -> Path | None:
    """fastdownload's archive folder, without creating anything; None for a user without a home."""
    try:
        return Path("~/.fastdownload/archive").expanduser()
    except RuntimeError:  # no HOME, and the system does not know this user, as in a container
        return None


def _own_text(path: Path) -> Corpus:
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; name a text file in it")
    if not path.exists():
        raise FileNotFoundError(
            f"{path} is no file, and no known corpus: {', '.join([*KNOWN, FALLBACK])}"
        )
    if path.is_char_device() or path.is_block_device():  # /dev/zero never ends
        raise ValueError(f"{path} is a device; name a text file")
    text = _decode(path.read_bytes(), str(path), cure=True).removeprefix("\ufeff")
    if not text:
        raise ValueError(f"{path} is empty: there is no text in it")
    return Corpus(path.stem, text.replace("\r\n", "\n"), str(path))


# ---- bytes to text ----------------------------------------------------------------------------

# how a file begins, its encoding, what iconv calls it (it reads the mark), what PowerShell does
MARKS = (
    (b"\xff\xfe\0\0", "UTF-32", "UTF-32", "UTF32"),
    (b"\0\0\xfe\xff", "UTF-32", "UTF-32", "UTF32"),
    (b"\xff\xfe", "UTF-16", "UTF-16", "Unicode"),
    (b"\xfe\xff", "UTF-16", "UTF-16", "BigEndianUnicode"),
)


def _decode(data: bytes, source: str, *, cure: bool = False) -> str:
    if (wide := _wide(data)) is not None:
        encoding, sign, iconv, shell = wide
        cured = f"; {_cure(source, iconv, shell)}" if cure else ""
        raise ValueError(f"{source} is {encoding}, not UTF-8: {sign}{cured}")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{source} is not UTF-8: byte {data[error.start]:#04x} at offset {error.start}; "
            "save it as UTF-8 and try again"
        ) from None
    if len(text) > 3 and text.count("\0") > len(text) // 4:
        raise ValueError(
            f"{source} is no text: {text.count(chr(0)):,} of its {len(text):,} characters are "
            "U+0000, as in a UTF-16 file that was converted as if it were Latin-1; "
            "convert the original from UTF-16"
        )
    return text


def _wide(data: bytes) -> tuple[str, str, str, str] | None:
    """UTF-16 or UTF-32, by its mark or its zeros: its name, the sign, and two tools' names for it.

    Without a mark, text in an alphabet has a zero in every second byte: the first of each pair
    (big-endian) or the second. UTF-8 text has none.
    """
    for mark, encoding, iconv, shell in MARKS:
        if data.startswith(mark):
            return encoding, f"it begins with the mark {mark.hex(' ')}", iconv, shell
    start = data[: 2**16]
    pairs = len(start) // 2
    for first, iconv, shell in ((1, "UTF-16LE", "Unicode"), (0, "UTF-16BE", "BigEndianUnicode")):
        zeros = start[first::2].count(0)
        if pairs > 1 and zeros > pairs // 2 and start[1 - first :: 2].count(0) < zeros // 4:
            order = ("first", "second")[first]
            return "UTF-16", f"the {order} byte of most pairs is zero", iconv, shell
    return None


def _cure(source: str, iconv: str, shell: str) -> str:
    """Two command lines that make it UTF-8: for Linux and macOS, and for Windows."""
    quoted = source.replace("'", "''")
    return (
        f"convert it: iconv -f {iconv} -t UTF-8 {shlex.quote(source)} > new.txt (in PowerShell: "
        f"Get-Content -Raw -Encoding {shell} -LiteralPath '{quoted}' | "
        "Set-Content -NoNewline -Encoding utf8 new.txt)"
    )


# ---- known texts ------------------------------------------------------------------------------


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
                return _download(name, url)
            except (OSError, ValueError) as error:
                problems.append(f"{urlsplit(url).netloc}: {_in_short(error)}")
    raise _unavailable(name, problems)


def _in_short(error: Exception) -> str:
    """The first line of an error's text, in characters that only print.

    A server's answer may bring a whole page along, and orders to a terminal.
    """
    lines = str(error).strip().splitlines() or [type(error).__name__]
    line = "".join(c if c.isprintable() else "\ufffd" for c in lines[0])
    return line if len(line) <= 300 else f"{line[:300]}…"


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


def _download(name: str, url: str) -> Corpus:
    """Fetch, verify, and keep a copy in the cache if there can be one."""
    known = KNOWN[name]
    data = fetch(url, limit=known.limit, silence=TIMEOUT, seconds=DEADLINE)
    corpus = _verified(name, data, url)
    with contextlib.suppress(OSError):  # a full disk or no home is no reason to refuse a good text
        _keep(data, known)
    return corpus


def _keep(data: bytes, known: Known) -> None:
    """Put a file into the cache in one step; what killed downloads left of it goes."""
    folder = cache_folder()
    if folder is None:
        return
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.glob(f"{known.file}.*part"):  # of any process: one that still writes loses
        with contextlib.suppress(OSError):  # its copy, not its text
            left.unlink()
    part = folder / f"{known.file}.{os.getpid()}.part"
    try:
        part.write_bytes(data)
        part.replace(folder / known.file)
    finally:
        part.unlink(missing_ok=True)


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
