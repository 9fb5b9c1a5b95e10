"""Sphinx extension of this book: MathJax without a network, a security policy, alt texts."""

import importlib.util
import re
import shutil
from pathlib import Path

import nbformat
from docutils import nodes

MATHJAX_PARTS = ("tex-mml-chtml.js", "output/chtml/fonts", "input/tex/extensions")
# a page runs what comes with the book and nothing else
POLICY = "script-src 'self' 'unsafe-inline'; object-src 'none'; base-uri 'self'"
ALT = re.compile(r"^# alt: *(.+)$", re.MULTILINE)


def alt_texts(source):
    """Alt texts written in a code cell, one `# alt: …` comment line per picture it draws."""
    return [text.strip() for text in ALT.findall(source)]


def mathjax_folder():
    """Where the installed package `sphinx-mathjax-offline` keeps MathJax 3."""
    spec = importlib.util.find_spec("sphinx-mathjax-offline")
    if spec is None:
        raise RuntimeError("MathJax is missing: pip install -r requirements.txt")
    return Path(spec.origin).parent / "static" / "mathjax"


def describe_pictures(app, doctree):
    """Give each picture of a notebook's outputs the alt text that its cell states."""
    path = Path(app.env.doc2path(app.env.docname))
    if path.suffix != ".ipynb":
        return
    cells = nbformat.read(path, as_version=4).cells
    for box in doctree.findall(nodes.container):
        if box.get("nb_element") != "cell_code":
            continue
        texts = alt_texts(cells[box["cell_index"]].source)
        for picture, text in zip(box.findall(nodes.image), texts, strict=False):
            picture["alt"] = text


def vendor_mathjax(app, error):
    """Copy what pages need of MathJax into the output; drop the theme's source maps."""
    if error is not None or app.builder.format != "html":
        return
    source, target = mathjax_folder(), Path(app.outdir) / "_static" / "mathjax"
    for part in MATHJAX_PARTS:
        (target / part).parent.mkdir(parents=True, exist_ok=True)
        if (source / part).is_dir():
            shutil.copytree(source / part, target / part, dirs_exist_ok=True)
        else:
            shutil.copyfile(source / part, target / part)
    for source_map in (Path(app.outdir) / "_static").rglob("*.map"):
        source_map.unlink()


def add_policy(app, pagename, templatename, context, doctree):
    """A content security policy in the head of every page."""
    meta = f'<meta http-equiv="Content-Security-Policy" content="{POLICY}" />'
    context["metatags"] = context.get("metatags", "") + meta


def drop_thebe(app, _config):
    """Jupyter Book loads sphinx_thebe always; unplugged, no page names its CDN."""
    for listeners in app.events.listeners.values():
        for listener in list(listeners):
            if listener.handler.__module__ == "sphinx_thebe":
                app.disconnect(listener.id)
    kept = [entry for entry in app.registry.css_files if entry[0] != "sphinx-thebe.css"]
    app.registry.css_files[:] = kept


def setup(app):
    app.connect("config-inited", drop_thebe)
    app.connect("doctree-read", describe_pictures)
    app.connect("html-page-context", add_policy)
    app.connect("build-finished", vendor_mathjax)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
