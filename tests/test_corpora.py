"""Corpora: what is read, what is refused, and what a machine without a network is told."""

import errno
import hashlib
import os
import re
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from urllib.error import URLError

import fastdownload
import pytest

from charlm_utils import corpora
from charlm_utils.corpora import CorpusUnavailable, load_corpus
from charlm_utils.known_corpora import KNOWN, Known

DATA = os.environ.get("CHARLM_DATA")  # before the fixture takes it away
TINY = "Ein kleiner Text – with é and 🙂.\n" * 40

pytestmark = pytest.mark.usefixtures("clean")


NOWHERE = ("http://127.0.0.1:9/tiny.txt",)


def known(data, urls=NOWHERE, **options):
    checksum = hashlib.sha256(data).hexdigest()
    return Known(checksum, len(data.decode()), tuple(urls), "tiny.txt", **options)


@pytest.fixture
def tiny(monkeypatch):
    """Make `tiny` a known corpus with these addresses; returns the cache's path of it."""

    def register(*urls, **options):
        monkeypatch.setitem(KNOWN, "tiny", known(TINY.encode(), urls or NOWHERE, **options))
        return corpora.cache_folder() / "tiny.txt"

    return register


@pytest.fixture
def serve():
    """Start a server on this machine that answers every request with `answer(handler)`."""
    servers = []

    def start(answer):
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                server.hits += 1
                answer(self)

            def log_message(self, *args):
                pass

        server = HTTPServer(("127.0.0.1", 0), Handler)
        server.hits = 0
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        servers.append(server)
        server.url = f"http://127.0.0.1:{server.server_port}/tiny.txt"
        return server

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def reply(data, status=200, claimed=None):
    def answer(handler):
        handler.send_response(status)
        handler.send_header("Content-Length", str(len(data) if claimed is None else claimed))
        handler.end_headers()
        handler.wfile.write(data)

    return answer


def files_below(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


# ---- own files --------------------------------------------------------------------------------


def test_own_file_is_read_as_utf8(text, text_file):
    corpus = load_corpus(text_file)
    assert corpus.text == text and len(corpus) == len(text)
    assert (corpus.name, corpus.source, corpus.genuine) == ("own text", str(text_file), True)


def test_byte_order_mark_and_crlf_go_away(tmp_path):
    path = tmp_path / "nietzsche.txt"  # named as a known corpus, yet the reader's own
    path.write_bytes(b"\xef\xbb\xbfone\r\ntwo\rthree\n")
    assert load_corpus(path).text == "one\ntwo\rthree\n"


@pytest.mark.parametrize("fallback", [None, "python-docs"])
def test_not_utf8_names_path_byte_and_offset(tmp_path, fallback):
    path = tmp_path / "latin.txt"
    path.write_bytes("été".encode("latin-1"))
    with pytest.raises(ValueError, match=r"latin\.txt is not UTF-8: byte 0xe9 at offset 0"):
        load_corpus(path, fallback=fallback)
    path.write_bytes("é".encode() + b"abc\xff")
    with pytest.raises(ValueError, match="byte 0xff at offset 5"):
        load_corpus(path, fallback=fallback)


def test_folder_and_missing_file_are_named(tmp_path):
    with pytest.raises(IsADirectoryError, match=re.escape(f"{tmp_path} is a folder")):
        load_corpus(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no such\.txt is no file.*nietzsche.*python-docs"):
        load_corpus(tmp_path / "no such.txt")


def test_fallback_has_one_name():
    with pytest.raises(ValueError, match="'pydocs'"):
        load_corpus("nietzsche", fallback="pydocs")


def test_letters_only_is_d2ls_cleaning():
    text = "The Time-Machine, by H. G. Wells [1898]\n\nİstanbul: ÀB_c\t\x00dé!"
    expected = re.sub("[^A-Za-z]+", " ", text).lower()
    assert corpora.letters_only(text) == expected == "the time machine by h g wells stanbul b c d "


# ---- known corpora on this machine ------------------------------------------------------------


def test_data_folder_comes_first(tiny, tmp_path, monkeypatch):
    cache = tiny()
    cache.parent.mkdir(parents=True)
    cache.write_bytes(TINY.encode())
    assert load_corpus("tiny").source == str(cache)
    (tmp_path / "tiny.txt").write_bytes(TINY.encode())
    monkeypatch.setenv("CHARLM_DATA", str(tmp_path))
    corpus = load_corpus("tiny")
    assert (corpus.text, corpus.source) == (TINY, str(tmp_path / "tiny.txt"))
    assert corpus.genuine and not corpora.stand_in_used()


@pytest.mark.parametrize("fallback", [None, "python-docs"])
def test_data_folder_that_is_none_is_an_error(tiny, tmp_path, monkeypatch, fallback):
    tiny()
    monkeypatch.setenv("CHARLM_DATA", str(tmp_path / "gone"))
    with pytest.raises(NotADirectoryError, match=r"CHARLM_DATA is set to .*gone"):
        load_corpus("tiny", fallback=fallback)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (TINY.replace("\n", "\r\n").encode(), "SHA-256"),  # changed by git or an editor
        (TINY.encode()[:-1], "SHA-256"),
        (TINY.encode("utf-16"), "not UTF-8"),
    ],
    ids=["crlf", "short", "utf-16"],
)
def test_changed_copy_is_refused_by_name(tiny, tmp_path, monkeypatch, data, why):
    cache = tiny()
    (tmp_path / "tiny.txt").write_bytes(data)
    monkeypatch.setenv("CHARLM_DATA", str(tmp_path))
    monkeypatch.setenv("CHARLM_OFFLINE", "1")
    with pytest.raises(CorpusUnavailable) as caught:
        load_corpus("tiny")
    assert f"{tmp_path / 'tiny.txt'}" in caught.value.reason and why in caught.value.reason
    cache.parent.mkdir(parents=True)
    cache.write_bytes(TINY.encode())
    assert load_corpus("tiny").source == str(cache)  # the good copy still serves


def test_unreadable_copy_is_a_reason_and_no_crash(tiny, monkeypatch):
    tiny()
    monkeypatch.setenv("CHARLM_OFFLINE", "1")

    def refuse(self):
        raise PermissionError(errno.EACCES, "Permission denied", str(self))

    monkeypatch.setattr(Path, "is_file", refuse)
    with pytest.raises(CorpusUnavailable, match="Permission denied"):
        load_corpus("tiny")


def test_gutenberg_checksum_ignores_what_gutenberg_changes(monkeypatch, tmp_path):
    body = "Chapter I\n\nNo one would have believed …\n\nTHE END"
    header = "The Project Gutenberg eBook\n\n*** START OF THE PROJECT GUTENBERG\nEBOOK 36 ***\n\n\n"
    served = f"\ufeff{header}{body}\n\n\n*** END OF THE PROJECT GUTENBERG EBOOK 36 ***\nLicence\n"
    monkeypatch.setitem(KNOWN, "tiny", known(body.encode(), gutenberg=True))
    monkeypatch.setenv("CHARLM_DATA", str(tmp_path))
    for copy in (
        served,
        served.replace("\n", "\r\n"),
        body,
        served.replace("Licence", "New licence"),
    ):
        (tmp_path / "tiny.txt").write_bytes(copy.encode())
        assert load_corpus("tiny").text == body
    (tmp_path / "tiny.txt").write_bytes(served.replace("believed", "thought").encode())
    monkeypatch.setenv("CHARLM_OFFLINE", "1")
    with pytest.raises(CorpusUnavailable, match="SHA-256"):
        load_corpus("tiny")


@pytest.mark.skipif(DATA is None, reason="no corpora here: CHARLM_DATA is not set")
@pytest.mark.parametrize("name", sorted(KNOWN))
def test_the_real_texts(name, monkeypatch):
    monkeypatch.setenv("CHARLM_DATA", DATA)
    corpus = load_corpus(name)
    assert corpus.genuine and len(corpus) == KNOWN[name].length
    assert not corpus.text.startswith("\ufeff") and "\r\n" not in corpus.text


def test_first_addresses_are_pinned_to_a_commit():
    assert len(KNOWN) == 5
    for row in KNOWN.values():
        assert re.search("/[0-9a-f]{40}/", row.urls[0]) and len(row.urls) >= 2
        assert re.fullmatch("[0-9a-f]{64}", row.sha256)


# ---- downloads --------------------------------------------------------------------------------


def test_download_is_kept_and_not_repeated(tiny, serve, clean, capsys):
    server = serve(reply(TINY.encode()))
    cache = tiny(server.url)
    assert load_corpus("tiny").source == server.url
    assert capsys.readouterr().out == ""  # a notebook's stored output would differ
    assert load_corpus("tiny").source == str(cache) and server.hits == 1
    assert files_below(clean) == [".fastdownload/archive/tiny.txt"]


def test_second_address_helps(tiny, serve, clean):
    bad, good = serve(reply(b"<html>Sorry</html>")), serve(reply(TINY.encode()))
    tiny(bad.url, good.url)
    assert load_corpus("tiny").source == good.url
    assert (bad.hits, good.hits) == (1, 1)
    assert files_below(clean) == [".fastdownload/archive/tiny.txt"]


def refused(clean, seconds=8.0):
    """`load_corpus` refuses in time, in one line, with the cures, and leaves no file."""
    began = time.monotonic()
    with pytest.raises(CorpusUnavailable) as caught:
        load_corpus("tiny")
    assert time.monotonic() - began < seconds
    message = str(caught.value)
    assert "CHARLM_DATA" in message and "network" in message and 'fallback="python-docs"' in message
    assert caught.value.reason and "\n" not in caught.value.reason
    assert files_below(clean) == []
    return caught.value.reason


def test_silent_server(tiny, clean, monkeypatch):
    monkeypatch.setattr(corpora, "TIMEOUT", 1)
    silent = socket.create_server(("127.0.0.1", 0))  # takes the call and says nothing
    hang_up = threading.Timer(9, silent.close)  # so that a client without a time-out ends too
    hang_up.start()
    tiny(f"http://127.0.0.1:{silent.getsockname()[1]}/tiny.txt")
    try:
        assert "timed out" in refused(clean, seconds=6)
    finally:
        hang_up.cancel()
        silent.close()


def test_server_that_stops_half_way(tiny, serve, clean, monkeypatch):
    monkeypatch.setattr(corpora, "TIMEOUT", 1)
    done = threading.Event()

    def answer(handler):
        reply(TINY.encode()[:500], claimed=1000)(handler)
        handler.wfile.flush()
        done.wait(10)

    tiny(serve(answer).url)
    reason = refused(clean, seconds=4)
    done.set()
    assert "timed out" in reason


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (reply(b"<html>Log in to the hotel's network</html>"), "SHA-256"),
        (reply(TINY.encode("utf-16")), "not UTF-8"),
        (reply(TINY.encode()[:700], claimed=len(TINY.encode())), "broke off|SHA-256"),
        (reply(b"<html>\n" + b"<p>not here</p>\n" * 90 + b"</html>", status=404), "404"),
        (reply(b"down", status=503), "503"),
        (lambda handler: handler.wfile.write(b"SSH-2.0-OpenSSH_9.2\r\n"), "SSH"),
        (lambda handler: None, "closed|Remote end"),
    ],
    ids=["wrong", "utf-16", "truncated", "404", "503", "not-http", "hangs-up"],
)
def test_bad_answers(tiny, serve, clean, answer, why):
    server = serve(answer)
    tiny(server.url, server.url)
    reason = refused(clean)
    assert re.search(why, reason) and server.hits == 2
    assert reason.count("127.0.0.1:") >= 2  # both addresses are named


def test_no_network(tiny, clean, monkeypatch):
    def download(url, dest, **options):
        raise URLError(socket.gaierror(-2, "Name or service not known"))

    monkeypatch.setattr(fastdownload, "download_url", download)
    tiny("https://one.example/tiny.txt", "https://two.example/tiny.txt")
    reason = refused(clean)
    assert "one.example" in reason and "two.example" in reason
    assert "Name or service not known" in reason


def test_time_out_is_passed_on(tiny, monkeypatch, clean):
    seen = []

    def download(url, dest, timeout=None, show_progress=True):
        seen.append((timeout, show_progress))
        raise OSError("stop here")

    monkeypatch.setattr(fastdownload, "download_url", download)
    tiny()
    refused(clean)
    assert seen == [(20, False)]


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), None])
def test_disk_full_and_ctrl_c_leave_nothing(tiny, clean, monkeypatch, error):
    def download(url, dest, **options):
        dest.write_bytes(b"half")  # as fastdownload does, under its own name first
        dest.with_name(f"{dest.name}.part").write_bytes(b"half")
        raise error or KeyboardInterrupt

    monkeypatch.setattr(fastdownload, "download_url", download)
    tiny()
    if error:
        assert "No space left" in refused(clean)
    else:
        with pytest.raises(KeyboardInterrupt):
            load_corpus("tiny")
    assert files_below(clean) == []


def test_real_write_that_fails(tiny, serve, clean, monkeypatch):
    """The disk fills while fastdownload itself is writing."""
    import builtins

    plain = builtins.open

    def full(file, mode="r", *args, **kwargs):
        opened = plain(file, mode, *args, **kwargs)
        if "w" in mode and "tiny.txt" in str(file):
            opened.close()
            raise OSError(errno.ENOSPC, "No space left on device")
        return opened

    tiny(serve(reply(TINY.encode())).url)
    monkeypatch.setattr(builtins, "open", full)
    assert "No space left" in refused(clean)


def test_unwritable_cache(tiny, serve, clean):
    (clean / ".fastdownload").write_text("a file where a folder should be")
    tiny(serve(reply(TINY.encode())).url)
    with pytest.raises(CorpusUnavailable, match="Not a directory|File exists"):
        load_corpus("tiny")
    assert files_below(clean) == [".fastdownload"]


def test_offline_asks_nobody(tiny, serve, monkeypatch, clean):
    server = serve(reply(TINY.encode()))
    tiny(server.url)
    monkeypatch.setenv("CHARLM_OFFLINE", "1")
    assert refused(clean) == "CHARLM_OFFLINE=1"
    assert server.hits == 0


# ---- the stand-in -----------------------------------------------------------------------------


@pytest.fixture
def offline(monkeypatch):
    monkeypatch.setenv("CHARLM_OFFLINE", "1")


def test_python_docs_is_a_text():
    corpus = load_corpus("python-docs")
    assert corpus.genuine and len(corpus) > 200_000 and len(set(corpus.text)) < 300
    assert corpus.text == load_corpus("python-docs").text
    assert not corpora.stand_in_used()


@pytest.mark.parametrize("name", sorted(KNOWN))
def test_stand_in_says_so_in_one_line(name, offline, capsys):
    corpus = load_corpus(name, fallback="python-docs")
    printed = capsys.readouterr().out
    assert printed.count("\n") == 1 and name in printed and "python-docs" in printed
    assert "CHARLM_OFFLINE=1" in printed
    assert (corpus.name, corpus.genuine) == (name, False)
    assert 50_000 < len(corpus) <= KNOWN[name].length and corpus.text in corpora.python_docs()
    assert corpora.stand_in_used()


def test_stand_in_is_never_longer_than_the_corpus(offline, monkeypatch):
    """Python's documentation grows from version to version."""
    monkeypatch.setattr(corpora, "python_docs", lambda: "0123456789" * 300_000)
    for name, row in KNOWN.items():
        assert len(load_corpus(name, fallback="python-docs")) == row.length


def test_stand_ins_of_the_three_books_are_disjoint(offline):
    books = ["timemachine", "war_of_the_worlds", "secret_history_court_of_spain"]
    whole, spans = corpora.python_docs(), []
    for name in books:
        text = load_corpus(name, fallback="python-docs").text
        spans.append((start := whole.index(text), start + len(text)))
    assert all(a[1] <= b[0] for a, b in zip(spans[:-1], spans[1:], strict=True))


def test_recording_refuses_the_stand_in(offline, monkeypatch):
    monkeypatch.setenv("CHARLM_RECORD", "1")
    with pytest.raises(CorpusUnavailable, match="nietzsche"):
        load_corpus("nietzsche", fallback="python-docs")
    assert not corpora.stand_in_used()
    monkeypatch.setenv("CHARLM_RECORD", "0")
    assert not load_corpus("nietzsche", fallback="python-docs").genuine
