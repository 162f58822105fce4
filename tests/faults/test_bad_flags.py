"""YAML files and flags of any kind: refused in one line, or accepted with values in range."""

from __future__ import annotations

import dataclasses
import json
import math
import typing
from pathlib import Path

import pytest
import yaml
from hypothesis import example, given, note
from hypothesis import strategies as st

from tests.helpers.sandbox import RUNS
from tests.helpers.trials import FULL, TRIES, examples, outcome, told_in
from utils.cli.options import sections as options
from utils.cli.options.checks import flag
from utils.cli.options.sections import SECTIONS
from utils.cli.parse import parse

EXAMPLES = 12 * TRIES
# What each stage needs beside the flags that are drawn; paths below the folder of the test.
MODEL = "--image-size 8 --in-channels 1 --dim 32 --dim-mults 1 --timesteps 60 --valid-size 8"
GIVEN = {
    "train": f"--data-name digits --train-size 8 --results-path out/run {MODEL}",
    "generate": "--ckpt-path models/8.pt --result-path out --num-samples 4 --steps 2",
    "distances": "--synth-path s --result-path out --no-cache",
    "classify": "--dist-path d --eval-path s --result-path out --no-cache",
    "critical times": "--ckpt-path models --sample-path s --result-path out",
    "energy": "--ckpt-path models --sample-path s --ref-path ref.npz --result-path out",
    "curvature": "--ckpt-path models --sample-path s --result-path out --t 5",
    "generalization": "--ckpt-path models --synth-path s --result-path out --no-cache --t 5",
    "machines": "--ckpt-path models --synth-path s --result-path out --t 5",
    "pipeline": f"--data-name digits --sizes 2,8 --samples 8 --root out --criterion delta {MODEL}",
    "describe": "--path s/8.npz",
    "to diffusers": "--ckpt-path models/8.pt --result-path out",
}
WORDS = (
    *("nan", "inf", "-inf", "-1", "0", "1", "2", "1.5", "1e400", "-1e400", "1e-320", "-0.0"),
    *("10" + "0" * 30, "99999999999", "-" + "9" * 25, "9" * 5000, "1_0", "0x10", "1e3", "\u0663"),
    *("", " ", ",", "1,,2", "1,2", "1," * 3000 + "1", "2,2", "-1,2", "1;2", "true", "False", "no"),
    *("é\u202e", "\ud800", "a\0b", "x" * 10_000, "$(touch MARKER)", "../..", "/", "~", "."),
    *("s/8.npz", "models", "models/8.pt", "/dev/null", "/proc/self/mem", "none/none", "s"),
    *("--", "--lr", "-h1", "@x", "0/0", "1/2", "2/1", "-1/2", "0/1e3", "4G", "1K", "99999T", "cpu"),
    *("cuda:99999999999999999999", "cuda", "mps", "meta", "auto", "digits", "l2", "ratio"),
)
PLACES = {"s/8.npz", "models", "models/8.pt", "s", ".", "/", "none/none", "~", "../..", "1", "x"}


def fields_of(stage: type) -> list[tuple[str, dataclasses.Field, object]]:
    """Section, field and type of every flag of a stage."""
    result = []
    for section in dataclasses.fields(stage):
        if section.metadata.get("flags", True):
            kind = SECTIONS[section.name]
            hints = typing.get_type_hints(kind)
            result += [(section.name, f, hints[f.name]) for f in dataclasses.fields(kind)]
    return result


def sensible(value: object) -> None:
    """Whatever the option: no number that is none, and none that a machine cannot hold."""
    if isinstance(value, float):
        assert math.isfinite(value), value
    elif isinstance(value, int):
        assert abs(value) < 2**63, value
    elif isinstance(value, tuple):
        assert len(value) < 10_000
        for item in value:
            sensible(item)
    elif isinstance(value, (str, Path)):
        assert "\0" not in str(value), repr(value)[:99]


POSITIVE = {  # 1 or more, or None
    *("global_batch_size", "iterations", "log_every", "ckpt_every", "train_size", "batch_size"),
    *("num_files", "num_samples", "steps", "k", "eval_batch_size", "ref_batch_size", "pool_size"),
    *("p_trials", "stride", "ddim_steps", "samples", "jobs", "num_res_blocks", "n_iter", "points"),
    *("sampling_freq", "image_size", "checkpoint", "probes", "eigenvalues", "noises", "cells"),
    *("probe_size", "held_out_size", "images", "side_images", "most_patches"),
}
SHARES = {"dropout", "ema_decay", "eta", "p", "false_positive_rate", "tolerance"}
NOT_NEGATIVE = {
    *("delta", "delta_m", "delta_s", "lr", "beta", "t", "distance_threshold", "seed", "top_size"),
    *(
        "normal_points",
        "least_size",
        "global_seed",
        "valid_size",
        "keep_checkpoints",
        "num_workers",
        "subset_seed",
        "seeds",
    ),
}


def in_their_ranges(section: object) -> None:
    """What an accepted section may hold, said here a second time."""
    for name, value in vars(section).items():
        sensible(value)
        if value is None:
            continue
        if name in POSITIVE:
            assert value >= 1, (name, value)
        if name in SHARES:
            assert 0 <= value <= 1, (name, value)
        if name in NOT_NEGATIVE:  # --t is one time, or several
            assert min(value if isinstance(value, tuple) else (value,)) >= 0, (name, value)
        if name in ("lr", "p", "beta", "distance_threshold", "false_positive_rate"):
            assert value > 0, (name, value)
        if name in ("sizes", "sample_size", "dim_mults", "attn_resolutions"):
            # of the image stages a negative --sample-size means all
            assert isinstance(value, int) or all(item >= 1 for item in value), (name, value)
    hints = typing.get_type_hints(type(section))
    for name, kind in hints.items():
        kinds = typing.get_args(kind) or (kind,)
        if typing.get_origin(kind) is not tuple:
            assert isinstance(getattr(section, name), kinds), (name, getattr(section, name))


def all_in_their_ranges(stage: object) -> None:
    for section in vars(stage).values():
        in_their_ranges(section)


@pytest.fixture(scope="module")
def folder(made):
    """With what the stages read; a dry run must leave it as it is."""
    return made[0]


def content(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))


def table_name(stage: str) -> str:
    return {"describe": "all", "to diffusers": "all"}.get(stage, stage.split()[0]).replace(
        "critical", "critical times"
    )


@st.composite
def flags_of(draw: st.DrawFn, stage: type) -> list[str]:
    """One to three flags of the stage with values of any kind."""
    known = fields_of(stage)
    arguments: list[str] = []
    for place in draw(st.lists(st.integers(0, len(known) - 1), min_size=1, max_size=3)):
        _, field, kind = known[place]
        # a path may be any text, but a folder must not be made somewhere else
        words = sorted(PLACES) if kind in (Path, Path | None) else WORDS
        value = draw(st.sampled_from(words) | st.integers().map(str) | st.floats().map(str))
        if "Path" in str(kind) and value.lstrip("-").replace(".", "").isdecimal():
            value = "x"
        arguments += draw(
            st.sampled_from(([flag(field.name), value], [f"{flag(field.name)}={value}"]))
        )
    return arguments


@pytest.mark.parametrize("name", RUNS)
def test_flags_of_any_kind_are_refused_or_hold(name, folder, tally, monkeypatch):
    run, stage = RUNS[name]
    monkeypatch.chdir(folder)
    given_flags = GIVEN.get(name, "--results-path out").split()
    before = content(folder)

    def dry(arguments):
        parsed = parse(stage, arguments)
        all_in_their_ranges(parsed)
        if "run" in vars(parsed):
            run(dataclasses.replace(parsed, run=dataclasses.replace(parsed.run, dry_run=True)))
        elif name == "to diffusers":
            settings = dataclasses.replace(parsed.to_diffusers, dry_run=True)
            run(dataclasses.replace(parsed, to_diffusers=settings))
        elif parsed.describe.grid is None:  # it would draw it
            run(parsed)

    with told_in(tally, table_name(name), "bad flags") as counted:

        @examples(EXAMPLES)
        @given(flags_of(stage))
        def holds(arguments):
            with counted.attempt():
                shown = [text if len(text) < 60 else text[:60] + "..." for text in arguments]
                note(f"flags: {shown}")
                message, _ = outcome(lambda: dry([*given_flags, *arguments]), "")
                note(f"message: {message}")

        holds()
    assert content(folder) == before


# YAML


SCALARS = (
    *(None, True, False, 0, 1, -1, 8, 1.5, 10**30, -(10**30), float("nan"), float("inf"), 1e308),
    *("", "x", "1,2", "nan", "1e400", "a\0b", "é", "0/2", "4G", "2026-01-01", "null"),
)
KEYS = sorted({name for kind in SECTIONS.values() for name in kind.__dataclass_fields__})
values = st.recursive(
    st.sampled_from(SCALARS) | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=6,
)
names = st.sampled_from([*SECTIONS, *SECTIONS, "trian", "", "Run", "toy", "data_path", "lr"])


@st.composite
def yaml_text(draw: st.DrawFn) -> str:
    """Sections and keys, known and misspelt, with values of any kind."""
    sections = {}
    for name in draw(st.lists(names, min_size=1, max_size=3)):
        known = sorted(SECTIONS[name].__dataclass_fields__) if name in SECTIONS else KEYS
        keys = st.sampled_from(known) | st.sampled_from(KEYS) | st.text(max_size=4)
        sections[name] = draw(st.dictionaries(keys, values, max_size=3) | values)
    text = yaml.safe_dump(sections, allow_unicode=draw(st.booleans()))
    return draw(st.sampled_from((text, text, json.dumps(sections), text + text)))


def billion(open_: str, close: str) -> bytes:
    """Nine of the one before, nine times over."""
    lines = [f"a0: &a0 {open_}{'x' if open_ == '[' else 'k: x'}{close}"]
    for i in range(1, 12):
        items = ", ".join(f"*a{i - 1}" if open_ == "[" else f"k{j}: *a{i - 1}" for j in range(9))
        lines.append(f"a{i}: &a{i} {open_}{items}{close}")
    return "\n".join(lines).encode()


HOSTILE = {
    "a billion lists": billion("[", "]") + b"\ntrain: *a11",
    "a billion dicts": billion("{", "}") + b"\ntrain: *a11",
    "a value of billions": b"train: {lr: [&a0 [x], "
    + b", ".join(b"&a%d [%s]" % (i, b", ".join([b"*a%d" % (i - 1)] * 9)) for i in range(1, 12))
    + b"]}",
    "a section of billions": b"train: [&a0 [x], "
    + b", ".join(b"&a%d [%s]" % (i, b", ".join([b"*a%d" % (i - 1)] * 9)) for i in range(1, 12))
    + b"]",
    "a path of NUL": b'data: {data_path: "a\\0b"}\n',
    "a path of half a character": b'data: {data_path: "a\\ud800b"}\n',
    "lists of themselves": b"train: &t\n  dim_mults: *t\n",
    "a list of itself": b"model:\n  dim_mults: &m [*m, *m]\n",
    "a dict of itself": b"train: &t {lr: *t}\n",
    "all of itself": b"&x {train: *x, *x : 1}\n",
    "deep lists": b"[" * 20_000,
    "deep dicts": b"{a: " * 9000,
    "deep in a value": b"train: {lr: " + b"[" * 5000 + b"]" * 5000 + b"}",
    "deep by indentation": b"".join(b" " * i + b"a:\n" for i in range(1000)),
    "tags": b"train: !!python/object:os.system {x: 1}\n",
    "a call": b"!!python/object/apply:os.system ['touch MARKER']\n",
    "a name": b"train: {lr: !!python/name:os.system }\n",
    "an unknown tag": b"train: !x {lr: 1}\n",
    "binary": bytes(range(256)),
    "NUL": b"train: {lr: \0}\n",
    "utf-16": "train: {lr: 0.1}\n".encode("utf-16"),
    "half a character": b"train: {lr: \xc3}\n",
    "a mark before it": b"\xef\xbb\xbftrain:\n  lr: 0.1\n",
    "tabs": b"train:\n\tlr: 0.1\n",
    "a key twice": b"train:\n  lr: 0.1\n  lr: 0.2\n",
    "a section twice": b"train: {lr: 0.1}\ntrain: {lr: 0.2}\n",
    "several documents": b"train: {lr: 0.1}\n---\ntrain: {lr: 0.2}\n",
    "a long integer": b"train: {iterations: " + b"9" * 5000 + b"}\n",
    "a long sexagesimal": b"train: {iterations: 1" + b":59" * 2000 + b"}\n",
    "a long hexadecimal": b"train: {iterations: 0x" + b"f" * 100_000 + b"}\n",
    "a long float": b"train: {lr: " + b"9" * 400 + b".0}\n",
    "a day that is none": b"train: {lr: 2026-99-99}\n",
    "a time that is none": b"train: {lr: 2026-01-01 99:99:99}\n",
    "bad base64": b"train: {lr: !!binary '\xc2\xa7'}\n",
    "a bool that is none": b"train: {clip_grad: !!bool maybe}\n",
    "an integer that is none": b"train: {iterations: !!int x}\n",
    "a float that is none": b"train: {lr: !!float x}\n",
    "an empty integer": b"train: {iterations: !!int ''}\n",
    "a set": b"train: !!set {lr}\n",
    "pairs": b"train: !!omap [lr: 1]\n",
    "a merge of a number": b"train: {<<: 3}\n",
    "a merge of itself": b"train: &t {<<: *t, lr: 0.1}\n",
    "a key that is a list": b"? [1, 2]\n: 3\n",
    "a key that is a dict": b"? {a: 1}\n: 3\n",
    "a key that is NaN": b".nan: 3\ntrain: {.nan: 1}\n",
    "a key of bytes": b"train: {!!binary aGk=: 1}\n",
    "an unknown anchor": b"train: *x\n",
    "a directive": b"%YAML 9.9\n---\ntrain: {lr: 0.1}\n",
    "a million keys": b"train: {" + b"".join(b"k%d: 1, " % i for i in range(10_001)) + b"}",
    "a long word": b"train: {subset: " + b"x" * 10**6 + b"}\n",
    "a million numbers": b"model: {dim_mults: '" + b"1," * 300_000 + b"'}\n",
}
TAKEN = {"a mark before it", "utf-16"}  # what another editor writes; the numbers are the same


def through_every_stage(path: Path) -> None:
    """The file as --config_path of stages that know its sections as their own, and do not."""
    others = (options.EnergyStage, options.ToyAllStage) if FULL else ()
    for stage in (options.TrainStage, *others):
        message, parsed = outcome(
            lambda s=stage: parse(s, ["--config_path", str(path)]), "bad", "--"
        )
        if message is None:
            all_in_their_ranges(parsed)


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_yaml_is_one_line_and_stays_small(name, tmp_path, monkeypatch, tally):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "bad.yaml"
    path.write_bytes(HOSTILE[name])
    with tally.attempt("all", "bad flags", name):
        through_every_stage(path)
        assert not (tmp_path / "MARKER").exists()


def test_a_key_that_is_given_twice_is_refused(tmp_path):
    """The first of two values would be passed over in silence."""
    path = tmp_path / "bad.yaml"
    for name in ("a key twice", "a section twice"):
        path.write_bytes(HOSTILE[name])
        message, _ = outcome(lambda: parse(options.TrainStage, ["--config_path", str(path)]), "bad")
        assert message and "twice" in message


def test_a_byte_order_mark_changes_nothing(tmp_path):
    path = tmp_path / "bad.yaml"
    for name in TAKEN:
        path.write_bytes(HOSTILE[name])
        assert parse(options.TrainStage, ["--config_path", str(path)]).train.lr == 0.1


def test_yaml_of_any_structure_is_refused_or_holds(tmp_path, tally):
    path = tmp_path / "bad.yaml"
    with told_in(tally, "all", "bad flags") as counted:

        @examples(2 * EXAMPLES)
        @given(yaml_text())
        @example("train: {lr: .nan}\n")
        @example("run: {device: 3}\n")
        def holds(text):
            with counted.attempt():
                path.write_bytes(text.encode("utf-8", "surrogatepass"))
                through_every_stage(path)

        holds()


@pytest.mark.parametrize("section", SECTIONS)
def test_every_key_of_a_section_takes_values_of_any_kind_or_refuses_them(section, tmp_path, tally):
    """The same ranges in YAML as on the command line."""
    path = tmp_path / "bad.yaml"
    stages = [stage for _, stage in RUNS.values() if section in stage.__dataclass_fields__]
    keys = sorted(SECTIONS[section].__dataclass_fields__)
    with told_in(tally, "all", "bad flags") as counted:

        @examples(EXAMPLES)
        @given(st.sampled_from(keys), values)
        def holds(key, value):
            with counted.attempt():
                path.write_text(yaml.safe_dump({section: {key: value}}))
                arguments = ["--config_path", str(path)]
                for stage in stages:
                    message, parsed = outcome(lambda s=stage: parse(s, arguments), "bad", "--")
                    if message is None:
                        all_in_their_ranges(parsed)

        holds()


def test_a_path_that_is_no_yaml_file_is_one_line(tmp_path):
    """A folder, a file of another kind, a device, nothing, two at once."""
    (tmp_path / "text").write_text("lr")
    for place in (tmp_path, tmp_path / "text", "/dev/null", "", "a\0b", "x" * 300, "none"):
        message, _ = outcome(
            lambda p=place: parse(options.TrainStage, ["--config_path", str(p)]), ""
        )
        assert message, place
