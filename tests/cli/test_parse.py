"""Options: flags above YAML above defaults, and one line for every mistake."""

from pathlib import Path

import pytest

from utils.cli.errors import UserError
from utils.cli.options.checks import required
from utils.cli.options.sections import (
    DistancesStage,
    GenerateStage,
    TrainStage,
)
from utils.cli.parse import parse


def config(tmp_path, text, name="c.yaml"):
    (tmp_path / name).write_text(text)
    return ["--config_path", str(tmp_path / name)]


def test_flags_beat_yaml_beats_defaults(tmp_path):
    flags = config(tmp_path, "train:\n  lr: 2e-4\n  train_size: 50\nmodel:\n  dim: 64\n")
    options = parse(TrainStage, [*flags, "--train-size", "7"])
    assert options.train.lr == 2e-4 and options.train.train_size == 7
    assert options.model.dim == 64 and options.train.iterations == 400_000


def test_the_last_of_several_files_wins(tmp_path):
    config(tmp_path, "train:\n  lr: 0.1\n  train_size: 5\n", "a.yaml")
    config(tmp_path, "train:\n  lr: 0.2\n", "b.yaml")
    paths = [str(tmp_path / name) for name in ("a.yaml", "b.yaml")]
    options = parse(TrainStage, ["--config_path", *paths])
    assert (options.train.lr, options.train.train_size) == (0.2, 5)


@pytest.mark.parametrize("spelling", ["--train-size", "--train_size"])
def test_both_spellings(spelling):
    assert parse(TrainStage, [spelling, "12"]).train.train_size == 12
    assert parse(TrainStage, [f"{spelling}=12"]).train.train_size == 12


def test_a_stage_takes_the_data_path_of_the_data_section(tmp_path):
    flags = config(tmp_path, "data:\n  data_path: /here\n")
    assert parse(DistancesStage, flags).distances.data_path == Path("/here")
    flagged = parse(DistancesStage, [*flags, "--data-path", "/there"])
    assert flagged.distances.data_path == Path("/there")


def test_sections_and_keys_of_other_stages_are_accepted(tmp_path):
    text = "pipeline:\n  sizes: [2, 4]\nclassify:\n  delta_m: 0.5\nnum_files: 7\n"
    assert parse(GenerateStage, config(tmp_path, text)).generate.num_files == 7


MISTAKES = {
    "train:\n  lrr: 1\n": r"c\.yaml: train: found the key 'lrr'; known are .*\blr\b",
    "trian:\n  lr: 1\n": r"found the section 'trian'; known are .*\btrain\b",
    "nonsense: 1\n": r"found the section 'nonsense'",
    "train: 5\n": r"c\.yaml: train: found 5; give keys below it",
    "train:\n  train_size: many\n": r"train: train_size: found many; give a whole number",
    "train:\n  train_size: 2.5\n": r"train: train_size: found 2\.5; give a whole number",
    "train:\n  train_size: true\n": r"train: train_size: found True; give a whole number",
    "train:\n  train_size:\n": r"train: train_size: found None; give a whole number",
    "train:\n  lr: [1]\n": r"train: lr: found \[1\]; give a number",
    "train:\n  lr: .nan\n": r"--lr: found nan; choose a positive number",
    "train:\n  clip_grad: 3\n": r"clip_grad: found 3; give true or false",
    "model:\n  dim_mults: [1, x]\n": r"dim_mults: found \[1, 'x'\]; give numbers",
    "model:\n  dim_mults: [1, 2.5]\n": r"dim_mults: found \[1, 2\.5\]; give numbers",
    "data:\n  data_path: 3\n": r"data_path: found 3; give a path",
    "data:\n  data_name: cifar\n": r"--data-name: found cifar; choose digits",
    "": r"found an empty file",
    "- 1\n": r"found list; give sections",
    "a: [1\n": r"found no YAML in line",
    "\tx: 1\n": r"found no YAML in line",
    "a: !!python/object/apply:os.system ['true']\n": r"found no YAML",
}


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("train: {compile: on}", "on"),
        ("train: {compile: off}", "off"),
        ("train: {compile: no}", "off"),
        ("data: {results_path: 2026-11-26}", Path("2026-11-26")),
        ("data: {results_path: ~/runs}", Path.home() / "runs"),
        ("data: {results_path: $M2G_HERE/runs}", Path("/here/runs")),
        ("data: {results_path: ~no-such-user/runs}", Path("~no-such-user/runs")),
        ("model: {dim_mults: 1 2}", (1, 2)),
        ('model: {dim_mults: "1,2"}', (1, 2)),
        ("model: {dim_mults: [1, 2]}", (1, 2)),
        ('model: {dim_mults: "[1, 2]"}', (1, 2)),
        ("model: {dim_mults: 1}", (1,)),
    ],
)
def test_the_usual_ways_to_write_a_value(tmp_path, monkeypatch, line, value):
    monkeypatch.setenv("M2G_HERE", "/here")
    options = parse(TrainStage, config(tmp_path, f"{line}\n"))
    section, _, rest = line.partition(": {")
    assert getattr(getattr(options, section), rest.partition(":")[0]) == value


@pytest.mark.parametrize("text", ["1 2", "1,2", "1, 2", "[1, 2]", "[1,2]"])
def test_the_usual_ways_to_write_numbers_on_the_command_line(text):
    assert parse(TrainStage, ["--dim-mults", text], "").model.dim_mults == (1, 2)


def test_a_file_that_is_not_utf_8_is_to_be_saved_so(tmp_path):
    path = tmp_path / "old.yaml"
    path.write_bytes("data: {results_path: München}\n".encode("latin-1"))
    with pytest.raises(
        UserError, match=r"old\.yaml: found characters that are no UTF-8; save it as"
    ):
        parse(TrainStage, ["--config_path", str(path)], "")


@pytest.mark.parametrize("text", MISTAKES)
def test_mistakes_in_a_yaml_file(tmp_path, text):
    with pytest.raises(UserError, match=MISTAKES[text]):
        parse(TrainStage, config(tmp_path, text))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--train-size 0", "--train-size: found 0; choose 1 or more"),
        ("--train-size x", "--train-size: found invalid int value: 'x'"),
        ("--lr -1", "--lr: found -1.0; choose a positive number"),
        ("--lr inf", "--lr: found inf; choose a positive number"),
        ("--ema-decay nan", "--ema-decay: found nan; choose 0 to 1"),
        ("--ema-decay 1.5", "--ema-decay: found 1.5; choose 0 to 1"),
        ("--dropout 2", "--dropout: found 2.0; choose 0 to 1"),
        ("--dim 40", "--dim: found 40; choose a multiple of 32"),
        ("--image-size 30", "--image-size: found 30; choose a multiple of 8"),
        ("--dim-mults 1,x", "--dim-mults: found '1,x'; give whole numbers, as in 1,2,2"),
        ("--prediction-type x", "--prediction-type: found x; choose epsilon, sample, v"),
        ("--beta-schedule sqrt", "--beta-schedule: found sqrt; choose linear, scaled-linear"),
        ("--nonlinearity tanh", "--nonlinearity: found tanh"),
        ("--data-name imagenet", "--data-name: found imagenet; choose digits"),
        ("--device tpu", "--device: found tpu; choose auto, cpu"),
        ("--precision fp8", "--precision: found fp8"),
        ("--clip-grad maybe", "maybe"),
        ("--nocentercrop False", "nocentercrop"),
        ("--trainsize 5", "found --trainsize 5; see --help"),
        ("--global-seed -1", "--global-seed: found -1"),
        ("--config_path missing.yaml", "--config_path missing.yaml: found No such file"),
        ("--config_path .", "--config_path .: found Is a directory"),
        ("--config missing.yaml", "--config"),
        ("stray", "found stray"),
    ],
)
def test_mistakes_in_flags(flags, message):
    with pytest.raises(UserError) as raised:
        parse(TrainStage, flags.split())
    assert message in str(raised.value) and "\n" not in str(raised.value)


def test_a_slice_that_ends_before_it_begins():
    with pytest.raises(UserError, match="--final-idx: found 2; choose 5"):
        parse(DistancesStage, ["--start-idx", "5", "--final-idx", "2"])


def test_a_required_option_names_its_flag():
    with pytest.raises(UserError, match="--ckpt-path: found nothing; give it"):
        required(parse(GenerateStage, []).generate, "ckpt_path")
