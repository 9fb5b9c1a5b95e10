"""The package as the book needs it: small, in layers, free of side effects, equal to the text."""

import ast
import re
import subprocess
import sys
import tomllib

import pytest
from book_reader import NOTEBOOKS, ROOT, number, walk

# a module imports only from modules above it
ORDER = (
    "known_corpora",
    "download",
    "corpora",
    "vocab",
    "batching",
    "device",
    "cells",
    "models",
    "schedules",
    "averaging",
    "saves",
    "checkpoint",
    "resume",
    "steps",
    "training",
    "sampling",
    "baselines",
    "memory",
    "arithmetic",
    "plotting",
    "results",
    "exercises",
    "exercises_gated",
    "exercises_late",
    "experiments",
    "sweeps",
    "sweeps_deep",
    "sweeps_recipes",
    "sweeps_lab",
    "sweeps_sums",
    "studies",
    "options",
    "terminal",
    "made",
    "cli",
    "__main__",
)
# written out in these chapters, living once more in the package
PROMOTED = {
    "02": ("models", ["ThreeCharModel"]),
    "03": ("models", ["LoopModel", "ConcatLoopModel", "RNNCell"]),
    "04": ("models", ["CharLM"]),
    "06": ("models", ["GRUCell"]),
    "07": ("models", ["LSTMCell"]),
    "08": ("models", ["ResidualGRU"]),
    "09": ("arithmetic", ["VanillaRNN", "Tao"]),
}
MODULES = sorted((ROOT / "charlm_utils").glob("*.py"))
FUNCTION = (ast.FunctionDef, ast.AsyncFunctionDef)

each_module = pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)


def parse(path):
    return ast.parse(path.read_text(encoding="utf-8"))


# ---- layers and sizes -------------------------------------------------------------------------


def imported(tree):
    """Modules of the package that a tree imports, wherever in it."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "charlm_utils":
            names |= {alias.name for alias in node.names} & set(ORDER)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("charlm_utils."):
            names.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            parts = [alias.name.split(".") for alias in node.names]
            names |= {p[1] for p in parts if p[0] == "charlm_utils" and len(p) > 1}
        assert not (isinstance(node, ast.ImportFrom) and node.level), "a relative import"
    return names


@each_module
def test_no_module_imports_one_below_it(path):
    if path.stem == "__init__":
        assert imported(parse(path)) == set()
        return
    assert path.stem in ORDER
    assert imported(parse(path)) <= set(ORDER[: ORDER.index(path.stem)])


@each_module
def test_modules_and_functions_are_short(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 400
    lines = text.splitlines()
    long = {n.name: body_lines(n, lines) for n in ast.walk(parse(path)) if isinstance(n, FUNCTION)}
    assert {name: length for name, length in long.items() if length > 25} == {}


def body_lines(function, lines):
    """Lines of a function's body that are not blank, without signature and docstring."""
    body = function.body[1:] if ast.get_docstring(function) else function.body
    if not body:
        return 0
    return sum(bool(line.strip()) for line in lines[body[0].lineno - 1 : function.end_lineno])


@each_module
def test_plain_code(path):
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.ImportFrom):
            assert "*" not in [alias.name for alias in node.names]
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in ("exec", "eval")
        if isinstance(node, FUNCTION):
            assert node.args.kwarg is None, f"{node.name} takes **{node.args.kwarg.arg}"


@each_module
def test_only_plotting_imports_matplotlib(path):
    text = path.read_text(encoding="utf-8")
    found = re.search(r"^\s*(import|from) matplotlib", text, re.MULTILINE)
    assert not found or path.stem == "plotting"


@each_module
def test_public_names_have_docstrings_and_hints(path):
    tree = parse(path)
    assert ast.get_docstring(tree)
    for node in tree.body:
        if not isinstance(node, (*FUNCTION, ast.ClassDef)) or node.name.startswith("_"):
            continue
        assert ast.get_docstring(node), node.name
        if isinstance(node, FUNCTION):
            arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            assert all(a.annotation for a in arguments) and node.returns, node.name


# ---- importing does nothing -------------------------------------------------------------------

QUIET_IMPORT = """
import importlib, random, socket, sys, warnings
import numpy, torch

def refuse(*args, **kwargs):
    raise AssertionError("importing opened a socket")

socket.socket.connect = refuse
states = random.getstate(), str(numpy.random.get_state()), torch.get_rng_state().tolist()
filters, dtype = list(warnings.filters), torch.get_default_dtype()
for name in sys.argv[1:]:
    importlib.import_module(f"charlm_utils.{name}")
assert states == (random.getstate(), str(numpy.random.get_state()), torch.get_rng_state().tolist())
assert filters == warnings.filters and dtype == torch.get_default_dtype()
assert "matplotlib" not in sys.modules, "matplotlib was imported"
print("quiet")
"""


def test_importing_the_package_does_nothing():
    names = [path.stem for path in MODULES if path.stem not in ("__init__", "plotting")]
    command = [sys.executable, "-c", QUIET_IMPORT, *names]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.returncode) == ("quiet\n", 0), done.stderr


# ---- shown, then shared -----------------------------------------------------------------------


class Bare(ast.NodeTransformer):
    """Drops docstrings and annotations."""

    def generic_visit(self, node):
        if isinstance(node, (*FUNCTION, ast.ClassDef)) and ast.get_docstring(node):
            node.body = node.body[1:] or [ast.Pass()]
        for field in ("annotation", "returns"):
            if hasattr(node, field) and not isinstance(node, ast.AnnAssign):
                setattr(node, field, None)
        return super().generic_visit(node)

    def visit_AnnAssign(self, node):
        if node.value is None:
            return None
        return self.generic_visit(ast.Assign(targets=[node.target], value=node.value, lineno=0))


def bare(node):
    return ast.unparse(Bare().visit(ast.parse(ast.unparse(node))))


def classes(nodes):
    return {node.name: node for node in nodes if isinstance(node, ast.ClassDef)}


def shared_classes():
    """Classes of the modules that chapters' classes are promoted to."""
    paths = [ROOT / "charlm_utils" / f"{name}.py" for name in ("cells", "models", "arithmetic")]
    return {k: v for path in paths if path.exists() for k, v in classes(parse(path).body).items()}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_shown_and_shared_classes_are_equal(path):
    shown, shared = classes(walk(path)), shared_classes()
    for name in shown.keys() & shared.keys():
        assert bare(shown[name]) == bare(shared[name])
    promised = PROMOTED.get(number(path), ("models", []))[1]
    assert set(promised) <= shown.keys() & shared.keys()


def test_bare_sees_through_hints_and_docstrings_only():
    plain = ast.parse("class A:\n    def f(self, x):\n        y = x\n        return y")
    hinted = (
        'class A:\n    "Doc."\n    def f(self, x: int) -> int:\n        "D."\n        y: int = x\n'
    )
    assert bare(plain) == bare(ast.parse(hinted + "        return y"))
    assert bare(plain) != bare(ast.parse(hinted + "        return x"))


# ---- what installs it -------------------------------------------------------------------------


def test_requirements_pin_and_the_package_asks_for_lower_bounds():
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    wanted = [line.split("#")[0].strip() for line in lines]
    wanted = [line for line in wanted if line]
    assert wanted[-1] == "-e ."
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in wanted[:-1]), "not a pin"
    pins = {line.split("==")[0].lower().replace("_", "-") for line in wanted[:-1]}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for dependency in project["dependencies"]:
        assert re.fullmatch(r"[\w-]+(>=|<)[\d.]+", dependency)
        assert re.split(">=|<", dependency)[0] in pins


def test_versions_agree():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    text = (ROOT / "charlm_utils" / "__init__.py").read_text(encoding="utf-8")
    assert f'__version__ = "{project["version"]}"' in text
