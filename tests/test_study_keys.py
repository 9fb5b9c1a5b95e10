"""Numbers from recorded studies equal a value of their lines in book/runs, to the last digit."""

import json
import re

import pytest
import study_keys
from book_reader import load_json

RESULTS = load_json("results.json")
FROM_STUDIES = [key for key in RESULTS if study_keys.entry(key)]
CLOSE = 0.01  # nats: so near a live run and the study that repeats it must be in any case


@pytest.mark.parametrize("key", FROM_STUDIES)
def test_a_number_is_that_of_its_lines(key, record_property):
    assert RESULTS[key] == study_keys.computed(key)
    record_property("counted", "1 study keys checked")


def test_every_study_key_has_an_entry():
    studies = [key for key in RESULTS if ".study." in key]
    assert set(studies) <= set(FROM_STUDIES) | study_keys.LIVE
    assert set(studies) >= study_keys.LIVE and len(studies) > 60


@pytest.mark.parametrize("pattern", study_keys.TABLE)
def test_no_entry_is_left_over(pattern):
    assert any(re.fullmatch(pattern, key) for key in RESULTS)


def test_one_entry_for_each_key():
    for key in FROM_STUDIES:
        assert len([p for p in study_keys.TABLE if re.fullmatch(p, key)]) == 1, key


@pytest.mark.parametrize("key", study_keys.REPEATED)
def test_a_live_number_is_repeated_by_its_study(key, record_property):
    study = study_keys.REPEATED[key]
    if (again := study_keys.repeated(key)) is None:
        pytest.skip(f"`charlm study {study}` is not finished: nothing repeats {key} yet")
    spreads = load_json("spreads.json")
    allowed = min(max(spreads[key], 1e-3), CLOSE)
    assert abs(again - RESULTS[key]) <= allowed, f"{study} says {again}"
    record_property("counted", "1 live headlines repeated by their study")


@pytest.mark.parametrize("key", study_keys.LIVE)
def test_what_only_looks_like_a_study_key_is_measured_live(key):
    assert study_keys.entry(key) is None and key in load_json("spreads.json")


# ---- the table bites --------------------------------------------------------------------------


@pytest.fixture
def study(monkeypatch, tmp_path):
    """Recorded lines of one study, by a function that writes them."""
    monkeypatch.setattr(study_keys, "RUNS", tmp_path)

    def write(name, *lines):
        study_keys._read.cache_clear()
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (tmp_path / f"{name}.jsonl").write_text(text, encoding="utf-8")

    return write


def line(*valid, **settings):
    return {"settings": settings, "valid": list(valid), "train": [v - 0.1 for v in valid]}


def test_the_search_is_not_what_is_reported(study):
    study("gru_long", line(9.0, 1.1, tune=True), line(9.0, 1.31, seed=0), line(9.0, 1.34, seed=1))
    assert study_keys.computed("06.study.gru_long") == 1.325


def test_the_last_loss_is_taken_and_the_right_line(study):
    study("lstm_long", line(1.2, 1.3, label="first"), line(1.1, 1.24432, label="mean"))
    assert study_keys.computed("07.study.ours.mean") == 1.2443
    assert study_keys.computed("07.study.ours.mean.train") == 1.1443
    assert study_keys.computed("07.study.ours.first") == 1.3
    with pytest.raises(AssertionError, match="label.*longer"):
        study_keys.computed("07.study.ours.longer")


def test_a_run_that_broke_off_is_no_result(study):
    study(
        "identity",
        line(1.2, start="torch", nonlinearity="relu") | {"diverged": "step 3"},
        line(1.4, start="torch", nonlinearity="relu"),
        line(1.1, start="identity", nonlinearity="relu"),
    )
    assert study_keys.computed("05.study.identity.relu") == 1.4


def test_a_number_without_a_run_fails(study):
    with pytest.raises(AssertionError, match="rnn_long.jsonl is missing"):
        study_keys.computed("05.study.rnn_long")
    study("rnn_long", line(1.2, tune=True))
    with pytest.raises(AssertionError, match="no run of rnn_long"):
        study_keys.computed("05.study.rnn_long")
