"""Files saved in one step and read without trust; the lock on a folder; the campaigns on saves."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from book_reader import ROOT, tool

from charlm_utils import saves
from charlm_utils.checkpoint import History, load_checkpoint, save_checkpoint
from charlm_utils.data import CharVocab
from charlm_utils.models import CharLM, make_core
from charlm_utils.saves import CheckpointError, lock_folder, read_json, read_tensors, write_files

VOCAB = CharVocab("ab\nc")


def new_model(seed=0):
    torch.manual_seed(seed)
    return CharLM(len(VOCAB), 5, make_core("gru", 5, 8))


@pytest.fixture
def folder(tmp_path):
    save_checkpoint(tmp_path / "good", new_model(), VOCAB, History())
    return tmp_path / "good"


# ---- one step ---------------------------------------------------------------------------------


def test_a_save_that_was_killed_among_its_moves_reads_as_the_new_one(folder, tmp_path):
    save_checkpoint(tmp_path / "new", new_model(1), VOCAB, History())
    wanted = tool("soak").content(tmp_path / "new")
    assert tool("soak").content(folder) != wanted
    os.rename(tmp_path / "new", folder / saves.READY)
    os.replace(folder / saves.READY / "config.json", folder / "config.json")
    assert tool("soak").content(folder) == wanted
    with lock_folder(folder):
        pass  # whoever comes next completes it
    assert tool("soak").content(folder) == wanted
    assert sorted(os.listdir(folder)) == ["config.json", "history.json", "model.safetensors"]


def test_parts_of_killed_saves_are_swept(folder):
    before = tool("soak").content(folder)
    (folder / saves.PART).mkdir()
    (folder / saves.PART / "model.safetensors").write_bytes(b"half")
    (folder / ".model.safetensors.4711.part").write_bytes(b"half")  # of an earlier version
    (folder / ".mine.part").write_text("kept")
    assert tool("soak").content(folder) == before
    write_files(folder, {"note.txt": b"x"})
    names = [".mine.part", "config.json", "history.json", "model.safetensors", "note.txt"]
    assert sorted(os.listdir(folder)) == names and tool("soak").content(folder) == before


def test_everything_is_forced_to_disk_before_the_switch(tmp_path, monkeypatch):
    """Each file and its folder before the rename, the names after it."""
    log = []

    class Watched:
        def __getattr__(self, name):
            real = getattr(os, name)

            def call(*arguments, **options):
                paths = [Path(a).name for a in arguments if isinstance(a, str | os.PathLike)]
                log.append((name, *paths))
                return real(*arguments, **options)

            return call if name in ("open", "fsync", "rename", "replace") else real

    monkeypatch.setattr(saves, "os", Watched())
    write_files(tmp_path, {"one": b"1", "two": b"2"})
    switch = log.index(("rename", saves.PART, saves.READY))
    before, after = log[1:switch], log[switch + 1 :]
    opened = [entry for entry in before if entry[0] == "open"]
    assert opened == [("open", "one"), ("open", "two"), ("open", saves.PART)]
    assert before == [
        entry for pair in zip(opened, [("fsync",)] * 3, strict=True) for entry in pair
    ]
    assert after[:2] == [("open", tmp_path.name), ("fsync",)]
    assert after[2:4] == [("replace", "one", "one"), ("replace", "two", "two")]
    assert after[-1] == ("fsync",)


def test_a_folder_that_can_not_be_written_says_so(folder, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OSError, match="file"):
        write_files(tmp_path / "file" / "inner", {"x": b""})
    (folder / "x").mkdir()
    with pytest.raises(IsADirectoryError):
        write_files(folder, {"y": b"", "x": b""})
    assert not (folder / "y").exists() and load_checkpoint(folder)


# ---- the lock ---------------------------------------------------------------------------------

HOLD = """
import sys, time
from charlm_utils.saves import lock_folder
with lock_folder(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_another_run_is_kept_out_until_it_ends_in_whatever_way(folder, end):
    child = subprocess.Popen([sys.executable, "-c", HOLD, folder], stdout=subprocess.PIPE, cwd=ROOT)
    try:
        assert child.stdout.readline() == b"held\n"
        for enter in (lambda: lock_folder(folder).__enter__(), lambda: write_files(folder, {})):
            with pytest.raises(CheckpointError, match=f"{folder} is in use by another run"):
                enter()
        assert load_checkpoint(folder)  # reading is free
    finally:
        child.send_signal(end)
        child.wait()
        child.stdout.close()
    with lock_folder(folder):
        write_files(folder, {"x": b"1"})
    assert sorted(os.listdir(folder)) == [
        "config.json",
        "history.json",
        "model.safetensors",
        "x",
    ]


def test_the_holder_may_enter_again_and_other_threads_may_not(folder):
    found = []

    def enter():
        try:
            with lock_folder(folder):
                found.append("entered")
        except CheckpointError:
            found.append("refused")

    with lock_folder(folder):
        with lock_folder(str(folder)):
            write_files(folder, {"x": b"1"})
        worker = threading.Thread(target=enter)
        worker.start()
        worker.join()
        assert found == ["refused"]
    enter()
    assert found == ["refused", "entered"]


def test_of_many_that_want_the_lock_one_has_it(tmp_path):
    """The file is removed by each holder: nobody may lock a file that is no longer there."""
    inside, most, entered = [], [], []

    def work():
        until = time.perf_counter() + 1
        while time.perf_counter() < until:
            try:
                with lock_folder(tmp_path):
                    inside.append(1)
                    most.append(len(inside))
                    entered.append(1)
                    inside.pop()
            except CheckpointError:
                pass

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert set(most) == {1} and len(entered) > 20 and not list(tmp_path.iterdir())


def test_a_reader_sees_one_save_while_a_run_saves(folder, tmp_path):
    """Two models in turn, saved as fast as they can be; each read is one of the two."""
    soak = tool("soak")
    models = [new_model(seed) for seed in range(2)]
    contents = []
    for i, model in enumerate(models):
        save_checkpoint(tmp_path / f"{i}", model, VOCAB, History())
        contents.append(soak.content(tmp_path / f"{i}"))
    stop, seen = threading.Event(), []

    def work():
        while not stop.is_set():
            for model in models:
                save_checkpoint(folder, model, VOCAB, History())

    worker = threading.Thread(target=work)
    worker.start()
    until = time.perf_counter() + 2
    try:
        while time.perf_counter() < until:
            seen.append(contents.index(soak.content(folder)))
    finally:
        stop.set()
        worker.join()
    assert set(seen) == {0, 1}


# ---- files that are none ----------------------------------------------------------------------

NAMES = ["config.json", "history.json", "model.safetensors"]


def refused(folder, *words):
    began = time.perf_counter()
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(folder)
    message = str(caught.value)
    assert all(word in message for word in words) and "\n" not in message, message
    assert len(message) < 400 and time.perf_counter() - began < 20
    return message


@pytest.mark.parametrize("name", NAMES)
def test_pipes_and_devices_are_not_waited_for(folder, name):
    (folder / name).unlink()
    os.mkfifo(folder / name)
    refused(folder, str(folder / name), "not a plain file")
    (folder / name).unlink()
    (folder / name).symlink_to("/dev/zero")
    refused(folder, str(folder / name), "not a plain file")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [2**26, 2**42])
def test_files_of_absurd_size_are_not_read(folder, name, size):
    with open(folder / name, "r+b") as file:
        file.truncate(size)  # sparse: it takes no space
    refused(folder, str(folder / name))


@pytest.mark.parametrize("name", ["config.json", "history.json"])
@pytest.mark.parametrize("start", ["[", '{"a":'])
def test_deep_nesting_is_refused(folder, name, start):
    (folder / name).write_text(start * 100_000)
    if name == "history.json":
        tool("soak").resign(folder)
    refused(folder, str(folder / name), "nested too deeply")


def header(text, data=b""):
    return len(text).to_bytes(8, "little") + text + data


ENTRY = b'{"dtype":"F32","shape":[2],"data_offsets":[0,8]}'


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\1",
        b"\xff" * 8,
        (2**62).to_bytes(8, "little"),
        header(b"[" * 2**19),
        header(b" " * 2**21),
        header(b"3"),
        header(b'{"a":3}'),
        header(b'{"a":{"dtype":[],"shape":[1],"data_offsets":[0,4]}}', b"1234"),
        header(b'{"a":{"dtype":"F32","shape":3,"data_offsets":[0,4]}}', b"1234"),
        header(b'{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}', b"1234"),
        header(b'{"a":{"dtype":"F32","shape":[1.0],"data_offsets":[0,4]}}', b"1234"),
        header(b'{"a":{"dtype":"F32","shape":[1099511627776],"data_offsets":[0,4]}}', b"1234"),
        header(b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}', b"12345678"),
        header(b'{"a":{"dtype":"F32","shape":[2],"data_offsets":"no"}}', b"12345678"),
        header(b'{"a":{"dtype":"F32","shape":[2]}}', b"12345678"),
        header(b'{"a":%b,"b":%b}' % (ENTRY, ENTRY), bytes(16)),  # both in one place
        header(b'{"a":%b}' % ENTRY, bytes(7)),
        header(b'{"a":%b}' % ENTRY, bytes(9)),
    ],
    ids=range(19),
)
def test_headers_that_lie_are_refused(tmp_path, data):
    path = tmp_path / "x.safetensors"
    path.write_bytes(data)
    with pytest.raises(CheckpointError) as caught:
        read_tensors(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_names_of_tensors_are_shown_in_one_line(folder):
    path = folder / "model.safetensors"
    name = b"a\\nb\\u001b[31m" + b"x" * 999
    path.write_bytes(header(b'{"%b":%b}' % (name, ENTRY), bytes(8)))
    refused(folder, str(path))
    path.write_bytes(header(b'{"%b":3}' % name))
    assert "a\\nb\\x1b[31mxxx" in refused(folder, str(path))


def test_json_is_an_object_of_modest_size(tmp_path):
    path = tmp_path / "x.json"
    path.write_text(json.dumps({"a": 1}))
    assert read_json(path) == {"a": 1}
    for text in ("[]", "{", '{"a": ' + "9" * 5000 + "}"):
        path.write_text(text)
        with pytest.raises(CheckpointError, match=r"x\.json"):
            read_json(path)


# ---- the campaigns, in short ------------------------------------------------------------------


def test_the_campaigns_hold_in_short():
    """All points where a save can be stopped, 3 kills, 40 damaged files, crafted ones."""
    done = subprocess.run(
        [sys.executable, "book/tools/soak.py", "--only", "stops", "kills", "damage", "crafted"]
        + ["--stops", "killed", "--kills", "3", "--damage", "40"],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [line.split()[-3:-1] for line in done.stdout.splitlines()[1:]]
    assert len(rows) == 4 and all(tried == held for tried, held in rows), done.stdout
    tried = [int(tried.replace(",", "")) for tried, _ in rows]
    assert tried[0] > 60 and tried[1:3] == [3, 40] and tried[3] > 500


def test_the_campaigns_notice_what_does_not_hold(tmp_path, monkeypatch):
    """A save that writes its files in their places, and a reader without checksums."""
    soak = tool("soak")
    options = soak.argparse.Namespace(stops=["killed"], damage=60, seed=0)

    def in_place(folder, files):
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in files.items():
            handle = saves.os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            saves.os.write(handle, data)
            saves.os.close(handle)

    with monkeypatch.context() as patch:
        for module in ("checkpoint", "resume"):
            patch.setattr(f"charlm_utils.{module}.write_files", in_place)
        (tmp_path / "stops").mkdir()
        tried, broke = soak.stop_saves(options, tmp_path / "stops")
    assert tried > 20 and len(broke) > 5
    with monkeypatch.context() as patch:
        patch.setattr("charlm_utils.saves.check_sum", lambda *arguments: None)
        patch.setattr("charlm_utils.checkpoint.check_sum", lambda *arguments: None)
        (tmp_path / "damage").mkdir()
        tried, broke = soak.damage_files(options, tmp_path / "damage")
    assert tried == 60 and len(broke) > 5
