"""Sums as text: the questions, the one who knows, what is learned, and how it is marked."""

import json

import pytest
import torch
from book_reader import ROOT
from torch import nn

from charlm_utils import sweeps_sums
from charlm_utils.arithmetic import (
    NUL,
    SYMBOLS,
    Char2Vec,
    Form,
    Lessons,
    Tao,
    Tutor,
    VanillaRNN,
    ask,
    both_orders,
    carries,
    exact_match,
    lesson,
    make_batch,
    predict_next,
    sensei,
    split_pairs,
)
from charlm_utils.batching import IGNORE
from charlm_utils.checkpoint import CheckpointError, load_checkpoint
from charlm_utils.models import CharLM
from charlm_utils.steps import mean_loss
from charlm_utils.sweeps_sums import StartsFrom, exact_by_carries, sums_run, teach
from charlm_utils.vocab import CharVocab

VOCAB = CharVocab(SYMBOLS)
WRITTEN = Form(reverse=False, width=2)


# ---- who asks and who knows -------------------------------------------------------------------


def test_sensei_knows_every_sum():
    for a in range(0, 130, 7):
        for b in range(0, 130, 3):
            assert sensei(f"{a}+{b}=?") == str(a + b)
            assert sensei(f"{a}-{b}=?") == str(a - b)
    assert sensei("007+05=?") == "12"


@pytest.mark.parametrize(
    "text",
    ["", "1+2", "1+2=", "1+2=??", "1 + 2=?", "1*2=?", "1+2+3=?", "+2=?", "1+=?", "-1+2=?"]
    + ["__import__('os').getcwd()=?", "١+٢=?", "1+2=?\n", "9" * 100 + "+1=?"],
)
def test_what_is_no_sum_is_refused_and_never_run(text):
    with pytest.raises(ValueError, match="is no sum"):
        sensei(text)


def test_held_out_pairs_are_asked_in_neither_order():
    taught, held = split_pairs(30, 0.2, seed=3)
    assert len(taught) + len(held) == 30 * 31 // 2 and len(held) == 93
    assert not set(both_orders(taught)) & set(both_orders(held))
    everything = {f"{a}+{b}=?" for a in range(30) for b in range(30)}
    assert set(both_orders(taught)) | set(both_orders(held)) == everything
    assert len(both_orders(taught)) + len(both_orders(held)) == len(everything)
    again, _ = split_pairs(30, 0.2, seed=3)
    other, _ = split_pairs(30, 0.2, seed=4)
    assert torch.equal(taught, again) and not torch.equal(taught, other)
    assert len(split_pairs(10, 0.0)[1]) == 0


def test_the_tutor_asks_only_its_pairs_in_either_order():
    taught, held = split_pairs(8, 0.25)
    asked = Tutor(taught, seed=1).ask(4_000)
    assert set(asked) == set(both_orders(taught))
    assert asked == Tutor(taught, seed=1).ask(4_000) != Tutor(taught, seed=2).ask(4_000)
    assert Tutor(torch.tensor([[2, 9]]), sign="-").ask(50).count("9-2=?") in range(10, 41)


@pytest.mark.parametrize(
    ("question", "count"),
    [("12+34=?", 0), ("19+1=?", 1), ("67+58=?", 2), ("50+50=?", 1), ("95+7=?", 2), ("0+0=?", 0)]
    + [("999+1=?", 3), ("5+5=?", 1)],
)
def test_carries(question, count):
    assert carries(question) == count


# ---- what is read and said --------------------------------------------------------------------


def test_a_lesson_aligns_what_is_read_and_said():
    assert lesson("12+34=?") == ("12+34=?64", "\0\0\0\0\0\0" + "64\0")
    assert lesson("1+2=?", WRITTEN) == ("1+2=?\0" + "3", "\0\0\0\0\0" + "3\0")
    for form in (Form(), Form(reverse=False), WRITTEN, Form(width=3)):
        for number in ("0", "7", "10", "99"):
            assert form.number(form.say(number) + NUL + "55") == number
            assert form.number(form.say(number)) == number


def test_the_question_is_masked_and_the_answer_is_not():
    questions = ["1+2=?", "67+58=?"]
    x, y = make_batch(questions, VOCAB)
    assert x.shape == y.shape == (2, 10)
    for row, (question, answer) in enumerate(zip(questions, ("3", "521"), strict=True)):
        said = VOCAB.decode(y[row][y[row] != IGNORE])
        assert said == answer + NUL
        assert (y[row, : len(question) - 1] == IGNORE).all()
        assert VOCAB.decode(x[row]).rstrip(NUL) == question + answer
    logits = torch.randn(2, 10, len(VOCAB), requires_grad=True)
    mean_loss(logits, y).backward()
    silent = logits.grad.abs().sum(dim=2)[y == IGNORE]
    assert silent.numel() == 20 - 2 - 4 and (silent == 0).all()


class Oracle(nn.Module):
    """Looks up the answer, and says it in the given form."""

    def __init__(self, form, wrong=()):
        super().__init__()
        self.form, self.wrong, self.weight = form, wrong, nn.Parameter(torch.zeros(1))

    def forward(self, x, state=None):
        state = [""] * len(x) if state is None else state
        state = [text + VOCAB.decode(row) for text, row in zip(state, x, strict=True)]
        logits = torch.zeros(*x.shape, len(VOCAB))
        for row, text in enumerate(state):
            question, said = text[: text.index("?") + 1], text[text.index("?") + 1 :]
            answer = self.form.say("1" if question in self.wrong else sensei(question))
            logits[row, -1, VOCAB.stoi[(answer + NUL * 20)[len(said)]]] = 1
        return logits, state


@pytest.mark.parametrize("form", [Form(), Form(reverse=False), WRITTEN, Form(width=3)])
def test_an_oracle_is_always_right(form):
    questions = both_orders(split_pairs(100, 0.01)[1])
    assert exact_match(ask(Oracle(form), VOCAB, questions, form), questions) == 1.0
    wrong = [q for q in questions[:10] if sensei(q) != "1"]
    marked = ask(Oracle(form, wrong), VOCAB, questions, form)
    assert exact_match(marked, questions) == pytest.approx(1 - len(wrong) / len(questions))


def test_whole_answers_are_marked_not_characters():
    assert exact_match(["46", "47"], ["12+34=?", "12+34=?"]) == 0.5
    assert exact_match(["046"], ["12+34=?"]) == 0.0
    with pytest.raises(ValueError, match="0 questions"):
        exact_match([], [])
    with pytest.raises(ValueError, match="zip"):
        exact_match(["1"], ["1+0=?", "2+0=?"])


def test_an_answer_without_an_end_is_wrong():
    class Stutters(Oracle):
        def forward(self, x, state=None):
            logits = torch.zeros(*x.shape, len(VOCAB))
            logits[:, -1, VOCAB.stoi["3"]] = 1
            return logits, None

    assert ask(Stutters(Form()), VOCAB, ["1+2=?"], longest=5) == ["33333"]


# ---- source 004's network and its Tao ---------------------------------------------------------


def test_vanilla_rnn_is_torchs_rnn():
    ours, theirs = VanillaRNN(15, 8, 15).double(), nn.RNN(15, 8, batch_first=True).double()
    with torch.no_grad():
        theirs.weight_ih_l0.copy_(ours.xhh.weight[:, :15])
        theirs.weight_hh_l0.copy_(ours.xhh.weight[:, 15:])
        theirs.bias_ih_l0.copy_(ours.xhh.bias)
        theirs.bias_hh_l0.zero_()
    x = torch.randint(15, (3, 6))
    out, state = theirs(nn.functional.one_hot(x, 15).double())
    logits, hidden = ours(x)
    torch.testing.assert_close(logits, ours.ho(out))
    torch.testing.assert_close(hidden, state[0])


def test_the_linear_one_adds_up_its_characters():
    torch.manual_seed(0)
    model = VanillaRNN(15, 8, 15, linear=True).double()

    def last(question):
        return model(VOCAB.encode(question)[None])[0][0, -1]

    mixed = last("1+2=?") - last("1+7=?") - last("5+2=?") + last("5+7=?")
    assert mixed.abs().max() < 1e-12
    model.linear = False
    assert (last("1+2=?") - last("1+7=?") - last("5+2=?") + last("5+7=?")).abs().max() > 1e-6


def tao(seed=0, **options):
    torch.manual_seed(seed)
    return Tao(VanillaRNN(15, 32, 15, **options), Char2Vec(SYMBOLS), lr=1e-2)


def test_two_taos_share_nothing():
    first, second = tao(), tao()
    before = [p.clone() for p in second.model.parameters()]
    for _ in range(5):
        first.init_hidden().listen(*lesson("1+2=?"))
    first.descent()
    assert all(torch.equal(a, b) for a, b in zip(before, second.model.parameters(), strict=True))
    changed = zip(before, first.model.parameters(), strict=True)
    assert not any(torch.equal(a, b) for a, b in changed)


def test_five_questions_are_five_times_a_batch_of_five():
    single, questions = tao(), ["1+2=?", "3+4=?", "0+9=?", "2+2=?", "8+1=?"]
    for question in questions:
        single.init_hidden().listen(*lesson(question), skip=len(question) - 1)
    single.loss.backward()
    x, y = make_batch(questions, VOCAB)
    batch = tao().model
    mean_loss(batch(x)[0], y).backward()
    for one, five in zip(single.model.parameters(), batch.parameters(), strict=True):
        torch.testing.assert_close(one.grad, 5 * five.grad)


def test_a_tao_learns_saves_and_loads(tmp_path):
    first = tao()
    for step in range(150):
        for question in ("1+2=?", "1+1=?", "4+5=?"):
            first.init_hidden().listen(*lesson(question))
        first.descent()
        assert len(first.losses) == step + 1 and first.loss == 0.0
    assert first.losses[-1] < 0.1 * first.losses[0]
    first.save(tmp_path)
    second = tao(seed=1).load(tmp_path)
    assert second.losses == first.losses
    for question in ("1+2=?", "1+1=?", "4+5=?"):
        said = sensei(question) + NUL
        assert (
            predict_next(first, question, 2, 0.05)
            == predict_next(second, question, 2, 0.05)
            == said
        )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["history.json", "model.safetensors"]
    with pytest.raises(CheckpointError, match="ho.weight has shape"):
        Tao(VanillaRNN(15, 31, 15), Char2Vec(SYMBOLS)).load(tmp_path)


def test_temperature_counts_from_the_first_character():
    listener = tao()
    hot = {predict_next(listener, "1+2=?", 1, 100.0, seed=s) for s in range(60)}
    cold = {predict_next(listener, "1+2=?", 1, 1e-3, seed=s) for s in range(60)}
    assert len(hot) > 8 and len(cold) == 1


def test_carried_states_are_detached():
    listener = tao()
    listener.listen(*lesson("1+2=?"))
    listener.descent()
    listener.listen(*lesson("1+1=?"))
    listener.descent()  # would fail on a graph that is gone
    assert listener.hidden.grad_fn is not None and listener.hidden.shape == (1, 32)


def test_char2vec_there_and_back():
    char2vec = Char2Vec(SYMBOLS)
    rows = char2vec.one_hot("1+2=?\0")
    assert rows.shape == (6, 15) and (rows.sum(dim=1) == 1).all()
    assert char2vec.vec2str(rows.argmax(dim=1)) == "1+2=?\0"
    with pytest.raises(ValueError, match="'x'"):
        char2vec.char_code("1x2")


def test_the_adder_of_the_package():
    model, vocab, history = load_checkpoint("gru-sums")
    assert vocab.itos == list(SYMBOLS) and len(history.valid) == 10
    exam = both_orders(split_pairs(100, 0.2)[1])
    assert exact_match(ask(model, vocab, exam), exam) >= 0.999
    folder = ROOT / "charlm_utils" / "pretrained" / "gru-sums"
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 600_000


# ---- teaching and the studies -----------------------------------------------------------------

TINY = {"limit": 4, "held_out": 0.0, "hidden_size": 24, "embedding_dim": 8, "batch_size": 8}
TINY |= {"rounds": 3, "steps": 60, "lr": 2e-2, "weight_decay": 0.0}


def test_teaching_teaches():
    torch.manual_seed(0)
    model = CharLM(len(VOCAB), 8, nn.GRU(8, 24, batch_first=True))
    taught, _ = split_pairs(4, 0.0)
    lessons, exam = Lessons(Tutor(taught), VOCAB, 16, 60), both_orders(taught)
    found = teach(model, lessons, exam, rounds=4, lr=2e-2)
    assert {len(curve) for curve in found.values()} == {4}
    assert found["exact"][-1] == 1.0 and found["valid"][-1] < 0.1
    assert found["characters"] == [60 * 16 * 6 * n for n in (1, 2, 3, 4)]


@pytest.mark.parametrize("cell", ["gru", "linear", "tanh"])
def test_a_run_and_its_first_round(cell):
    found = sums_run(TINY | {"cell": cell, "width": 2})
    assert len(found["valid"]) == len(found["train"]) == len(found["seconds"]) == 3
    assert found["valid"][-1] < found["valid"][0]
    assert found["from_zero"] == found["exact"][-1] == pytest.approx(found["carries"][-1][0])
    assert sums_run(TINY | {"cell": cell, "width": 2}, stop_after=1)["valid"] == found["valid"][:1]


@pytest.mark.parametrize("start", ["random", "carried"])
def test_other_starts(start):
    settings = TINY | {"cell": "tanh", "start": start}
    found, zero = sums_run(settings), sums_run(TINY | {"cell": "tanh"})
    assert found["valid"][0] != zero["valid"][0]
    model = VanillaRNN(15, 6, 15)
    lessons = Lessons(Tutor(torch.tensor([[1, 2]])), VOCAB, 4, 1)
    x, _ = make_batch(["1+2=?"], VOCAB)
    wrapped = StartsFrom(model, start, lessons).eval()
    assert not torch.equal(wrapped(x)[0], model(x)[0])
    assert torch.equal(wrapped(x, torch.ones(1, 6))[0], model(x, torch.ones(1, 6))[0])


def test_exact_by_carries():
    exam = ["1+2=?", "2+2=?", "5+5=?", "99+1=?"]
    assert exact_by_carries(["3", "5", "10", "10"], exam) == [0.5, 1.0, 0.0]
    assert exact_by_carries(["3", "100"], ["1+2=?", "99+1=?"]) == [1.0, None, 1.0]


def test_unknown_settings_are_refused():
    with pytest.raises(ValueError, match="hiden_size"):
        sums_run({"hiden_size": 3})


@pytest.mark.parametrize("name", sweeps_sums.STUDIES)
def test_every_point_is_one_the_run_knows(name):
    points = sweeps_sums.STUDIES[name].points([])
    assert len({json.dumps(point, sort_keys=True) for point in points}) == len(points)
    assert all(point.keys() <= sweeps_sums.DEFAULTS.keys() for point in points)
