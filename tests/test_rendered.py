"""The rendered book: every page is there, holds its outputs and needs no network to be read.

Nothing is built here: `make test` builds the book first, `jupyter-book build .` does it by hand.
"""

import html
import re
from html.parser import HTMLParser

import pytest
from book_reader import ROOT, code_cells, markdown, toc_files, without_code

HTML = ROOT / "_build" / "html"

pytestmark = pytest.mark.skipif(
    not (HTML / "index.html").is_file(),
    reason="the book is not built: run `make book`, then these tests look at _build/html",
)
each_page = pytest.mark.parametrize("name", toc_files())
each_chapter = pytest.mark.parametrize("name", [n for n in toc_files() if "notebooks/" in n])


class Page(HTMLParser):
    """What a browser would load for a page, its pictures and its ids."""

    def __init__(self, path):
        super().__init__()
        self.loads, self.pictures, self.links, self.ids = [], [], [], set()
        self.text = path.read_text(encoding="utf-8")
        self.feed(self.text)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.ids |= {found["id"]} if "id" in found else set()
        if tag in ("script", "iframe", "embed", "source", "video", "audio") and found.get("src"):
            self.loads.append(found["src"])
        if tag == "link" and found.get("rel") not in ("canonical", "author", "search"):
            self.loads.append(found.get("href", ""))
        if tag == "img":
            self.pictures.append(found)
            self.loads.append(found.get("src", ""))
        if tag == "a" and found.get("href"):
            self.links.append(found["href"])


def page(name):
    return Page(HTML / f"{name}.html")


def visible(text):
    """Rendered text with tags and all white space removed."""
    return re.sub(r"\s+", "", html.unescape(re.sub(r"<[^>]+>", "", text)))


@each_page
def test_page_exists_and_says_something(name):
    path = HTML / f"{name}.html"
    assert path.is_file()
    article = re.search(r"<article.*?</article>", path.read_text(encoding="utf-8"), re.DOTALL)
    assert article and len(visible(article[0])) > 150


@each_page
def test_page_needs_no_network(name):
    found = page(name)
    assert [url for url in found.loads if re.match(r"(https?:)?//", url)] == []
    assert not re.search(r"unpkg\.com|jsdelivr|cdnjs|@import|requirejs", found.text)


@each_page
def test_page_runs_only_what_comes_with_the_book(name):
    head = r'http-equiv="Content-Security-Policy" content="([^"]+)"'
    (policy,) = re.findall(head, page(name).text)
    assert "script-src 'self' 'unsafe-inline';" in policy and "*" not in policy


@each_page
def test_files_that_a_page_loads_are_there(name):
    folder = (HTML / f"{name}.html").parent
    local = [url for url in page(name).loads if url and not url.startswith(("data:", "#"))]
    assert [u for u in local if not (folder / re.split("[?#]", u)[0]).is_file()] == []


@each_page
def test_links_to_other_pages_are_there(name):
    folder, broken = (HTML / f"{name}.html").parent, []
    for link in page(name).links:
        path, _, anchor = link.partition("#")
        if re.match(r"[a-z]+:|//", path):
            continue
        target = (folder / path.split("?")[0]) if path else HTML / f"{name}.html"
        if not target.is_file():
            broken.append(link)
        elif anchor and target.suffix == ".html" and anchor not in Page(target).ids:
            broken.append(link)
    assert broken == []


@each_page
def test_pictures_have_alt_text(name):
    for picture in page(name).pictures:
        alt = picture.get("alt", "")
        assert alt and not alt.startswith(("../", "_images")), picture.get("src")


@each_chapter
def test_chapter_shows_its_outputs(name):
    shown = visible(page(name).text)
    pictures = 0
    for cell in code_cells(ROOT / f"{name}.ipynb"):
        if {"remove-cell", "remove-output"} & set(cell.metadata.get("tags", [])):
            continue
        for out in cell.outputs:
            data = out.get("data", {})
            pictures += "image/png" in data
            plain = "" if set(data) - {"text/plain"} else data.get("text/plain", "")
            assert re.sub(r"\s+", "", out.get("text", plain)) in shown, cell.source
    assert len(page(name).pictures) >= pictures


@each_page
def test_formulas_load_mathjax_from_the_book(name):
    found = page(name)
    if 'class="math' not in found.text:
        pytest.skip("a page without formulas")
    assert any("_static/mathjax/tex-mml-chtml.js" in url for url in found.loads)


def test_mathjax_and_its_fonts_are_in_the_book():
    mathjax = HTML / "_static" / "mathjax"
    assert (mathjax / "tex-mml-chtml.js").stat().st_size > 500_000
    assert len(list((mathjax / "output" / "chtml" / "fonts").rglob("*.woff"))) > 10
    assert list((HTML / "_static").rglob("*.map")) == []


@each_page
def test_model_comes_with_the_pages_that_have_a_place_for_it(name):
    source = next(p for end in (".md", ".ipynb") if (p := ROOT / f"{name}{end}").is_file())
    text = without_code("\n\n".join(markdown(source)))
    widgets = set(re.findall(r'^<div class="charlm-(sampler|neurons|tao)">', text, re.MULTILINE))
    found = page(name)
    linked = {url.split("?")[0].split("/charlm/")[1] for url in found.loads if "/charlm/" in url}
    if not widgets:
        assert linked == set()
        return
    models = {"gru-sums.js" if widget == "tao" else "gru-nietzsche.js" for widget in widgets}
    shared = {"sampler.css", "gru.js", "page.js"} | models
    assert linked == shared | {f"{widget}.js" for widget in widgets}
    assert found.text.count("<noscript><p>This part") >= len(widgets)
