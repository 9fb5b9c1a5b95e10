"""What the unit tests share: no network, one thread, an environment without the book's switches.

At the end one line says what was compared of the book.
"""

import os
import random
import socket

import pytest
import torch
from hypothesis import settings

from charlm_utils import corpora

WORDS = "la mer été garçon naïve sky Straße river 🌊 wave 🙂 and then, we go on.".split()

# of tests/test_properties.py: how many cases each
settings.register_profile("short", max_examples=40, deadline=None, database=None)
settings.register_profile("soak", max_examples=6_000, deadline=None, database=None)
settings.load_profile("short")


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def no_network():
    """Only this machine can be reached: a test that would go out fails."""
    connect = socket.socket.connect

    def guarded(self, address):
        if isinstance(address, tuple) and address[0] not in ("127.0.0.1", "::1", "localhost"):
            raise AssertionError(f"a test tried to reach {address}")
        return connect(self, address)

    socket.socket.connect = guarded
    yield
    socket.socket.connect = connect


@pytest.fixture
def clean(monkeypatch, tmp_path):
    """A reader's first day: none of the book's variables, an empty home, no stand-in so far."""
    for name in os.environ:
        if name.startswith("CHARLM_") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("CHARLM_QUIET", "1")
    monkeypatch.setattr(corpora, "_stand_ins", [])
    return home


@pytest.fixture(scope="session")
def text():
    """About 4,800 characters with accents and emoji, always the same."""
    draw = random.Random(0)
    return "\n".join(" ".join(draw.choices(WORDS, k=9)) for _ in range(110))


@pytest.fixture
def text_file(text, tmp_path):
    path = tmp_path / "own text.txt"
    path.write_text(text, encoding="utf-8")
    return path


def pytest_terminal_summary(terminalreporter):
    """What the tests that passed have counted, as `record_property("counted", "3 things")`."""
    sums = {}
    for report in terminalreporter.stats.get("passed", []):
        for name, value in report.user_properties:
            if name == "counted":
                count, what = value.split(" ", 1)
                sums[what] = sums.get(what, 0) + int(count)
    if sums:
        counts = ", ".join(f"{count:,} {what}" for what, count in sorted(sums.items()))
        terminalreporter.line(f"The book: {counts}")
