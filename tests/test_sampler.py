"""The page's own GRU: the build hands it over whole, and in a real browser it equals PyTorch's."""

import base64
import html
import importlib.util
import json
import random
import re
import shutil
import subprocess
import sys

import nbformat
import numpy as np
import pytest
import torch
from book_reader import ROOT, tool
from safetensors.torch import load_file, save_file
from sphinx.errors import ExtensionError

from charlm_utils import tutor
from charlm_utils.checkpoint import History, load_checkpoint, save_checkpoint
from charlm_utils.data import CharVocab
from charlm_utils.models import CharLM, make_core
from charlm_utils.sampling import generate, next_char_probs, scaled_probs
from charlm_utils.training import train_step

EXT, JS = ROOT / "book" / "_ext", ROOT / "book" / "sampler"
PRETRAINED = ROOT / "charlm_utils" / "pretrained" / "gru-nietzsche"
VOCAB = CharVocab.from_text("\n !\"'(),-.0123456789:;?abcdefghijklmnopqrstuvwxyzäé🙂")
H = 70  # neither the embedding's width nor a multiple of a row of the picture
TEMPERATURES, TOP_K = (0.2, 0.8, 1.0, 1.5), (None, 20, 5, 1)

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
needs_browser = pytest.mark.skipif(
    BROWSER is None, reason="no chromium, chromium-browser or google-chrome on this machine"
)

spec = importlib.util.spec_from_file_location("charlm_sampler", EXT / "charlm_sampler.py")
builder = importlib.util.module_from_spec(spec)
spec.loader.exec_module(builder)


def new_model(num_layers):
    """A GRU with opinions (its weights are scaled up), rounded to float16."""
    torch.manual_seed(num_layers)
    model = CharLM(len(VOCAB), 24, make_core("gru", 24, H, num_layers))
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(3)
    return model.eval().half()


@pytest.fixture(scope="module")
def standin(tmp_path_factory):
    """A checkpoint folder by number of layers."""

    def make(num_layers):
        folder = tmp_path_factory.mktemp(f"layers{num_layers}") / "gru-nietzsche"
        save_checkpoint(folder, new_model(num_layers), VOCAB, History())
        return folder

    return make


@pytest.fixture(scope="module")
def folder(standin):
    return standin(1)


# ---- the weights as a script ------------------------------------------------------------------


def saved_in(script):
    """What a browser would find in window.charlmModels["gru-nietzsche"]."""
    start = 'window.charlmModels["gru-nietzsche"] = '
    return json.loads(script.split(start, 1)[1].rstrip().removesuffix(";"))


def test_script_holds_every_tensor_bit_for_bit(folder):
    saved = saved_in(builder.model_script(folder))
    tensors = load_file(folder / "model.safetensors")
    assert saved["tensors"].keys() == tensors.keys()
    for name, tensor in tensors.items():
        found = saved["tensors"][name]
        values = np.frombuffer(base64.b64decode(found["data"]), dtype="<f2")
        assert np.array_equal(values.reshape(found["shape"]), tensor.numpy()), name
    assert saved["vocab"] == VOCAB.itos
    assert saved["model"]["hidden_size"] == H


def test_float32_weights_are_rounded_and_what_does_not_fit_is_an_error(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "gru-nietzsche")
    tensors = {n: t.float() * 1.0001 for n, t in load_file(copy / "model.safetensors").items()}
    save_file(tensors, copy / "model.safetensors")
    data = saved_in(builder.model_script(copy))["tensors"]["head.bias"]["data"]
    assert base64.b64decode(data) == tensors["head.bias"].half().numpy().tobytes()
    tensors["head.bias"][0] = float("nan")
    save_file(tensors, copy / "model.safetensors")
    with pytest.raises(ExtensionError, match="head.bias holds numbers that float16 does not"):
        builder.model_script(copy)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", None, "not the config of a checkpoint"),
        ("config.json", "{}", "not the config of a checkpoint"),
        ("config.json", '{"model": {"core": "lstm"}, "vocab": ["a"]}', "not lstm"),
        ("model.safetensors", None, "not a whole safetensors file"),
        ("model.safetensors", "oops", "not a whole safetensors file"),
    ],
)
def test_a_checkpoint_that_the_page_cannot_run_is_an_error(
    folder, tmp_path, name, content, message
):
    copy = shutil.copytree(folder, tmp_path / "gru-nietzsche")
    (copy / name).unlink()
    if content is not None:
        (copy / name).write_text(content)
    with pytest.raises(ExtensionError, match=message):
        builder.model_script(copy)


@pytest.mark.skipif(not PRETRAINED.is_dir(), reason="the book's own model is not there yet")
def test_the_books_own_model_stays_small():
    assert (PRETRAINED / "model.safetensors").stat().st_size <= 1_000_000
    assert len(builder.model_script(PRETRAINED)) <= 1_400_000


# ---- the build --------------------------------------------------------------------------------

PLACE = '<div class="charlm-{}"></div>\n'
SAMPLER, NEURONS, TAO = (PLACE.format(name) for name in ("sampler", "neurons", "tao"))


def build_book(folder, pages, model, tao="none"):
    """Build a book of these pages ({name: Markdown}) with Sphinx; the finished process."""
    for name, text in pages.items():
        path = folder / "src" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".ipynb":
            cells = [nbformat.v4.new_markdown_cell(text)]
            nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
        else:
            path.write_text(text)
    others = [name for name in pages if name != "index.md"]
    with (folder / "src" / "index.md").open("a") as index:
        index.write("\n```{toctree}\n" + "\n".join(others) + "\n```\n")
    (folder / "src" / "conf.py").write_text(
        f"import sys\nsys.path.insert(0, {str(EXT)!r})\n"
        "extensions = ['myst_nb', 'charlm_sampler']\nnb_execution_mode = 'off'\n"
        f"charlm_sampler_model = {str(model)!r}\ncharlm_tao_model = {str(tao)!r}\n"
    )
    command = [sys.executable, "-m", "sphinx", "-q", "-b", "html", "src", "out"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)


def links(path):
    """Files of this extension that a page loads, in order; each of them is there."""
    found = re.findall(r'(?:src|href)="([^"]*/charlm/[^"?]*)', path.read_text())
    assert [link for link in found if not (path.parent / link).is_file()] == []
    assert not any(re.match(r"/|\w+:", link) for link in found)
    return [link.rsplit("/", 1)[1] for link in found]


def test_only_pages_with_a_place_are_linked(folder, tmp_path):
    pages = {
        "index.md": f"# Plain\n\n```html\n{SAMPLER}```\n\nand `{NEURONS.strip()}`\n",
        "deep/er/write.md": f"# Write\n\n{SAMPLER}",
        "deep/look.ipynb": f"# Look\n\nWords.\n\n{NEURONS}",
        "both.md": f"# Both\n\n{SAMPLER}\n```{{raw}} html\n{NEURONS}```\n",
    }
    run = build_book(tmp_path, pages, folder)
    assert run.returncode == 0 and run.stderr == ""
    out, before = tmp_path / "out", ["sampler.css", "gru.js", "page.js", "gru-nietzsche.js"]
    assert links(out / "index.html") == []
    assert links(out / "search.html") == []
    assert links(out / "deep/er/write.html") == [*before, "sampler.js"]
    assert links(out / "deep/look.html") == [*before, "neurons.js"]
    assert links(out / "both.html") == [*before, "neurons.js", "sampler.js"]
    assert (out / "both.html").read_text().count("<noscript>") == 2
    assert "<noscript>" not in (out / "index.html").read_text()


def test_a_missing_model_is_an_error_only_where_a_page_wants_it(tmp_path):
    missing = tmp_path / "none" / "gru-nietzsche"
    plain, place = {"index.md": "# Plain\n\nWords.\n"}, {"index.md": f"# Place\n\n{SAMPLER}"}
    run = build_book(tmp_path / "plain", plain, missing)
    assert run.returncode == 0
    assert not (tmp_path / "plain/out/_static/charlm").exists()
    run = build_book(tmp_path / "place", place, missing)
    assert run.returncode != 0
    assert f"index has a place for the model, but there is no {missing}" in run.stderr


# ---- a real browser ---------------------------------------------------------------------------

PAGE = """<!DOCTYPE html><html><head><meta charset="utf-8">
<link rel="stylesheet" href="sampler.css"></head><body>{body}<pre id="result"></pre>
<script>window.requestAnimationFrame = (call) => setTimeout(call, 1);
window.cancelAnimationFrame = clearTimeout; // frames are rare in a window that nobody sees
</script>
{scripts}<script>
(async () => {{
  {script}
}})().catch((error) => ({{ error: String(error.stack) }})).then((result) => {{
  document.getElementById("result").textContent = JSON.stringify(result);
}});
</script></body></html>"""


def in_browser(place, checkpoint, script, *, body="", widgets=(), gru=None):
    """Run JavaScript beside the book's scripts on a page read from file://; what it returns."""
    shutil.copytree(JS, place, dirs_exist_ok=True)
    (place / "model.js").write_text(builder.model_script(checkpoint))
    if gru is not None:
        (place / "gru.js").write_text(gru)
    names = ("gru.js", "page.js", "model.js", *widgets)
    tags = "".join(f'<script src="{name}"></script>\n' for name in names)
    page = place / "page.html"
    page.write_text(PAGE.format(body=body, scripts=tags, script=script), encoding="utf-8")
    command = [BROWSER, "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run"]
    command += [f"--user-data-dir={place / 'profile'}", "--virtual-time-budget=60000"]
    run = subprocess.run(
        [*command, "--dump-dom", page.as_uri()], capture_output=True, timeout=120, encoding="utf-8"
    )
    found = re.search(r'<pre id="result">(.+?)</pre>', run.stdout, re.DOTALL)
    assert found, f"the page said nothing: {run.stdout[-2000:]} {run.stderr[-2000:]}"
    result = json.loads(html.unescape(found[1]))
    assert "error" not in result, result["error"]
    return result


def js(value):
    return json.dumps(value)


# ---- the model in the browser -----------------------------------------------------------------

# for the book's own model: on noise a trained GRU is chaotic enough that PyTorch's own float32
# strays from its float64 by more than 1e-4 within a hundred characters
PROSE = (
    "a letter is easy to guess at the end of a word, and hard at its beginning:\n"
    '"why?" asked the reader. in 1886 (as today) nobody had counted.'
)

MODEL = """
const { readModel, step, zeroState, encode, probabilities, ranking, seeded, draw } = window.charlm;
const model = readModel(window.charlmModels["gru-nietzsche"]);
const read = (text) => {
  let state = zeroState(model), logits;
  return encode(model, text).ids.map((id) => ({ logits, state } = step(model, id, state)));
};
const arrays = (list) => list.map((typed) => Array.from(typed));
const message = (call) => { try { call(); return null; } catch (error) { return error.message; } };
"""

PROBE = """
const steps = read(text);
const last = steps.at(-1);
let grown = text, at = last;
for (let i = 0; i < 80; i++) {
  const [id] = ranking(at.logits);
  grown += model.vocab[id];
  at = step(model, id, at.state);
}
const random = seeded(7), probs = probabilities(last.logits, 1, 5), counts = probs.map(() => 0);
for (let i = 0; i < 20000; i++) counts[draw(probs, random)] += 1;
return {
  logits: arrays(steps.map((s) => s.logits)),
  states: steps.map((s) => arrays(s.state)),
  greedy: grown,
  probs: temperatures.map((t) => arrays(topK.map((k) => probabilities(last.logits, t, k ?? 0)))),
  counts: Array.from(counts),
  sequences: [3, 3, 4].map((seed) => Array.from({ length: 8 }, seeded(seed))),
  unknown: message(() => encode(model, "ab" + "€" + "c")),
  lowered: [encode(model, "Ab"), encode(model, "ab")],
};
"""


@pytest.fixture(scope="module", params=["1 layer", "2 layers", "the book's own"])
def probed(request, standin, tmp_path_factory):
    """(model in float32, vocabulary, text, what the browser computed)."""
    if BROWSER is None:
        pytest.skip("no chromium, chromium-browser or google-chrome on this machine")
    if request.param == "the book's own" and not PRETRAINED.is_dir():
        pytest.skip("the book's own model is not there yet")
    own = request.param == "the book's own"
    checkpoint = PRETRAINED if own else standin(int(request.param[0]))
    model, vocab, _ = load_checkpoint(checkpoint)
    text = PROSE if own else "".join(random.Random(0).choices(vocab.itos, k=100))
    values = f"const text = {js(text)}, temperatures = {js(TEMPERATURES)}, topK = {js(TOP_K)};"
    place = tmp_path_factory.mktemp("browser")
    return model.float(), vocab, text, in_browser(place, checkpoint, MODEL + values + PROBE)


def furthest(found, wanted):
    found = torch.tensor(found, dtype=torch.float64)
    assert found.shape == wanted.shape
    return (found - wanted).abs().max().item()


@torch.no_grad()
def test_logits_and_states_are_pytorchs_at_every_step(probed):
    model, vocab, text, found = probed
    logits, _ = model(vocab.encode(text)[None])
    assert furthest(found["logits"], logits[0]) < 1e-4
    exact = in_float64(model)
    state, ids = None, vocab.encode(text)
    for t, (browser_logits, browser_states) in enumerate(
        zip(found["logits"], found["states"], strict=True)
    ):
        logits, state = exact(ids[None, t : t + 1], state)
        assert furthest(browser_logits, logits[0, 0]) < 1e-9
        assert furthest(browser_states, state[:, 0]) < 1e-9


def in_float64(model):
    """The same weights, all sums in float64, as in JavaScript."""
    core = make_core("gru", model.core.input_size, model.core.hidden_size, model.core.num_layers)
    copy = CharLM(model.embedding.num_embeddings, model.embedding.embedding_dim, core)
    copy.load_state_dict(model.state_dict())
    return copy.double()


def test_greedy_text_is_pytorchs(probed):
    model, vocab, text, found = probed
    assert found["greedy"] == generate(model, vocab, text, 80, greedy=True)


@torch.no_grad()
def test_probabilities_are_pytorchs_at_every_temperature_and_top_k(probed):
    model, vocab, text, found = probed
    model = in_float64(model)
    last = model(vocab.encode(text)[None])[0][0, -1]
    for temperature, row in zip(TEMPERATURES, found["probs"], strict=True):
        for top_k, probs in zip(TOP_K, row, strict=True):
            assert furthest(probs, scaled_probs(last, temperature, top_k)) < 1e-5
            kept = sum(p > 0 for p in probs)
            assert kept == min(top_k or len(vocab), len(vocab))
        named = next_char_probs(model, vocab, text, temperature=temperature)
        assert row[0] == pytest.approx([named[c] for c in vocab.itos], abs=1e-5)


def test_draws_follow_the_probabilities_and_the_seed(probed):
    found = probed[-1]
    wanted = np.array(found["probs"][TEMPERATURES.index(1.0)][TOP_K.index(5)])
    counts = np.array(found["counts"])
    assert counts.sum() == 20_000 and (counts[wanted == 0] == 0).all()
    deviation = np.sqrt(20_000 * wanted * (1 - wanted)) + 1
    assert (np.abs(counts - 20_000 * wanted) < 5 * deviation).all()
    first, again, other = found["sequences"]
    assert first == again and not set(first) & set(other)
    assert all(0 <= u < 1 for u in first)


def test_an_unknown_character_is_named_and_capitals_become_small(probed):
    _, vocab, _, found = probed
    assert re.search(r"“€” \(U\+20AC\), character 3 ", found["unknown"])
    capital, small = found["lowered"]
    assert capital == {"ids": vocab.encode("ab").tolist(), "lowered": True}
    assert small == {"ids": vocab.encode("ab").tolist(), "lowered": False}


MUTANTS = {
    "gates swapped": ("reset * fromState", "update * fromState"),
    "reset before the product": ("reset * fromState[2 * H + i]", "fromState[2 * H + i]"),
    "gate order": ("fromInput[H + i]", "fromInput[i]"),
    "update turned round": ("(1 - update) * candidate + update * old", "update * candidate"),
    "a subnormal lost": ("sign * fraction * 2 ** -24", "0"),
    "no bias": ("let sum = bias.values[row]", "let sum = 0"),
}


@needs_browser
def test_a_wrong_step_would_be_noticed(standin, tmp_path):
    """The comparison of logits bites: six mistakes, each moves some logit by more than 1e-4."""
    checkpoint = standin(2)
    tensors = load_file(checkpoint / "model.safetensors")
    tensors["core.weight_hh_l0"][:] = 6e-5  # just below the normal numbers of float16
    tensors["head.weight"] *= 16
    save_file(tensors, checkpoint / "model.safetensors")
    tool("soak").resign(checkpoint)
    source = (JS / "gru.js").read_text(encoding="utf-8")
    scripts = [source]
    for right, wrong in MUTANTS.values():
        assert source.count(right) == 1, right
        scripts.append(source.replace(right, wrong))
    gru = "".join(f"{text}\n(window.mutants ??= []).push(window.charlm);\n" for text in scripts)
    run = (
        "return window.mutants.map((lib) => { window.charlm = lib;"
        f"{MODEL} return arrays(read('to be and not to be, that is it').map((s) => s.logits)); }});"
    )
    model, _, _ = load_checkpoint(checkpoint)
    with torch.no_grad():
        wanted = model(VOCAB.encode("to be and not to be, that is it")[None])[0][0]
    right, *wrong = in_browser(tmp_path, checkpoint, run, gru=gru)
    assert furthest(right, wanted) < 1e-4
    for name, logits in zip(MUTANTS, wrong, strict=True):
        assert furthest(logits, wanted) > 1e-4, name


# ---- the widgets in the browser ---------------------------------------------------------------

HANDS = """
const box = document.querySelector("[class^=charlm-]");
const find = (selector) => box.querySelector(selector);
const field = (name) => find(`[name=${name}]`);
const wait = (ms) => new Promise((done) => setTimeout(done, ms));
const set = (name, value) => {
  field(name).value = value;
  field(name).dispatchEvent(new Event("input", { bubbles: true }));
};
const press = async (name) => { field(name).click(); await wait(2500); };
const text = () => find(".charlm-text").textContent;
const status = () => find(".charlm-status").textContent;
const unnamed = () => Array.from(box.querySelectorAll("input, select, textarea"),
  (e) => e.labels.length ? null : e.name).filter((name) => name !== null);
"""

WRITE = """
const bars = () => Array.from(box.querySelectorAll("li"), (li) =>
  [li.children[0].textContent, li.children[2].textContent, li.className]);
const pixels = () => {
  const { width, height } = find("canvas");
  return Array.from(find("canvas").getContext("2d").getImageData(0, 0, width, height).data);
};
const out = { unnamed: unnamed(), begins: text() };
set("prompt", "to be "); set("topK", "1"); set("length", "200");
await press("write");
out.greedy = text(); out.said = status(); out.spans = find(".charlm-text").children.length;
set("topK", "0"); set("temperature", "0.8");
out.bars = bars(); out.pixels = pixels();
set("back", "100");
out.earlier = bars(); out.marked = find(".charlm-marked").textContent;
const inView = () => {
  const mark = find(".charlm-marked").getBoundingClientRect();
  const frame = find(".charlm-text").getBoundingClientRect();
  return mark.top >= frame.top && mark.bottom <= frame.bottom;
};
box.style.width = "12rem"; // narrow: the text has to scroll
out.inView = [0, 60, 119].map((i) => { set("back", i); return inView(); });
await press("one");
out.inView.push(inView()); out.scrolled = find(".charlm-text").scrollTop;
box.style.width = "";
out.one = text();
set("prompt", "to €");
await press("write");
out.unknown = status(); out.kept = text(); out.prompt = field("prompt").value;
set("length", "2.5");
await press("write");
out.badLength = status(); out.stillKept = text();
set("prompt", "To Be "); set("length", "30"); set("seed", "5");
await press("write");
out.capitals = status(); out.first = text(); out.places = [];
for (let i = 0; i < 36; i++) { set("back", i); out.places.push(bars()); }
await press("write");
out.more = text();
await press("clear");
out.cleared = text();
await press("write");
out.again = text();
set("seed", "6");
await press("write");
out.other = text();
set("length", "2000");
field("write").click();
await wait(50);
await press("stop");
out.stopped = text().length;
await wait(500);
out.later = text().length;
return out;
"""


@pytest.fixture(scope="module")
def written(folder, tmp_path_factory):
    if BROWSER is None:
        pytest.skip("no chromium, chromium-browser or google-chrome on this machine")
    place = tmp_path_factory.mktemp("sampler")
    return in_browser(place, folder, HANDS + WRITE, body=SAMPLER, widgets=["sampler.js"])


@pytest.fixture(scope="module")
def model(folder):
    return load_checkpoint(folder)[0].float()


def wanted_bars(model, text):
    """The ten likeliest next characters at temperature 0.8, as the page writes them."""
    likely = list(next_char_probs(model, VOCAB, text, temperature=0.8).items())[:10]
    signs = {" ": "␣", "\n": "↵"}
    return [[signs.get(c, c), f"{100 * p:.1f} %"] for c, p in likely]


def test_sampler_writes_what_the_model_writes(written, model):
    assert written["begins"] == "the man of the future"
    assert written["greedy"] == generate(model, VOCAB, "to be ", 200, greedy=True)
    assert written["said"] == "The text has 206 characters."
    assert written["spans"] <= 122, "older characters are not let go"
    assert written["one"][:-1] == written["greedy"]
    assert written["scrolled"] > 0 and written["inView"] == [True] * 4


def test_sampler_shows_probabilities_and_state_of_any_late_character(written, model):
    text = written["greedy"]
    assert [bar[:2] for bar in written["bars"]] == wanted_bars(model, text)
    place = len(text) - 120 + 100  # the 101st of the last 120 characters
    assert written["marked"] == text[place]
    assert [bar[:2] for bar in written["earlier"]] == wanted_bars(model, text[: place + 1])
    with torch.no_grad():
        hidden = model(VOCAB.encode(text)[None])[1][-1, 0]
    rgba = torch.tensor(written["pixels"]).view(-1, 4)
    assert len(rgba) == 128 and (rgba[H:, 3] == 0).all()
    lively = hidden.abs() > 0.2
    blue = (rgba[:H, 2] > rgba[:H, 0])[lively]
    assert lively.sum() > 20 and torch.equal(blue, (hidden > 0)[lively])


def test_sampler_marks_the_character_that_came(written, model):
    text = written["first"]
    hits = 0
    for place, bars in enumerate(written["places"]):
        wanted = wanted_bars(model, text[: place + 1])
        assert [bar[:2] for bar in bars] == wanted
        came = [bar[0] for bar in bars if "charlm-came" in bar[2]]
        following = text[place + 1 : place + 2].replace(" ", "␣").replace("\n", "↵")
        assert came == [key for key, _ in wanted if key == following]
        hits += len(came)
    assert 10 < hits < 36


def test_sampler_loses_nothing_on_bad_input(written):
    assert "“€” (U+20AC), character 4 " in written["unknown"]
    assert written["kept"] == written["stillKept"] == written["one"]
    assert written["prompt"] == "to €"
    assert written["badLength"] == "The length must be a whole number from 1 to 2000."


def test_sampler_goes_on_begins_again_and_stops(written):
    first = written["first"]
    assert first.startswith("to be ") and len(first) == 36
    assert "small letters" in written["capitals"]
    assert written["more"].startswith(first) and len(written["more"]) == 66
    assert written["cleared"] == ""
    assert written["again"] == first != written["other"]
    assert len(written["other"]) == 36, "a new seed begins a new text"
    assert 36 < written["stopped"] == written["later"] < 2036


LOOK = """
const titles = () => Array.from(find(".charlm-text").children, (span) => span.title);
const points = () => find("polyline").getAttribute("points").split(" ").length;
const out = { unnamed: unnamed(), passage: field("text").value, begins: text(), count: points() };
out.suggested = Array.from(box.querySelectorAll("[aria-pressed]"), (b) => Number(b.textContent));
set("text", "To be\\nor not"); await wait(800);
set("unit", "3"); await wait(800);
out.text = text(); out.titles = titles(); out.points = points(); out.said = status();
set("at", "5");
out.place = find(".charlm-place").textContent; out.marked = find(".charlm-marked").textContent;
set("text", "to €"); await wait(800);
out.unknown = status(); out.kept = titles();
set("text", "to be\\nor nut"); set("unit", "0"); await wait(800);
field("previous").click();
out.wrapped = Number(field("unit").value); out.edited = titles();
set("unit", "70"); out.badUnit = status();
const lost = document.createElement("div");
lost.className = "lost"; lost.dataset.model = "gru-nobody"; document.body.append(lost);
try { window.charlm.fill("lost", () => {}); } catch (error) { out.lost = lost.textContent; }
return out;
"""


@pytest.fixture(scope="module")
def looked(folder, tmp_path_factory):
    if BROWSER is None:
        pytest.skip("no chromium, chromium-browser or google-chrome on this machine")
    place = tmp_path_factory.mktemp("neurons")
    return in_browser(place, folder, HANDS + LOOK, body=NEURONS, widgets=["neurons.js"])


@torch.no_grad()
def values_of(model, text, unit):
    """A unit of the state after each character, from PyTorch."""
    return model.core(model.embedding(VOCAB.encode(text)[None]))[0][0, :, unit].tolist()


def number_in(title):
    return float(title.rsplit(": ", 1)[1].replace("−", "-"))


def test_neuron_browser_follows_a_unit_through_the_text(looked, model):
    assert looked["begins"].replace("↵", "") == looked["passage"]
    assert looked["count"] == len(looked["passage"]) <= 600
    assert looked["text"] == "to be↵\nor not" and looked["points"] == 12
    found = [number_in(title) for title in looked["titles"]]
    assert found == pytest.approx(values_of(model, "to be\nor not", 3), abs=0.0051)
    assert looked["titles"][5].startswith("line end: ")
    assert looked["said"].startswith("Unit 3 goes from ") and "small letters" in looked["said"]
    assert looked["place"].startswith("6, line end: ") and looked["marked"] == "↵\n"


def test_neuron_browser_offers_the_most_variable_units(looked, model):
    with torch.no_grad():
        out, _ = model.core(model.embedding(VOCAB.encode(looked["passage"])[None]))
    wanted = out[0].std(dim=0, correction=0).argsort(descending=True)
    assert looked["suggested"][:6] == wanted[:6].tolist()
    assert set(looked["suggested"][6:]) <= set(wanted[: H // 2].tolist())


def test_neuron_browser_loses_nothing_on_bad_input_and_reads_edits_afresh(looked, model):
    assert "“€” (U+20AC), character 4 " in looked["unknown"]
    assert looked["kept"] == looked["titles"]
    assert looked["wrapped"] == H - 1
    found = [number_in(title) for title in looked["edited"]]
    assert found == pytest.approx(values_of(model, "to be\nor nut", H - 1), abs=0.0051)
    assert looked["badUnit"] == f"The unit must be a whole number from 0 to {H - 1}."


def test_a_widget_without_its_weights_says_so(looked):
    assert "The weights of gru-nobody did not come with this page" in looked["lost"]


def test_every_control_has_a_label(written, looked):
    assert written["unnamed"] == looked["unnamed"] == []


# ---- Tao --------------------------------------------------------------------------------------

SUMS = CharVocab("\0+-=?0123456789")
OWN_SUMS = PRETRAINED.parent / "gru-sums"


def teach_briefly():
    """A GRU that has seen a few hundred sums: it answers, mostly wrong, in its own way."""
    torch.manual_seed(0)
    model = CharLM(len(SUMS), 12, make_core("gru", 12, 40))
    questions = [f"{a}+{b}=?" for a in range(10, 20) for b in range(10, 20)]
    x, y = tutor.make_batch(questions, SUMS)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    for _ in range(60):
        train_step(model, x, y, optimizer, None)
    return model.eval().half()


@pytest.fixture(scope="module", params=["taught briefly", "the book's own"])
def pupil(request, tmp_path_factory):
    """The folder of a model that answers sums."""
    if request.param == "the book's own":
        if not OWN_SUMS.is_dir():
            pytest.skip("the book's own adder is not there yet")
        return OWN_SUMS
    folder = tmp_path_factory.mktemp("pupil") / "gru-sums"
    save_checkpoint(folder, teach_briefly(), SUMS, History())
    return folder


QUESTIONS = ["58+67", "0+0", "99+99", "7+88", " 007 + 12 =?", "123+4567"]

ASK = """
const rows = () => Array.from(box.querySelectorAll("tbody tr"), (row) =>
  Array.from(row.cells, (cell) => cell.textContent));
const answer = () => find(".charlm-answer").textContent;
const out = { unnamed: unnamed(), begins: answer(), answers: [], rows: [], said: [] };
for (const question of questions) {
  set("sum", question);
  await press("write");
  out.answers.push(answer()); out.rows.push(rows()); out.said.push(status());
}
const { width, height } = find("canvas");
out.pixels = Array.from(find("canvas").getContext("2d").getImageData(0, 0, width, height).data);
out.size = [width, height];
out.columns = find(".charlm-columns").textContent;
out.bad = [];
for (const wrong of ["", "58+", "5*6", "1+2+3", "alert(1)", "1234567890+1"]) {
  set("sum", wrong);
  await press("write");
  out.bad.push([status(), answer()]);
}
await press("draw");
out.drawn = [field("sum").value, answer()];
return out;
"""


@pytest.fixture(scope="module")
def asked(pupil, tmp_path_factory):
    if BROWSER is None:
        pytest.skip("no chromium, chromium-browser or google-chrome on this machine")
    place = tmp_path_factory.mktemp("tao")
    script = HANDS + f"const questions = {js(QUESTIONS)};" + ASK
    return in_browser(place, pupil, script, body=TAO, widgets=["tao.js"])


def test_tao_says_on_the_page_what_it_says_in_pytorch(asked, pupil):
    model, vocab, _ = load_checkpoint(pupil)
    for question, shown in zip(QUESTIONS, asked["answers"], strict=True):
        a, b = (str(int(number)) for number in question.strip(" =?").split("+"))
        (wanted,) = tutor.ask(model.float(), vocab, [f"{a}+{b}=?"])
        assert shown == f"{a} + {b} = {wanted or '(silence)'}"
    assert asked["begins"] == asked["answers"][0] and asked["unnamed"] == []


def test_tao_knows_whether_it_was_right(asked):
    for shown, said in zip(asked["answers"], asked["said"], strict=True):
        a, b, answer = re.match(r"(\d+) \+ (\d+) = (.*)", shown).groups()
        right = answer == str(int(a) + int(b))
        assert said.startswith("Right." if right else f"Wrong: it is {int(a) + int(b)}.")
        assert ("never taught" in said) == (max(int(a), int(b)) > 99)


@torch.no_grad()
def test_tao_shows_probabilities_and_states(asked, pupil):
    model, vocab, _ = load_checkpoint(pupil)
    model = in_float64(model)
    for question, rows in zip(QUESTIONS[:4], asked["rows"], strict=False):
        said = "".join("\0" if row[1] == "end" else row[1] for row in rows)
        logits, _ = model(vocab.encode(f"{question}=?{said[:-1]}")[None])
        probs = logits[0, -len(said) :].softmax(dim=1)
        for row, character, p in zip(rows, said, probs, strict=True):
            assert row[2] == f"{100 * p[vocab.stoi[character]]:.1f} %"
            assert p.argmax() == vocab.stoi[character]
        assert [row[0] for row in rows][: len(rows) - 1] == PLACES[: len(rows) - 1]
    read = asked["columns"]
    assert asked["size"] == [len(read), model.core.hidden_size]
    hidden = model.core(model.embedding(vocab.encode(read)[None]))[0][0]  # (T, H)
    rgba = torch.tensor(asked["pixels"]).view(model.core.hidden_size, len(read), 4)
    lively = hidden.T.abs() > 0.2
    blue = (rgba[..., 2] > rgba[..., 0])[lively]
    assert lively.sum() > 50 and torch.equal(blue, (hidden.T > 0)[lively])


PLACES = ["units", "tens", "hundreds", "thousands", *(f"10^{i}" for i in range(4, 12))]


def test_tao_refuses_what_is_no_sum_and_keeps_the_last_answer(asked):
    messages, shown = zip(*asked["bad"], strict=True)
    assert all("is no sum" in message for message in messages[:-1])
    assert messages[-1] == "Nine digits a number are the most."
    assert set(shown) == {asked["answers"][-1]}
    a, b = asked["drawn"][0].split("+")
    assert asked["drawn"][1].startswith(f"{a} + {b} = ")


def test_tao_comes_with_its_own_weights_only(pupil, folder, tmp_path):
    pages = {"index.md": f"# Ask\n\n{TAO}", "both.md": f"# Both\n\n{TAO}\n{SAMPLER}"}
    run = build_book(tmp_path, pages, folder, pupil)
    assert run.returncode == 0 and run.stderr == ""
    out = tmp_path / "out"
    assert links(out / "index.html") == [
        "sampler.css",
        "gru.js",
        "page.js",
        "gru-sums.js",
        "tao.js",
    ]
    both = links(out / "both.html")
    assert {"gru-sums.js", "gru-nietzsche.js", "sampler.js", "tao.js"} <= set(both)


@pytest.mark.skipif(not OWN_SUMS.is_dir(), reason="the book's own adder is not there yet")
def test_the_books_own_tao_adds():
    model, vocab, _ = load_checkpoint(OWN_SUMS)
    questions = [f"{a}+{b}=?" for a in range(100) for b in range(100)]
    answers = tutor.ask(model.float(), vocab, questions)
    assert tutor.exact_match(answers, questions) > 0.995
