"""What an installation brings along, and whether the README lists what is in the package."""

import re
import sys
import tomllib
from importlib.metadata import requires, version

import pytest
from book_reader import ROOT
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
LIBRARY, BOOK = PROJECT["dependencies"], PROJECT["optional-dependencies"]["book"]
UNWANTED = {"starlette", "python-fasthtml", "uvicorn", "fastapi", "flask"}
UNWANTED |= {"jupyter-book", "ipywidgets"}  # of the book, not of the package


def brought(wishes):
    """The names of all that these requirements bring, by the metadata of what is installed."""
    found, left = {}, [Requirement(wish) for wish in wishes]
    while left:
        wish = left.pop()
        name, extras = canonicalize_name(wish.name), {"", *wish.extras}
        if extras <= found.get(name, set()):
            continue
        found[name] = found.get(name, set()) | extras
        for other in map(Requirement, requires(name) or []):
            marker = other.marker
            if marker is None or any(marker.evaluate({"extra": extra}) for extra in extras):
                left.append(other)
    return set(found)


def pins():
    text = (ROOT / "requirements.txt").read_text(encoding="utf-8")
    lines = [line.split("#")[0].strip() for line in text.splitlines()]
    return dict(line.split("==") for line in lines if "==" in line)


def test_a_bare_install_brings_no_web_framework():
    found = brought(LIBRARY)
    assert found >= {"torch", "fastprogress", "mpmath"}  # mpmath: by torch's sympy
    assert found & UNWANTED == set()
    assert brought(BOOK) >= {"jupyter-book", "ipywidgets", "sphinx"}


def test_the_cap_stands_before_the_first_release_with_a_web_framework():
    cap = {wish.name: wish.specifier for wish in map(Requirement, LIBRARY)}["fastprogress"]
    assert "1.1.0" not in cap
    assert version("fastprogress") in cap


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="is made for Linux")
def test_requirements_are_what_the_package_and_the_book_bring():
    text = (ROOT / "requirements.txt").read_text(encoding="utf-8")
    assert "make requirements" in text and "://" not in text
    found, pinned = brought(LIBRARY + BOOK), pins()
    assert pinned.keys() <= found
    # a build of torch with CUDA has libraries of its own
    assert found - pinned.keys() <= brought(["torch"])
    for wish in map(Requirement, LIBRARY + BOOK):
        assert pinned[wish.name] in wish.specifier


def test_the_readme_lists_every_module():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    tree = re.search(r"```text\ncharlm_utils/\n(.*?)```", text, re.DOTALL)[1]
    listed, place = set(), []
    for indent, name in re.findall(r"^( {2,6})(\S+)", tree, re.MULTILINE):  # rooms stand further in
        place[len(indent) // 2 - 1 :] = [name]
        listed.add("".join(place))
    package = ROOT / "charlm_utils"
    found = {path.relative_to(package).as_posix() for path in package.rglob("*.py")}
    assert {name for name in listed if name.endswith(".py")} == {
        name for name in found if not name.endswith("__init__.py")
    }
