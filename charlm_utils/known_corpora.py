"""The texts the book is written on: their checksums, lengths and addresses. Data only."""

from dataclasses import dataclass

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
