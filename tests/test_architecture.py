"""The house: imports go downward only, and a few doors have one keeper."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted(p.stem for p in ROOT.glob("*.py"))
WORK_OF = {s: re.sub(r"^run_|_unet$|_example$", "", s) for s in SCRIPTS}
COMMANDS = {"describe", "report", "to_diffusers"}  # `python -m utils.NAME`: no stage, so no script
STAGES = {*WORK_OF.values(), *COMMANDS, "pipeline"}
# From the floor upwards; a file may import from lower floors and, plumbing and analysis, its own.
ANALYSIS = {
    *("embedding_cache", "nearest", "distance_parts"),
    *("embeddings", "calibration", "verdicts", "statistics", "transition", "summary"),
    *("figures", "lpips_weights"),
    *("data_uris", "report_parts", "report_measures", "what_if"),
    *("sampling", "evidence", "generalization_measures", "generalization_files"),
    *("generalization_figures", "generalization_overviews", "training_course"),
    *("searches", "basins", "basin_figures", "group_figures", "overviews", "trainer"),
    *("curvature_figures", "curvature_overviews"),
    *("landscapes", "toy_training", "toy_analysis", "toy_figures", "toy_overviews"),
}
FILES = sorted([*(ROOT / "models").glob("*.py"), *(ROOT / "utils").glob("*.py")])


def floor(module: str) -> int:
    room, _, name = module.partition(".")
    if room == "models":
        return 0
    if room == "utils":
        return 3 if name in STAGES else 2 if name in ANALYSIS else 1
    return 4


def imports(path: Path) -> set[str]:
    """Modules of this project that path imports, as `utils.files.atomic`."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            is_room = node.module in ("utils", "models")
            names = [f"{node.module}.{a.name}" for a in node.names] if is_room else [node.module]
            found.update(names)
        elif isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
    return {name for name in found if name.startswith(("utils.", "models.", "run_", "train_unet"))}


@pytest.mark.parametrize("path", FILES, ids=lambda p: f"{p.parent.name}.{p.stem}")
def test_imports_go_downward(path):
    own = f"{path.parent.name}.{path.stem}"
    for other in imports(path):
        assert floor(other) <= floor(own), f"{own} imports {other}, which is above it"
        if floor(own) == 3 and path.stem != "pipeline":
            assert floor(other) < 3, f"{own} imports the stage {other}"


@pytest.mark.parametrize(
    ("pattern", "keepers"),
    [
        (r"torch\.load\(|np\.load\(", {"storage", "original_files"}),
        (r"\bpickle\b(?!d)", {"original_files"}),
        (r"torch\.distributed", {"distributed"}),
        (r"WORLD_SIZE|SLURM_", {"launch"}),
        (r"simple_parsing", {"cli", "option_checks"}),
        (r"sys\.exit", {"cli"}),
    ],
)
def test_some_doors_have_one_keeper(pattern, keepers):
    code = {p: re.sub(r'"""(?:.|\n)*?"""|#.*', "", p.read_text()) for p in FILES}
    users = {path.stem for path, text in code.items() if re.search(pattern, text)}
    assert users <= keepers


def test_models_know_no_paths_and_no_users():
    for path in (ROOT / "models").glob("*.py"):
        text = path.read_text()
        assert "pathlib" not in text and "UserError" not in text and "sys.argv" not in text, path


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_work_of_a_script_is_in_the_file_of_its_name(script):
    name = WORK_OF[script]
    assert (ROOT / "utils" / f"{name}.py").exists()
    assert f"utils.{name}" in imports(ROOT / f"{script}.py")
