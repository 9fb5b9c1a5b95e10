"""The package as the book needs it: small, in layers, free of side effects, equal to the text."""

import ast
import re
import subprocess
import sys
import tomllib

import pytest
from book_reader import NOTEBOOKS, ROOT, number, walk

# the rooms, and in them the modules in order: each imports only what stands before it
ROOMS = {
    "texts": ("download", "corpora", "data"),
    "models": ("cells", "models"),
    "tables": ("ngram",),
    "training": ("device", "terminal", "saves", "checkpoint", "optim", "resume", "training"),
    "use": ("sampling", "memory", "tutor"),
    "book": (
        *("book", "book.results", "book.plotting"),
        *("book.exercises", "book.exercises.judge", "book.exercises.*"),
        *("book.studies.runs", "book.studies.points", "book.studies.*", "book.studies"),
    ),
    "command line": ("cli.arguments", "cli.origin", "cli", "__main__", "cli.__main__"),
}
LIBRARY = ("texts", "models", "tables", "training", "use")
BESIDE = ("book.exercises.*", "book.studies.*")  # one a chapter: none imports another
# written out in these chapters, living once more in the package
PROMOTED = {
    "02": ("models", ["ThreeCharModel"]),
    "03": ("models", ["LoopModel", "ConcatLoopModel", "RNNCell"]),
    "04": ("models", ["CharLM"]),
    "06": ("models", ["GRUCell"]),
    "07": ("models", ["LSTMCell"]),
    "08": ("models", ["ResidualGRU"]),
    "09": ("tutor", ["VanillaRNN", "Tao"]),
}
PACKAGE = ROOT / "charlm_utils"
MODULES = sorted(PACKAGE.rglob("*.py"))
FUNCTION = (ast.FunctionDef, ast.AsyncFunctionDef)


def dotted(path):
    """`book.studies.ch07` for its file; the package itself is ""."""
    return (
        ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        .removesuffix("__init__")
        .strip(".")
    )


NAMES = {dotted(path): path for path in MODULES}

each_module = pytest.mark.parametrize("path", MODULES, ids=dotted)


def parse(path):
    return ast.parse(path.read_text(encoding="utf-8"))


# ---- rooms ------------------------------------------------------------------------------------


def place(name):
    """Where a module stands among all, and whether there are others beside it."""
    order = [module for room in ROOMS.values() for module in room]
    parent = f"{name.rpartition('.')[0]}.*"
    key = name if name in order else parent
    assert key in order, f"{name} stands in no room"
    return order.index(key), key in BESIDE


def imports(tree):
    """The package's modules that a tree imports, wherever in it, with the names taken from each."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            assert not node.level, "a relative import"
            if (node.module or "").partition(".")[0] == "charlm_utils":
                module = node.module.partition(".")[2]
                for alias in node.names:
                    inner = f"{module}.{alias.name}".strip(".")
                    found.append((inner, "") if inner in NAMES else (module, alias.name))
        elif isinstance(node, ast.Import):
            parts = [alias.name.partition(".") for alias in node.names]
            found += [(rest, "") for first, _, rest in parts if first == "charlm_utils"]
    return found


def test_every_room_holds_modules_and_every_module_has_a_room():
    assert all(place(name) for name in NAMES if name)
    listed = {name for room in ROOMS.values() for name in room if not name.endswith("*")}
    assert listed <= NAMES.keys()


@each_module
def test_a_module_imports_only_what_stands_before_it(path):
    name = dotted(path)
    found = {module for module, _ in imports(parse(path))} - {""}  # "": __version__
    if not name:
        assert found == set()
        return
    mine, beside = place(name)
    for module in found:
        other, _ = place(module)
        assert other < mine, f"{name} imports {module}"
    assert not (beside and any(place(module)[0] == mine for module in found))


@each_module
def test_the_library_does_without_the_book(path):
    name = dotted(path)
    if any(name in ROOMS[room] for room in LIBRARY):
        rooms = {module.partition(".")[0] for module, _ in imports(parse(path))}
        assert not rooms & {"book", "cli", "__main__"}


@each_module
def test_no_private_name_leaves_its_module(path):
    taken = [name for _, name in imports(parse(path)) if name.startswith("_")]
    assert [name for name in taken if name != "__version__"] == []


@each_module
def test_a_name_is_imported_from_where_it_lives(path):
    """The one module that hands on what it imports says so: `data`, for `load_corpus`."""
    for module, name in imports(parse(path)):
        if not name or name == "__version__":
            continue
        handed_on = {"load_corpus", "Corpus", "CorpusUnavailable"} if module == "data" else set()
        assert name in defined(NAMES[module]) | handed_on, f"{module}.{name}"


def defined(path):
    """The names that a module defines at its top level."""
    found = set()
    for node in parse(path).body:
        if isinstance(node, (*FUNCTION, ast.ClassDef)):
            found.add(node.name)
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {n.id for t in targets for n in ast.walk(t) if isinstance(n, ast.Name)}
    return found


# ---- functions --------------------------------------------------------------------------------


@each_module
def test_functions_are_short(path):
    lines = path.read_text(encoding="utf-8").splitlines()
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
    assert not found or dotted(path) == "book.plotting"


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
    skipped = ("", "book.plotting")
    names = [n for n in NAMES if n not in skipped and not n.endswith("__main__")]
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
    paths = [NAMES[name] for name in ("cells", "models", "tutor")]
    return {k: v for path in paths for k, v in classes(parse(path).body).items()}


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
