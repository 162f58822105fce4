"""--machine, --patch-sides and --most-patches: what they take, and one line for every mistake."""

import pytest

from models.machines.build import PATCHED, WHOLE
from tests.helpers.runs import QUICK, assert_one_line, complaint, run_here
from utils.cli.options.checks import parse_sides, sides_text
from utils.cli.options.choices import MACHINE_NAMES, PATCH_MACHINES
from utils.cli.options.sections import EnergyStage, GenerateStage
from utils.cli.parse import parse
from utils.files.provenance import stage_section


def test_every_machine_has_a_name_here_and_takes_the_sides_that_it_needs():
    assert tuple(MACHINE_NAMES) == (*WHOLE, *PATCHED) and tuple(PATCHED) == PATCH_MACHINES


@pytest.mark.parametrize(
    ("text", "sides"),
    [
        ("5", 5),
        (" 1 ", 1),
        ("20:3", {20: 3}),
        ("20:3,100:7", {20: 3, 100: 7}),
        (" 100 : 7 , 0:3", {0: 3, 100: 7}),
    ],
)
def test_patch_sides(text, sides):
    assert parse_sides(text) == sides == parse_sides(sides_text(sides))


SHAPE = "give a patch side, as 5, or one for each of some times, as 20:3,100:7"


@pytest.mark.parametrize(
    ("text", "remedy"),
    [
        *((text, SHAPE) for text in ("", "five", "3,5", "20:3,", "-3", "-1:3", "3.0", "20:3:5")),
        *((text, SHAPE) for text in ("1e3", "20=3", "9" * 7)),
        *((text, "choose odd sides, 1 or more") for text in ("4", "0", "20:3,100:6", "20:0")),
        ("20:3,100:7,020:5", "name the time 20 once"),
    ],
)
def test_other_texts_are_no_patch_sides(text, remedy):
    with complaint("--patch-sides", text, remedy):
        parse_sides(text)


LOCAL = ("--machine", "local")
SIDE = ("--patch-sides", 3)
MISTAKES = {
    "name": (["--machine", "magic"], ("--machine: found magic", ", ".join(MACHINE_NAMES))),
    "two": (["--exact", "--machine", "wiener"], ("--exact", "--machine wiener too")),
    **{
        f"{name} without sides": (
            ["--machine", name],
            (f"--machine {name}", "no --patch-sides", "as run_machines.py prints them"),
        )
        for name in PATCH_MACHINES
    },
    "sides of wiener": (["--machine", "wiener", *SIDE], ("--patch-sides: found 3", "leave it out")),
    "sides of exact": (["--exact", *SIDE], ("--patch-sides: found 3", "leave it out")),
    "sides of a network": ([*SIDE], ("--patch-sides: found 3", "leave it out")),
    "even": ([*LOCAL, "--patch-sides", 4], ("--patch-sides: found 4", "odd")),
    "twice": ([*LOCAL, "--patch-sides", "2:3,2:5"], ("--patch-sides: found 2:3,2:5", "once")),
    "words": ([*LOCAL, "--patch-sides", "small"], ("--patch-sides: found small", SHAPE)),
    "beyond": (
        [*LOCAL, "--patch-sides", "2:3,30:5"],
        ("--patch-sides: found 2:3,30:5", "choose times 0 to 29"),
    ),
    "patches of local": (
        [*LOCAL, *SIDE, "--most-patches", 9],
        ("--most-patches: found 9", "leave it out"),
    ),
    "patches of exact": (["--exact", "--most-patches", 9], ("--most-patches", "leave it out")),
    "no patches": (
        ["--machine", "equivariant", *SIDE, "--most-patches", 0],
        ("--most-patches: found 0", "choose 1 or more"),
    ),
    "model": (
        ["--machine", "wiener", "--model", "my.py:load"],
        ("--machine wiener", "--model my.py:load too", "choose one of them"),
    ),
    "checkpoint": (
        ["--machine", "wiener", "--ckpt-path", "models"],
        ("--machine wiener", "--ckpt-path models too", "choose one of them"),
    ),
}
SCRIPTS = ("run_generate.py", "run_critical_times.py", "run_energy.py", "run_curvature.py")


def flags_of(script, tmp_path):
    """A command that lacks nothing but its closed form."""
    flags = [*QUICK, "--train-size", 4, "--result-path", tmp_path / "out"]
    if script == "run_generate.py":
        flags += ["--num-samples", 2]
    if script == "run_energy.py":
        flags += ["--ref-path", tmp_path / "none.npz"]
    return flags


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes(tmp_path, case):
    flags, words = MISTAKES[case]
    done = run_here("run_generate.py", *flags_of("run_generate.py", tmp_path), *flags)
    assert_one_line(done, *words)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("script", SCRIPTS[1:])
@pytest.mark.parametrize("case", ["two", "local without sides", "beyond", "model", "checkpoint"])
def test_mistakes_in_every_stage(tmp_path, script, case):
    flags, words = MISTAKES[case]
    done = run_here(script, *flags_of(script, tmp_path), *flags)
    assert_one_line(done, *words)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("case", ["name", "two", "local without sides", "model"])
def test_mistakes_in_generalization(tmp_path, case):
    flags, words = MISTAKES[case]
    own = [*QUICK, "--synth-path", tmp_path / "none", "--result-path", tmp_path / "out"]
    assert_one_line(run_here("run_generalization.py", *own, *flags), *words)


def test_generalization_takes_a_machine_or_checkpoints(tmp_path):
    own = [*QUICK, "--result-path", tmp_path / "out", "--machine", "wiener"]
    both = run_here("run_generalization.py", *own, "--ckpt-path", "m", "--synth-path", tmp_path)
    assert_one_line(both, "--machine wiener", "--ckpt-path m too")
    course = run_here("run_generalization.py", *own, "--checkpoints", tmp_path)
    assert_one_line(course, "--checkpoints", "--machine wiener too")


@pytest.mark.parametrize(
    ("text", "sides"), [("5", 5), ("20:3", {20: 3}), ("20:3,100:7", {20: 3, 100: 7})]
)
def test_a_yaml_file_may_say_it(tmp_path, text, sides):
    """YAML 1.1 would read 20:3 as the number 1203, which is odd."""
    (tmp_path / "c.yaml").write_text(f"energy:\n  machine: local\n  patch_sides: {text}\n")
    options = parse(EnergyStage, ["--config_path", str(tmp_path / "c.yaml")]).energy
    assert (options.closed_form, options.sides) == ("local", sides)


def stored(*flags):
    return stage_section(parse(GenerateStage, [*map(str, flags)]).generate)


def test_one_model_is_stored_in_one_spelling():
    exact = stored("--exact")
    assert exact == stored("--machine", "exact") == stored("--exact", "--machine", "exact")
    assert exact["exact"] and exact["machine"] is None
    sides = [stored(*LOCAL, "--patch-sides", text) for text in ("2:3,9:5", "9:5, 2:3")]
    assert sides[0] == sides[1] != stored(*LOCAL, "--patch-sides", "2:3,9:7")
    assert stored()["exact"] is False and stored()["machine"] is None
