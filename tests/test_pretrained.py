"""The model that comes with the package: small, readable by its name, as good as it says."""

import pytest
import torch
from book_reader import ROOT, load_json

from charlm_utils.checkpoint import load_checkpoint
from charlm_utils.corpora import CorpusUnavailable, load_corpus
from charlm_utils.data import StreamBatches, split_text
from charlm_utils.sampling import generate
from charlm_utils.saves import CheckpointError
from charlm_utils.training import evaluate

NAME = "gru-nietzsche"
FOLDER = ROOT / "charlm_utils" / "pretrained" / NAME


def test_it_is_at_most_a_megabyte():
    files = sorted(path.name for path in FOLDER.iterdir())
    assert files == ["config.json", "history.json", "model.safetensors"]
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) <= 1_000_000


def test_it_loads_by_its_name_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model, vocab, history = load_checkpoint(NAME)
    assert (model.core.hidden_size, model.core.num_layers, len(vocab)) == (256, 1, 57)
    assert all(p.dtype == torch.float32 for p in model.parameters())
    assert len(history.valid) == 14 and vocab.itos == sorted(vocab.itos)
    text = generate(model, vocab, "the ", 60, greedy=True)
    assert len(text) == 64 and len(set(text)) > 5


def test_a_folder_of_ones_own_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / NAME).mkdir()
    with pytest.raises(CheckpointError, match="config.json: no such file"):
        load_checkpoint(NAME)
    with pytest.raises(CheckpointError, match="no such file"):
        load_checkpoint("gru-nietsche")


def test_half_precision_costs_nothing():
    """On the held-out text the packed model scores what its history says."""
    try:
        text = load_corpus("nietzsche").text.lower()
    except (CorpusUnavailable, AssertionError):  # the tests' guard refuses the network
        pytest.skip("the corpus is not here")
    model, vocab, history = load_checkpoint(NAME)
    cut = len(split_text(text, (0.8, 0.2))[0])
    loss = evaluate(model, StreamBatches(vocab.encode(text)[cut - 1 :], 32, 256))
    assert loss == pytest.approx(history.valid[-1], abs=5e-4)
    assert loss == pytest.approx(load_json("results.json")["06.pretrained.valid"], abs=5e-4)
