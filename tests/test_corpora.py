"""Corpora: what is read, what is refused, and what a machine without a network is told."""

import contextlib
import errno
import hashlib
import importlib
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from charlm_utils import corpora, download
from charlm_utils.corpora import KNOWN, CorpusUnavailable, Known, load_corpus
from charlm_utils.data import letters_only

ROOT = Path(corpora.__file__).parents[1]
with contextlib.ExitStack() as stack:
    sys.path.insert(0, str(ROOT / "book" / "tools"))
    stack.callback(sys.path.remove, str(ROOT / "book" / "tools"))
    servers = importlib.import_module("soak_servers")
DATA = os.environ.get("CHARLM_DATA")  # before the fixture takes it away
TINY = "Ein kleiner Text – with é and 🙂.\n" * 40

pytestmark = pytest.mark.usefixtures("clean")


NOWHERE = ("http://127.0.0.1:9/tiny.txt",)


def known(data, urls=NOWHERE, **options):
    checksum = hashlib.sha256(data).hexdigest()
    return Known(checksum, len(data.decode()), tuple(urls), "tiny.txt", **options)


@pytest.fixture
def tiny(monkeypatch, clean):
    """Make `tiny` a known corpus with these addresses; returns the cache's path of it."""

    def register(*urls, **options):
        monkeypatch.setitem(KNOWN, "tiny", known(TINY.encode(), urls or NOWHERE, **options))
        return clean / ".fastdownload" / "archive" / "tiny.txt"

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


@pytest.mark.parametrize("data", [b"", b"\xef\xbb\xbf"], ids=["empty", "mark alone"])
def test_an_empty_file_is_named(tmp_path, data):
    (tmp_path / "none.txt").write_bytes(data)
    with pytest.raises(ValueError, match=r"none\.txt is empty"):
        load_corpus(tmp_path / "none.txt")


@pytest.mark.skipif(not os.path.exists("/dev/zero"), reason="no /dev/zero here")
@pytest.mark.parametrize("path", ["/dev/zero", "/dev/null", "/dev/full"])
def test_a_device_is_no_text(path):
    with pytest.raises(ValueError, match=f"{path} is a device"):
        load_corpus(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_is_read_to_its_end(tmp_path):
    """`charlm train <(zcat text.gz)`"""
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_text, args=(TINY, "utf-8"))
    writer.start()
    assert load_corpus(tmp_path / "pipe").text == TINY
    writer.join()


# ---- UTF-16 -----------------------------------------------------------------------------------

WIDE = ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"]
SAMPLES = {"prose": TINY, "letters": "ab" * 3, "Greek": "Ελληνικό κείμενο, 3 λέξεις.\n" * 9}


def marked(text, encoding):
    """`text` with a byte-order mark in front, whatever the encoding's name says."""
    return ("\ufeff" + text).encode(encoding if encoding[-2:] in ("le", "be") else f"{encoding}-le")


@pytest.mark.parametrize("encoding", WIDE)
@pytest.mark.parametrize("sample", SAMPLES)
def test_utf16_is_known_by_its_mark_and_the_cure_works(tmp_path, encoding, sample):
    (tmp_path / "it's old.txt").write_bytes(marked(SAMPLES[sample], encoding))
    check_cure(tmp_path, encoding[:6].upper(), SAMPLES[sample])


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("sample", ["prose", "letters"])
def test_utf16_without_a_mark_is_known_by_its_zeros_and_the_cure_works(tmp_path, encoding, sample):
    (tmp_path / "it's old.txt").write_bytes(SAMPLES[sample].encode(encoding))
    check_cure(tmp_path, "UTF-16", SAMPLES[sample])


def check_cure(folder, name, text):
    """The file is refused as `name`, and the line that the message gives makes it readable."""
    path = folder / "it's old.txt"
    with pytest.raises(ValueError, match=f"old.txt is {name}, not UTF-8") as caught:
        load_corpus(path)
    message = str(caught.value)
    assert "\n" not in message and "'" + str(path).replace("'", "''") + "' | Set-Content" in message
    line = re.search(r"iconv .* > new\.txt", message)[0]
    if shutil.which("iconv"):
        subprocess.run(line, shell=True, cwd=folder, check=True)
        assert load_corpus(folder / "new.txt").text == text


def test_powershell_is_told_the_right_name(tmp_path):
    names = {"utf-16-le": "Unicode", "utf-16-be": "BigEndianUnicode"}
    for encoding, name in names.items():
        for data in (marked(TINY, encoding), TINY.encode(encoding)):
            (tmp_path / "old.txt").write_bytes(data)
            with pytest.raises(ValueError, match=f"Get-Content -Raw -Encoding {name} "):
                load_corpus(tmp_path / "old.txt")


def test_utf16_read_as_latin1_is_not_accepted(tmp_path):
    """Every second character would be U+0000: what the wrong cure makes of a UTF-16 file."""
    for encoding in ("utf-16", "utf-16-be"):
        wrong = TINY.encode(encoding).decode("latin-1").encode("utf-8")
        (tmp_path / "new.txt").write_bytes(wrong)
        with pytest.raises(ValueError, match=r"new\.txt is .*UTF-16"):
            load_corpus(tmp_path / "new.txt")


def test_a_few_zeros_are_characters_like_others(tmp_path):
    text = "one\0two\0three and more\n" * 30
    (tmp_path / "zeros.txt").write_text(text, encoding="utf-8")
    assert load_corpus(tmp_path / "zeros.txt").text == text


def test_fallback_has_one_name():
    with pytest.raises(ValueError, match="'pydocs'"):
        load_corpus("nietzsche", fallback="pydocs")


def test_letters_only_is_d2ls_cleaning():
    text = "The Time-Machine, by H. G. Wells [1898]\n\nİstanbul: ÀB_c\t\x00dé!"
    expected = re.sub("[^A-Za-z]+", " ", text).lower()
    assert letters_only(text) == expected == "the time machine by h g wells stanbul b c d "


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


@pytest.mark.parametrize("kind", servers.BAD)
def test_a_bad_server_costs_one_deadline_and_the_next_address_serves(tmp_path, kind):
    """However it drips, lies, breaks off or goes on: in time, no file, no thread, no memory."""
    servers.one_round(kind, seed=3, before_a_good_one=True)


@pytest.mark.parametrize("kind", ["drips its body", "endless error page", "orders to a terminal"])
def test_a_bad_server_alone_is_named_in_one_clean_line(tmp_path, kind):
    with servers.serving(servers.BAD[kind]) as (server,):
        corpus, reason, _ = servers.tried(tmp_path, server.url)
    assert corpus is None and reason.startswith("127.0.0.1:") and reason.isprintable()
    words = {"drips its body": "not done", "endless error page": "not done"}
    assert words.get(kind, "HTTP Error 404: ") in reason


def test_the_campaign_counts_what_does_not_hold(monkeypatch):
    monkeypatch.setattr(servers, "BAD", {"good": servers.good, "nothing": servers.BAD["nothing"]})
    said = []
    assert servers.campaign(4, say=said.append) == {"good": (2, 0), "nothing": (2, 2)}
    assert len(said) == 2 and all("'good'" in line and "accepted" in line for line in said)


NOBODY = """
import socket
def nobody(*arguments, **options):
    raise socket.gaierror(-2, "Name or service not known")
socket.getaddrinfo = nobody
"""


def test_no_network(tiny, clean, monkeypatch):
    monkeypatch.setattr(download, "WORK", NOBODY + download.WORK)
    tiny("https://one.example/tiny.txt", "http://two.example/tiny.txt")
    reason = refused(clean)
    assert "one.example" in reason and "two.example" in reason
    assert reason.count("Name or service not known") == 2


def test_https_is_spoken_and_proxies_are_asked(tiny, serve, clean, monkeypatch):
    server = serve(reply(TINY.encode()))  # speaks no TLS
    tiny(server.url.replace("http:", "https:"))
    assert "SSL" in refused(clean)
    tiny("http://far.example/tiny.txt")
    monkeypatch.setenv("http_proxy", server.url.removesuffix("/tiny.txt"))
    assert load_corpus("tiny").source == "http://far.example/tiny.txt"


SLOW = "import time\ntime.sleep(60)  # as where a name server never answers"


def test_work_that_never_comes_back_ends_with_the_deadline(tiny, clean, monkeypatch):
    monkeypatch.setattr(corpora, "DEADLINE", 0.5)
    monkeypatch.setattr(download, "WORK", SLOW)
    tiny("http://one.example/tiny.txt")
    assert "not done after 0.5 s" in refused(clean, seconds=2)


def test_time_outs_and_size_are_passed_on(tiny, monkeypatch, clean):
    seen = []

    def fetch(url, **options):
        seen.append(options)
        raise OSError("stop here")

    monkeypatch.setattr(corpora, "fetch", fetch)
    tiny()
    refused(clean)
    assert seen == [{"limit": 4 * len(TINY) + 100_000, "silence": 20, "seconds": 60}]


@pytest.mark.skipif(DATA is None, reason="no corpora here: CHARLM_DATA is not set")
@pytest.mark.parametrize("name", sorted(KNOWN))
def test_no_real_file_is_above_its_limit(name):
    """Nor would it be with Gutenberg's line ends and twice its licence."""
    data = (Path(DATA) / KNOWN[name].file).read_bytes()
    assert len(data.replace(b"\n", b"\r\n")) + 40_000 < KNOWN[name].limit < 2**23


def test_ctrl_c_in_a_download_ends_it(tiny, clean, monkeypatch):
    started, plain = [], subprocess.Popen

    def start(*arguments, **options):
        started.append(plain(*arguments, **options))
        return started[-1]

    def ctrl_c(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr(download, "WORK", SLOW)
    monkeypatch.setattr(subprocess, "Popen", start)
    monkeypatch.setattr(download.time, "sleep", ctrl_c)
    tiny("http://one.example/tiny.txt")
    with pytest.raises(KeyboardInterrupt):
        load_corpus("tiny")
    assert [work.poll() is None for work in started] == [False]  # nothing goes on behind our back
    assert files_below(clean) == []


@pytest.mark.parametrize("name", ["write_bytes", "replace", "mkdir"])
def test_a_good_answer_serves_though_it_cannot_be_kept(tiny, serve, clean, monkeypatch, name):
    """The disk is full, or the cache can't be written: the text is here all the same."""
    plain = getattr(Path, name)

    def full(self, *arguments, **options):
        if name == "write_bytes":
            plain(self, arguments[0][:9])  # what fits on it
        raise OSError(errno.ENOSPC, "No space left on device")

    server = serve(reply(TINY.encode()))
    tiny(server.url)
    monkeypatch.setattr(Path, name, full)
    corpus = load_corpus("tiny")
    assert (corpus.text, corpus.source) == (TINY, server.url) and corpus.genuine
    assert files_below(clean) == []


def test_unwritable_cache(tiny, serve, clean):
    (clean / ".fastdownload").write_text("a file where a folder should be")
    tiny(serve(reply(TINY.encode())).url)
    assert load_corpus("tiny").text == TINY
    assert files_below(clean) == [".fastdownload"]


def test_what_killed_downloads_left_goes_with_the_next(tiny, serve, clean):
    cache = tiny(serve(reply(TINY.encode())).url)
    cache.parent.mkdir(parents=True)
    for name in ("tiny.txt.7.part", "tiny.txt.8.part.part", "tiny.txt.part"):
        (cache.parent / name).write_bytes(b"half")
    for name in ("other.txt.7.part", "tiny.txt.bak"):  # not ours to remove
        (cache.parent / name).write_bytes(b"kept")
    assert load_corpus("tiny").text == TINY
    left = [Path(name).name for name in files_below(clean)]
    assert left == ["other.txt.7.part", "tiny.txt", "tiny.txt.bak"]


# ---- users without a home ---------------------------------------------------------------------


@pytest.fixture
def homeless(monkeypatch):
    """No HOME, and a user whom the system does not know, as in a container."""
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # what Python does then


def test_without_a_home_a_text_at_hand_is_read(tiny, homeless, tmp_path, monkeypatch):
    (tmp_path / "tiny.txt").write_bytes(TINY.encode())
    tiny()
    monkeypatch.setenv("CHARLM_DATA", str(tmp_path))
    assert load_corpus("tiny").text == TINY


def test_without_a_home_a_download_serves_and_is_not_kept(tiny, homeless, serve, tmp_path):
    assert corpora.cache_folder() is None
    server = serve(reply(TINY.encode()))
    tiny(server.url)
    assert [load_corpus("tiny").text for _ in range(2)] == [TINY, TINY] and server.hits == 2


def test_without_a_home_the_reason_is_the_network(tiny, homeless, clean, monkeypatch):
    tiny()
    monkeypatch.setenv("CHARLM_OFFLINE", "1")
    assert refused(clean) == "CHARLM_OFFLINE=1"


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
