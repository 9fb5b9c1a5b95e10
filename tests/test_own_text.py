"""The tool that runs the commands of a page: what it runs, what it shows, what it records."""

import importlib
import json
import sys

import pytest
from book_reader import ROOT

FAKE = """
import sys
words = sys.argv[1:]
if words[0] == "train":
    print("my.txt: 90 characters to train on, 10 held out, 9 distinct; 50 parameters; cpu, bf16")
    for epoch in (1, 2, 3):
        print(f"epoch {epoch}: training 2.{epoch}000, validation 1.{epoch}000, {epoch} s")
elif words[0] == "sample":
    sys.exit("charlm: no such folder") if "none" in words[1] else print("ROMEO: <b> & so on")
"""
PAGE = """# A page

<span class="given">ROMEO:</span><span class="written"> stale</span>

```console
$ charlm train my.txt \\
    --out runs/some
$ charlm sample runs/some
```

<!-- begin:console_some -->

```console
$ charlm train my.txt --epochs 3 --out runs/some
epoch 1: training 9.0000, validation 9.0000, 9 s
epoch 3: training 9.0000, validation 9.0000, 9 s
$ charlm sample none
stale
```

<!-- end:console_some -->

```python
print("0.5000 nats per character")
```

<!-- begin:console_some -->

```text
stale
```

<!-- end:console_some -->
"""


@pytest.fixture
def own_text(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(ROOT / "book" / "tools")
    module = importlib.import_module("own_text")
    fake = tmp_path / "charlm.py"
    fake.write_text(FAKE, encoding="utf-8")
    monkeypatch.setattr(module, "CHARLM", [sys.executable, str(fake)])
    return module


@pytest.fixture
def recorded(monkeypatch, own_text):
    found = {}
    monkeypatch.setattr(own_text, "record", found.__setitem__)
    return found


def test_a_page_is_run_and_written_anew(own_text, recorded, tmp_path):
    page = tmp_path / "page.md"
    page.write_text(PAGE, encoding="utf-8")
    own_text.rewrite(page, tmp_path)
    text = page.read_text(encoding="utf-8")
    first = "epoch 1: training 2.1000, validation 1.1000, 1 s\n"
    assert f"{first}epoch 3: training 2.3000, validation 1.3000, 3 s\n$ charlm sample" in text
    assert "$ charlm sample none\ncharlm: no such folder\n```" in text
    assert "```text\n0.5000 nats per character\n```" in text and "stale" not in text
    assert '<span class="written"> &lt;b&gt; &amp; so on</span>' in text
    assert text.count("epoch 2") == 0 and text.count("epoch 1") == 1
    assert recorded == {
        "own_text.some.train.1": 2.1,
        "own_text.some.valid.1": 1.1,
        "own_text.some.train.3": 2.3,
        "own_text.some.valid.3": 1.3,
        "own_text.some.known": 0.5,
    }


def test_ctrl_c_after_an_epoch(own_text, tmp_path):
    script = (
        "import time\n"
        "try:\n"
        "    print('epoch 1: x', flush=True); time.sleep(60)\n"
        "except KeyboardInterrupt:\n"
        "    print('stopped')\n"
    )
    command = [sys.executable, "-c", script]
    assert own_text.run(command, tmp_path, stop=1) == "epoch 1: x\nstopped\n"


def test_an_error_of_another_kind_is_raised(own_text, tmp_path):
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        own_text.run([sys.executable, "-c", "1 / 0"], tmp_path)


def test_checkpoints_that_the_page_calls_equal_are_compared(own_text, tmp_path, monkeypatch):
    monkeypatch.setattr(own_text, "TWICE", {"diary": "charlm nothing"})
    own_text.check_equal(tmp_path)  # this page has no such run
    for name in ("diary", "diary-py"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "model.safetensors").write_bytes(b"same")
    own_text.check_equal(tmp_path)
    (tmp_path / "runs" / "diary-py" / "model.safetensors").write_bytes(b"other")
    with pytest.raises(RuntimeError, match="diary-py.* is not equal"):
        own_text.check_equal(tmp_path)


def test_the_pages_numbers_are_recorded():
    keys = json.loads((ROOT / "book" / "results.json").read_text(encoding="utf-8"))
    assert sum(key.startswith("own_text.") for key in keys) > 100
