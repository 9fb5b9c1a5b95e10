"""Servers that drip, lie, break off and never end, and what `load_corpus` makes of them.

    python book/tools/soak_servers.py --rounds 200

Each server runs in a thread on this machine. `campaign` asks them at random; `BAD` and `serving`
are the tests' too.
"""

import argparse
import contextlib
import functools
import hashlib
import os
import random
import socket
import struct
import sys
import tempfile
import threading
import time
from pathlib import Path
from unittest import mock

from charlm_utils import corpora
from charlm_utils.corpora import KNOWN, Known
from charlm_utils.download import fetch

TEXT = "Ein kleiner Text – with é and 🙂.\n" * 200
GOOD = TEXT.encode()
DEADLINE, SILENCE = 0.6, 0.4  # seconds, in place of the library's 60 and 20, on a quiet machine
SLACK = 1.0  # seconds that a call may take beyond its deadline
ENDLESS = b"<p>please wait</p>\n" * 4000  # sent again and again until the client hangs up


class Server:
    """Answers every connection with `answer(connection, rng)`; what is left open it closes."""

    def __init__(self, answer, seed=0):
        self.answer, self.hits, self.rng = answer, 0, random.Random(seed)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}/tiny.txt"
        self.stopped, self.threads, self.open = threading.Event(), [], []
        self.start(self.accept)

    def start(self, function, *arguments):
        thread = threading.Thread(target=function, args=arguments, daemon=True)
        self.threads.append(thread)
        thread.start()

    def accept(self):
        with contextlib.suppress(OSError):  # stopped
            while True:
                connection, _ = self.listener.accept()
                self.hits += 1
                self.open.append(connection)
                self.start(self.talk, connection)

    def talk(self, connection):
        with contextlib.suppress(OSError), connection:  # a client that has enough hangs up
            head = b""
            while not head.endswith(b"\r\n\r\n") and (more := connection.recv(4096)):
                head += more
            self.answer(connection, self)

    def stop(self):
        self.stopped.set()
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for connection in self.open:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self.threads:
            thread.join(5)


@contextlib.contextmanager
def serving(*answers, seed=0):
    """A server for each answer, stopped at the end."""
    servers = [Server(answer, seed + i) for i, answer in enumerate(answers)]
    try:
        yield servers
    finally:
        for server in servers:
            server.stop()


def head(status="200 OK", **fields):
    """The first lines of an answer; `content_length=3` becomes `Content-Length: 3`."""
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in fields.items()]
    return "\r\n".join([f"HTTP/1.1 {status}", *lines, "", ""]).encode("latin-1")


def sends(*parts, pause=0.0, for_ever=False):
    """An answer that sends these bytes, with a pause after each, once or for ever."""

    def answer(connection, server):
        for part in parts[:-1]:
            connection.sendall(part)
        while True:
            connection.sendall(parts[-1])
            if not for_ever or server.stopped.wait(pause):
                return

    return answer


def drips(start, data, pause=0.03):
    """An answer that sends `start` at once and of `data` a few bytes at a time, round and round."""

    def answer(connection, server):
        connection.sendall(start)
        place = 0
        while not server.stopped.wait(pause):
            size = server.rng.randrange(1, 4)
            connection.sendall(data[place : place + size])
            place = (place + size) % len(data)

    return answer


def breaks_off(start, data):
    """An answer that ends somewhere, now with a farewell and now with a reset."""

    def answer(connection, server):
        connection.sendall(start + data[: server.rng.randrange(1, len(data))])
        if server.rng.random() < 0.5:  # close with a reset in place of a farewell
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    return answer


def silent(connection, server):
    """Takes the call and says nothing."""
    server.stopped.wait(20)


def to_itself(connection, server):
    """Sends the client round in a circle, with a page that never ends each time."""
    sends(head("302 Found", Location=server.url), ENDLESS, for_ever=True)(connection, server)


def damaged(connection, server):
    """The right length, and one byte changed."""
    data = bytearray(GOOD)
    data[server.rng.randrange(len(data))] ^= 1 << server.rng.randrange(8)
    connection.sendall(head(Content_Length=len(data)) + data)


def noise(connection, server):
    """Bytes at random where an answer should be."""
    connection.sendall(server.rng.randbytes(server.rng.randrange(1, 3000)))


good = sends(head(Content_Length=len(GOOD)), GOOD)
CHUNKED = head(Transfer_Encoding="chunked")
LONG = head(Content_Length=len(GOOD))
BAD = {
    "silent": silent,
    "drips its body": drips(LONG, GOOD),
    "drips without a length": drips(head(), GOOD),
    "drips its first line": drips(b"HTTP/1.1 ", b"2"),
    "drips its header": drips(b"HTTP/1.1 200 OK\r\nX: ", b"y"),
    "drips chunks": drips(CHUNKED, b"1\r\na\r\n"),
    "drips a chunk's length": drips(CHUNKED, b"0"),
    "endless body": sends(head(), ENDLESS, for_ever=True),
    "endless chunks": sends(CHUNKED, b"4000\r\n" + b"x" * 0x4000 + b"\r\n", for_ever=True),
    "endless header": sends(b"HTTP/1.1 200 OK\r\n", b"X: y\r\n" * 999, for_ever=True),
    "endless 100": sends(b"HTTP/1.1 100 Continue\r\n\r\n" * 99, for_ever=True),
    "endless trailer": sends(CHUNKED, b"0\r\n", b"X: y\r\n" * 999, for_ever=True),
    "endless error page": sends(head("500 Sorry"), ENDLESS, for_ever=True),
    "long error page": sends(head("500 Sorry", Content_Length=500 * 2**20), ENDLESS, for_ever=True),
    "round in a circle": to_itself,
    "announces a terabyte": sends(head(Content_Length=2**40), ENDLESS, for_ever=True),
    "announces more than it has": breaks_off(LONG, GOOD),
    "announces less than it has": sends(head(Content_Length=len(GOOD) - 40), GOOD),
    "announces less than nothing": sends(head(Content_Length=-5), b"x" * 40),
    "breaks off in a chunk": breaks_off(CHUNKED + b"2000\r\n", GOOD[:0x1000]),
    "a chunk of no length": sends(CHUNKED + b"zz\r\nabc\r\n"),
    "one byte changed": damaged,
    "another text": sends(head(), b"<html>Log in to the hotel's network</html>"),
    "another encoding": sends(head(), TEXT.encode("utf-16")),
    "nothing": sends(head(Content_Length=0)),
    "no answer": sends(b""),
    "noise": noise,
    "orders to a terminal": sends(head("404 \x1b]0;owned\x07\x1b[2J\x9b31m gone")),
    "a file of ours": sends(head("302 Found", Location="file:///etc/hostname")),
    "another protocol": sends(head("302 Found", Location="ftp://127.0.0.1/x")),
}


@functools.cache
def pace():
    """How many times as long as on a quiet machine a download takes here and now, at least 1.

    A process is started for each, which on a busy machine can take longer than `DEADLINE`.
    """
    took = []
    with serving(good) as (server,):
        for _ in range(3):
            began = time.monotonic()
            fetch(server.url, limit=2 * len(GOOD), silence=30, seconds=60)
            took.append(time.monotonic() - began)
    return max(1.0, max(took) / (DEADLINE / 3))


@contextlib.contextmanager
def tiny_corpus(folder, *urls):
    """Make `tiny` a known corpus at these addresses, with a home and a cache in `folder`."""
    slow = pace()
    row = Known(hashlib.sha256(GOOD).hexdigest(), len(TEXT), urls, "tiny.txt")
    clean = {k: v for k, v in os.environ.items() if not k.startswith("CHARLM_")}
    clean = {k: v for k, v in clean.items() if not k.lower().endswith("_proxy")}
    with (
        mock.patch.dict(KNOWN, tiny=row),
        mock.patch.dict(os.environ, clean | {"HOME": str(folder)}, clear=True),
        mock.patch.multiple(corpora, TIMEOUT=slow * SILENCE, DEADLINE=slow * DEADLINE),
    ):
        yield


def tried(folder, *urls):
    """What `load_corpus` makes of these addresses: (corpus or None, reason, seconds).

    Raises `AssertionError` where it takes too long, says what a terminal obeys, or leaves a file
    or a busy thread behind.
    """
    with tiny_corpus(folder, *urls):
        corpus, reason, began = None, "", time.monotonic()
        try:
            corpus = corpora.load_corpus("tiny")
        except corpora.CorpusUnavailable as error:
            reason = error.reason
            assert str(error).replace("\n", "").isprintable(), "control characters"
        seconds = time.monotonic() - began
    assert seconds < pace() * (len(urls) * DEADLINE + SLACK), f"took {seconds:.1f} s"
    files = sorted(path.name for path in Path(folder).rglob("*") if path.is_file())
    assert files == ["tiny.txt"] * (corpus is not None), f"left {files}"
    assert corpus is None or corpus.text == TEXT, "another text was accepted"
    ended = time.monotonic() + SLACK
    while any(thread.name == "download" for thread in threading.enumerate()):
        assert time.monotonic() < ended, "the download goes on in the background"
        time.sleep(0.01)
    return corpus, reason, seconds


def memory():
    """The most memory that this process has used, in MiB; 0 where the system does not say."""
    try:
        import resource
    except ImportError:  # Windows
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> (
        20 if sys.platform == "darwin" else 10
    )


def one_round(kind, seed, before_a_good_one):
    """A bad server alone, or with a good one after it; raises `AssertionError`."""
    answers = [BAD[kind], good] if before_a_good_one else [BAD[kind]]
    used = memory()
    with serving(*answers, seed=seed) as servers, tempfile.TemporaryDirectory() as folder:
        corpus, reason, _ = tried(folder, *[server.url for server in servers])
        assert servers[0].hits >= 1, "never asked"
        if before_a_good_one:
            assert corpus is not None, f"the second address did not serve: {reason}"
            assert corpus.source == servers[1].url, "accepted"
        else:
            assert corpus is None and reason, "accepted"
    assert memory() < used + 30, f"{memory() - used} MiB more than before"


def campaign(rounds=60, seed=0, say=print):
    """Ask bad servers at random; returns {kind: (tried, held)} and says what did not hold.

    A round takes half a second where the server drips, a hundredth otherwise.
    """
    rng, counts = random.Random(seed), {}
    for number in range(rounds):
        kind = list(BAD)[number % len(BAD)]
        tries, held = counts.get(kind, (0, 0))
        try:
            one_round(kind, rng.randrange(10**9), rng.random() < 0.5)
        except AssertionError as error:
            say(f"servers, {kind!r}, round {number}: {error}")
        else:
            held += 1
        counts[kind] = (tries + 1, held)
    return counts


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    counts = campaign(options.rounds, options.seed)
    for kind, (tries, held) in counts.items():
        print(f"{kind:28} {tries:>4} {held:>4}")
    return int(any(tries != held for tries, held in counts.values()))


if __name__ == "__main__":
    sys.exit(main())
