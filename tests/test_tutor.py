"""Sums as text: the questions, the one who knows, what is learned, and how it is marked."""

import hashlib
import json

import pytest
import torch
from book_reader import ROOT
from fitting import fit
from torch import nn

from charlm_utils.book.studies import ch09
from charlm_utils.book.studies.ch09 import (
    StartsFrom,
    exact_by_carries,
    sums_run,
    teach,
    tutor_and_exam,
)
from charlm_utils.book.studies.runs import read_settings
from charlm_utils.checkpoint import load_checkpoint
from charlm_utils.data import IGNORE, CharVocab
from charlm_utils.models import CharLM
from charlm_utils.saves import CheckpointError
from charlm_utils.training import mean_loss
from charlm_utils.tutor import (
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


@pytest.mark.parametrize(("limit", "held_out"), [(0, 0.0), (10, 1.0), (10, -0.1), (10, 7)])
def test_pairs_that_cannot_be_split(limit, held_out):
    with pytest.raises(ValueError, match=f"not {limit} and {held_out}"):
        split_pairs(limit, held_out)


def fingerprint(values):
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()[:16]


def test_a_seed_gives_the_questions_that_it_gave_when_the_studies_were_recorded():
    taught, held = split_pairs(100, 0.1, seed=3)
    assert held[:4].tolist() == [[17, 89], [38, 52], [13, 50], [44, 83]]
    assert (fingerprint(taught.tolist()), fingerprint(held.tolist())) == (
        "bb7a4bd4226bc436",
        "f00f7fcdc1640bab",
    )
    torch.manual_seed(99)  # which is not asked
    tutor = Tutor(taught, seed=3)
    asked = [tutor.ask(256) for _ in range(20)]
    assert asked[0][:4] == ["4+16=?", "10+87=?", "70+87=?", "31+4=?"]
    assert fingerprint(asked) == "deed7369fb71d62b"


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


def test_a_tao_descends_only_after_it_has_listened():
    listener = tao()
    before = [p.clone() for p in listener.model.parameters()]
    for _ in range(2):
        with pytest.raises(ValueError, match="nothing was listened to"):
            listener.descent()
        assert listener.losses == [1.0] * len(listener.losses)
        listener.listen(*lesson("1+2=?"))
        listener.descent()
        listener.losses[-1] = 1.0
    changed = zip(before, listener.model.parameters(), strict=True)
    assert len(listener.losses) == 2 and not any(torch.equal(a, b) for a, b in changed)


@pytest.mark.parametrize("random", [False, True])
def test_a_tao_listens_where_its_network_lies(random):
    """`meta` is a device without numbers, on which shapes and places are checked all the same."""
    network = VanillaRNN(15, 32, 15).to("meta")
    listener = Tao(network, Char2Vec(SYMBOLS))
    listener.init_hidden(random).listen(*lesson("1+2=?"))
    assert listener.loss.device.type == listener.hidden.device.type == "meta"
    exact = Tao(VanillaRNN(15, 32, 15).double(), Char2Vec(SYMBOLS))
    exact.init_hidden(random).listen(*lesson("1+2=?"))
    assert exact.loss.dtype == torch.float64


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


def small_lessons(steps=5):
    return Lessons(Tutor(split_pairs(4, 0.0)[0], seed=2), VOCAB, 4, steps)


def drawn(lessons, epoch):
    lessons.epoch = epoch
    return [x.tolist() for x, _ in lessons]


def test_an_epoch_of_lessons_is_the_same_whenever_it_is_read():
    running = small_lessons()
    one_after_another = [[x.tolist() for x, _ in running] for _ in range(3)]  # as `teach` reads
    assert one_after_another[0] != one_after_another[1]
    lessons = small_lessons()
    next(iter(lessons))  # a glance, as `fit` takes one for the shape
    for epoch in (0, 1, 2, 1, 0, 0):
        assert drawn(lessons, epoch) == one_after_another[epoch]
    late = small_lessons()
    assert drawn(late, 2) == one_after_another[2]  # without the first two


class Halting:
    """Lessons that end the run with Ctrl-C before their batch number `at`."""

    contiguous = False

    def __init__(self, lessons, at):
        self.lessons, self.at, self.given = lessons, at, -1  # the first is the glance of `fit`

    def __len__(self):
        return len(self.lessons)

    def __iter__(self):
        self.lessons.epoch = getattr(self, "epoch", None)
        for batch in self.lessons:
            if self.given == self.at:
                raise KeyboardInterrupt
            self.given += 1
            yield batch


@pytest.mark.parametrize("same_object", [False, True])
def test_a_model_taught_by_fit_resumes_to_the_last_bit(tmp_path, same_object):
    def pupil():
        torch.manual_seed(0)
        return CharLM(len(VOCAB), 8, nn.GRU(8, 12, batch_first=True))

    x, y = make_batch(both_orders(split_pairs(4, 0.0)[0]), VOCAB)
    valid = type("Exam", (list,), {"contiguous": False})([(x, y)])
    options = {"epochs": 4, "lr": 2e-2, "precision": "float32"}
    whole, resumed = pupil(), pupil()
    expected = fit(whole, small_lessons(), valid, **options)
    lessons = small_lessons()
    with pytest.raises(KeyboardInterrupt):
        fit(pupil(), Halting(lessons, 12), valid, checkpoint_dir=tmp_path, **options)
    lessons = lessons if same_object else small_lessons()
    found = fit(resumed, lessons, valid, checkpoint_dir=tmp_path, resume=True, **options)
    assert (found.train, found.valid) == (expected.train, expected.valid)
    for one, other in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, other)


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


def watched(monkeypatch):
    """What `teach` is given: the first weights of the model, the lessons and the exam."""
    given = {}

    def note(model, lessons, exam, **recipe):
        weights = next(model.parameters()).detach().clone()
        given.update(lessons=lessons, exam=exam, weights=weights)
        return teach(model, lessons, exam, **recipe)

    monkeypatch.setattr(ch09, "teach", note)
    return given


@pytest.mark.parametrize("seed", [0, 3])
@pytest.mark.parametrize("own_streams", [False, True])
def test_a_run_is_examined_on_pairs_that_were_never_taught(monkeypatch, seed, own_streams):
    given = watched(monkeypatch)
    settings = TINY | {"limit": 12, "held_out": 0.2, "seed": seed, "own_streams": own_streams}
    sums_run(settings | {"rounds": 1, "steps": 2})
    taught = set(both_orders(given["lessons"].tutor.pairs))
    assert len(given["exam"]) > 20 and not taught & set(given["exam"])
    assert set(given["lessons"].tutor.ask(2_000)) <= taught
    assert taught | set(given["exam"]) == {f"{a}+{b}=?" for a in range(12) for b in range(12)}


def test_an_exam_of_no_pairs_is_refused():
    assert set(tutor_and_exam(TINY)[1]) == set(both_orders(split_pairs(4, 0.0)[0]))  # as asked for
    with pytest.raises(ValueError, match="0.01 of 10 pairs is none"):
        sums_run(TINY | {"held_out": 0.01})


def test_a_long_exam_is_thinned_out():
    whole = tutor_and_exam({"held_out": 0.2, "exam": 10_000})[1]
    assert len(whole) > 1_900
    for most in (100, len(whole) - 1, len(whole), len(whole) + 1):
        asked = tutor_and_exam({"held_out": 0.2, "exam": most})[1]
        assert most // 2 <= len(asked) <= most and set(asked) <= set(whole)


def test_streams_of_their_own():
    """Recorded runs draw weights, pairs and questions from one seed; new ones need not."""
    torch.manual_seed(5)
    of_weights = torch.rand(4).tolist()

    def rand(tutor):
        return torch.rand(4, generator=tutor.generator).tolist()

    shared, own = (tutor_and_exam({"seed": 5, "own_streams": on})[0] for on in (False, True))
    again, other = (tutor_and_exam({"seed": n, "own_streams": True})[0] for n in (5, 6))
    assert rand(shared) == of_weights
    first = rand(own)
    assert first == rand(again) and first not in (of_weights, rand(other))
    assert not torch.equal(shared.pairs, own.pairs)


def states_given(monkeypatch, settings):
    """Of each batch in training: whether the network was given a state to begin from."""
    seen, real = [], VanillaRNN.forward

    def forward(self, x, hidden=None):
        if self.training:
            seen.append(None if hidden is None else hidden.clone())
        return real(self, x, hidden)

    monkeypatch.setattr(VanillaRNN, "forward", forward)
    sums_run(TINY | {"cell": "tanh", "rounds": 2, "steps": 5} | settings)
    assert len(seen) == 10
    return seen


def test_each_start_is_what_it_says(monkeypatch):
    assert states_given(monkeypatch, {"start": "zero"}) == [None] * 10


def test_a_random_start_is_drawn_for_each_question(monkeypatch):
    states = states_given(monkeypatch, {"start": "random"})
    rows = {tuple(row) for state in states for row in state.tolist()}
    assert len(rows) == 10 * TINY["batch_size"]


def test_a_carried_start_is_where_the_last_question_ended(monkeypatch):
    ends, real = [], VanillaRNN.forward

    def forward(self, x, hidden=None):
        logits, end = real(self, x, hidden)
        if self.training:
            ends.append(end.detach().clone())
        return logits, end

    monkeypatch.setattr(VanillaRNN, "forward", forward)
    first, *states = states_given(monkeypatch, {"start": "carried"})
    assert first is None and len(ends) == 10
    assert all(torch.equal(a, b) for a, b in zip(states, ends[:-1], strict=True))


@pytest.mark.parametrize("own_streams", [False, True])
def test_the_weights_of_a_run_depend_on_its_seed_alone(monkeypatch, own_streams):
    """They are those with which the studies were recorded, whatever was drawn before."""
    given = watched(monkeypatch)
    torch.manual_seed(99)
    sums_run(TINY | {"cell": "tanh", "rounds": 1, "steps": 1, "own_streams": own_streams})
    assert given["weights"][0, :3].tolist() == pytest.approx([-0.00119885, 0.08589972, -0.13179269])


def test_exact_by_carries():
    exam = ["1+2=?", "2+2=?", "5+5=?", "99+1=?"]
    assert exact_by_carries(["3", "5", "10", "10"], exam) == [0.5, 1.0, 0.0]
    assert exact_by_carries(["3", "100"], ["1+2=?", "99+1=?"]) == [1.0, None, 1.0]


def test_unknown_settings_are_refused():
    with pytest.raises(ValueError, match="hiden_size"):
        sums_run({"hiden_size": 3})


@pytest.mark.parametrize("name", ch09.STUDIES)
def test_every_point_is_one_the_run_knows(name):
    points = ch09.STUDIES[name].points([])
    assert len({json.dumps(point, sort_keys=True) for point in points}) == len(points)
    assert all(read_settings(ch09.Settings, point) for point in points)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"cell": "tanh", "start": "zeros"}, "zero, random or carried, not 'zeros'"),
        ({"cell": "gru", "start": "carried"}, "only the cells linear and tanh"),
    ],
)
def test_a_start_that_there_is_not_is_named(settings, words):
    with pytest.raises(ValueError, match=words):
        sums_run(TINY | settings | {"rounds": 1, "steps": 1})
