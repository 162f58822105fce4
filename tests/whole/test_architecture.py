"""The layout: imports go downward only, and each mechanism has one place.

The floors of the folders stand in FLOORS alone; docs/architecture.md draws the same picture."""

from __future__ import annotations

import ast
import re
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from tests.helpers.runs import ROOT

# From the ground up. A file may import from lower floors and from its own folder.
FLOORS = (
    ("models", "models/circle", "models/machines", "utils/cli", "utils/cli/options"),
    ("utils/files",),
    ("utils/jobs", "utils/figures"),
    ("utils/data", "utils/data/sources"),
    ("utils/descriptors", "utils/inputs"),
    ("utils/metrics",),
    ("utils/evidence",),
    ("utils/stages",),
    ("utils",),  # python -m utils.NAME
    (".",),  # root scripts
)
# Arrows between folders of one floor, and of stages, that are wanted.
WITHIN = {("utils/cli", "utils/cli/options"), ("utils/cli/options", "utils/cli")}
WITHIN |= {("models/circle", "models"), ("models/machines", "models")}
# Images from anywhere may be a data set; a data set by name may be audited as images from anywhere.
WITHIN |= {("utils/data", "utils/data/sources"), ("utils/data/sources", "utils/data")}
FLOOR = {folder: number for number, folders in enumerate(FLOORS) for folder in folders}
SCRIPTS = sorted(ROOT.glob("*.py"))
FILES = sorted([*ROOT.glob("models/**/*.py"), *ROOT.glob("utils/**/*.py")])
MODULES = {path.relative_to(ROOT).with_suffix("").as_posix() for path in [*FILES, *SCRIPTS]}
STAGES = sorted({path.parent.name for path in ROOT.glob("utils/stages/*/stage.py")})
# A stage may read another's files, and the pipeline and the report know all stages.
READERS = ("pipeline", "report")
SHARED_BY_STAGES = ("files", "summary")
# The circle's basins are found by the search for critical times.
SHARED_BY_STAGES += ("search",)
# Pure mathematics, wherever it lies: arrays in, arrays out.
PURE = (
    "utils/descriptors/lpips",
    "utils/metrics/pairs",
    "utils/metrics/exact_search",
    "utils/stages/curvature/hessian",
    "utils/stages/curvature/lanczos",
    "utils/stages/energy/path_integral",
    "utils/stages/critical_times/pool",
    "utils/stages/generalization/memorizer",
)


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).with_suffix("").as_posix()


def folder_of(module: str) -> str:
    """The folder of FLOORS that a module lies in; the stages' folders count as one."""
    folder = Path(module).parent.as_posix()
    return "utils/stages" if folder.startswith("utils/stages") else folder


def imports(path: Path) -> set[str]:
    """Modules of this project that path imports anywhere, as `utils/files/atomic`."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            base = node.module.replace(".", "/")
            names = {f"{base}/{alias.name}" for alias in node.names}
            found |= (names & MODULES) or {base}
        elif isinstance(node, ast.Import):
            found |= {alias.name.replace(".", "/") for alias in node.names}
    return found & MODULES


def test_every_folder_has_a_floor():
    folders = {folder_of(name_of(path)) for path in [*FILES, *SCRIPTS]}
    assert folders == set(FLOOR)
    assert len(FILES) > 100  # a glob that finds nothing would pass every other test


@pytest.mark.parametrize("path", [*FILES, *SCRIPTS], ids=name_of)
def test_imports_go_downward(path):
    own = folder_of(name_of(path))
    for other in imports(path):
        there = folder_of(other)
        below = FLOOR[there] < FLOOR[own] or there == own or (own, there) in WITHIN
        assert below or path.name == "__init__.py", f"{name_of(path)} imports {other}, above it"


def test_there_is_no_circle():
    graph = {name_of(path): imports(path) for path in FILES if path.name != "__init__.py"}
    assert len(tuple(TopologicalSorter(graph).static_order())) >= len(graph)


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_imports_only_what_others_write(stage):
    for path in ROOT.glob(f"utils/stages/{stage}/*.py"):
        for other in imports(path):
            if stage in READERS or not other.startswith("utils/stages/"):
                continue
            _, _, room, name = other.split("/")
            allowed = room == stage or name in SHARED_BY_STAGES
            assert allowed, f"{name_of(path)} imports {other}"


@pytest.mark.parametrize(
    ("pattern", "keepers"),
    [
        (r"torch\.load\(|np\.load\(", {"utils/files/arrays", "utils/files/tensors"}),
        (r"\bpickle\b(?!d)", {"utils/files/pickles"}),
        (r"torch\.distributed", {"utils/jobs/ranks"}),
        (r"WORLD_SIZE|SLURM_", {"utils/cli/launcher"}),
        (r"simple_parsing", {"utils/cli/parse", "utils/cli/options/checks"}),
        (r"sys\.exit", {"utils/cli/main"}),
    ],
)
def test_some_mechanisms_have_one_place(pattern, keepers):
    code = {name_of(p): re.sub(r'"""(?:.|\n)*?"""|#.*', "", p.read_text()) for p in FILES}
    users = {name for name, text in code.items() if re.search(pattern, text)}
    assert users and users <= keepers


@pytest.mark.parametrize(
    "path", [p for p in FILES if name_of(p).startswith("models/")], ids=name_of
)
def test_models_know_no_paths_and_no_users(path):
    assert_pure(path)


@pytest.mark.parametrize("name", PURE)
def test_mathematics_knows_no_paths_and_no_users(name):
    assert_pure(ROOT / f"{name}.py")


def assert_pure(path: Path) -> None:
    text = path.read_text()
    for word in ("pathlib", "UserError", "sys.argv"):
        assert word not in text, f"{name_of(path)}: {word}"


@pytest.mark.parametrize("script", SCRIPTS, ids=name_of)
def test_the_work_of_a_script_is_in_the_stage_of_its_name(script):
    stage = re.sub(r"^run_|_unet$|_example$", "", script.stem)
    assert f"utils/stages/{stage}/stage" in imports(script)


def test_folders_stay_small():
    """At most ten files a folder, and 400 lines a file; an __init__ holds a docstring alone."""
    folders = {path.parent for path in FILES}
    sizes = {f: sum(p.name != "__init__.py" for p in f.glob("*.py")) for f in folders}
    assert max(sizes.values()) <= 10, sizes
    for path in FILES:
        assert len(path.read_text().splitlines()) <= 400, path
        if path.name == "__init__.py" and name_of(path) != "utils/__init__":
            assert len(ast.parse(path.read_text()).body) <= 1, path
