"""Sphinx extension of this book: sampler, neuron browser and Tao, where a page asks for them.

A page asks with `<div class="charlm-sampler"></div>`, `charlm-neurons` or `charlm-tao`, raw HTML
in Markdown. Only such a page is linked to the scripts of book/sampler and to the weights, which
are written as a script too: a page read from file:// may not fetch anything.
"""

import base64
import json
import re
import shutil
from pathlib import Path

import numpy as np
from docutils import nodes
from safetensors import SafetensorError, safe_open
from sphinx.errors import ExtensionError

SCRIPTS = {"charlm-sampler": "sampler.js", "charlm-neurons": "neurons.js", "charlm-tao": "tao.js"}
# the value in conf.py that names the model's folder
MODELS = {"charlm-sampler": "charlm_sampler_model", "charlm-neurons": "charlm_sampler_model"}
MODELS |= {"charlm-tao": "charlm_tao_model"}
SHARED = ("gru.js", "page.js")  # before the others: the model, and what the widgets share
STYLE = "sampler.css"
TARGET = "charlm"  # a folder of the output's _static
PLACE = re.compile(r'(<div class="(charlm-(?:sampler|neurons|tao))"[^>]*>)\s*</div>')
NO_SCRIPT = "<noscript><p>This part of the page needs JavaScript; the text does not.</p></noscript>"


# ---- the weights as a script ------------------------------------------------------------------


def read_config(folder):
    """config.json of a checkpoint of a GRU with a vocabulary, or ExtensionError."""
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        core, vocab = config["model"]["core"], config["vocab"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ExtensionError(f"{path}: not the config of a checkpoint ({error!r})") from error
    if core != "gru" or not vocab:
        raise ExtensionError(f"{path}: the page runs a gru with a vocabulary, not {core}, {vocab}")
    return config


def read_tensors(folder):
    """All tensors of a checkpoint by name, as little-endian float16, or ExtensionError."""
    path = folder / "model.safetensors"
    try:
        with safe_open(path, framework="numpy") as file:
            tensors = {name: file.get_tensor(name).astype("<f2") for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise ExtensionError(f"{path}: not a whole safetensors file ({error})") from error
    if bad := [name for name, tensor in tensors.items() if not np.isfinite(tensor).all()]:
        raise ExtensionError(f"{path}: {bad[0]} holds numbers that float16 does not")
    return tensors


def model_script(folder):
    """The script that hands a checkpoint to gru.js as `window.charlmModels[name of the folder]`."""
    saved = read_config(folder)
    saved["tensors"] = {
        name: {"shape": tensor.shape, "data": base64.b64encode(tensor.tobytes()).decode("ascii")}
        for name, tensor in read_tensors(folder).items()
    }
    place = f"window.charlmModels[{json.dumps(folder.name)}]"
    return f"window.charlmModels = window.charlmModels || {{}};\n{place} = {json.dumps(saved)};\n"


# ---- events of the build ----------------------------------------------------------------------


def find_places(app, doctree):
    """Note in the page's metadata which widgets it has; give each a line for no JavaScript."""
    found = set()
    for node in doctree.findall(nodes.raw):
        if "html" in node.get("format", ""):
            html = PLACE.sub(rf"\1{NO_SCRIPT}</div>", node.astext())
            found |= {match[2] for match in PLACE.finditer(node.astext())}
            node.children[:] = [nodes.Text(html)]
            node.rawsource = html
    if found:
        app.env.metadata[app.env.docname]["charlm_widgets"] = sorted(found)


def model_folders(app, widgets):
    """The folders of the models that these widgets run, each once."""
    names = dict.fromkeys(MODELS[widget] for widget in widgets)
    return [Path(app.srcdir) / app.config[name] for name in names]


def write_files(app, env):
    """Weights, scripts and styles into the output, if any page has a place for them."""
    pages = {name: env.metadata[name].get("charlm_widgets", []) for name in sorted(env.found_docs)}
    pages = {name: widgets for name, widgets in pages.items() if widgets}
    if app.builder.format != "html" or not pages:
        return
    target = Path(app.outdir) / "_static" / TARGET
    target.mkdir(parents=True, exist_ok=True)
    for page, widgets in pages.items():
        for folder in model_folders(app, widgets):
            if not folder.is_dir():
                raise ExtensionError(f"{page} has a place for the model, but there is no {folder}")
            script = target / f"{folder.name}.js"
            script.write_text(model_script(folder), encoding="ascii", newline="\n")
    for name in (*SHARED, *SCRIPTS.values(), STYLE):
        shutil.copyfile(Path(__file__).parents[1] / "sampler" / name, target / name)


def link_files(app, _page, _template, context, _doctree):
    """Link a page to what its widgets need; a page without any gets nothing."""
    widgets = (context.get("meta") or {}).get("charlm_widgets", [])
    if not widgets:
        return
    weights = [f"{folder.name}.js" for folder in model_folders(app, widgets)]
    app.add_css_file(f"{TARGET}/{STYLE}")
    for script in (*SHARED, *weights, *(SCRIPTS[name] for name in widgets)):
        app.add_js_file(f"{TARGET}/{script}", loading_method="defer")


def setup(app):
    app.add_config_value("charlm_sampler_model", "charlm_utils/pretrained/gru-nietzsche", "env")
    app.add_config_value("charlm_tao_model", "charlm_utils/pretrained/gru-sums", "env")
    app.connect("doctree-read", find_places)
    app.connect("env-updated", write_files)
    app.connect("html-page-context", link_files)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
