"""Options: flags above YAML above defaults, and one line for every mistake."""

import dataclasses
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.runs import ROOT
from utils.cli.errors import UserError
from utils.cli.options.checks import flag, required
from utils.cli.options.sections import (
    ClassifyStage,
    CriticalTimesStage,
    CurvatureStage,
    DistancesStage,
    EnergyStage,
    GeneralizationStage,
    GenerateStage,
    PipelineStage,
    ToyAllStage,
    ToyBasinStage,
    ToyDataStage,
    ToyExactStage,
    ToyPlotsStage,
    ToyTrainStage,
    TrainStage,
)
from utils.cli.parse import parse

HELP = ROOT / "tests" / "help"
SCRIPTS = sorted(p.name for p in ROOT.glob("*.py"))
STAGE_OF = {
    "train_unet.py": TrainStage,
    "run_generate.py": GenerateStage,
    "run_distances.py": DistancesStage,
    "run_classify.py": ClassifyStage,
    "run_critical_times.py": CriticalTimesStage,
    "run_energy.py": EnergyStage,
    "run_curvature.py": CurvatureStage,
    "run_generalization.py": GeneralizationStage,
    "run_pipeline.py": PipelineStage,
    "toy_example.py data": ToyDataStage,
    "toy_example.py exact": ToyExactStage,
    "toy_example.py train": ToyTrainStage,
    "toy_example.py plots": ToyPlotsStage,
    "toy_example.py basin": ToyBasinStage,
    "toy_example.py all": ToyAllStage,
}
# what --help is asked of: scripts, and the commands of one that has commands
HELPED = sorted({*SCRIPTS, *STAGE_OF})


def config(tmp_path, text, name="c.yaml"):
    (tmp_path / name).write_text(text)
    return ["--config_path", str(tmp_path / name)]


def test_flags_beat_yaml_beats_defaults(tmp_path):
    given = config(tmp_path, "train:\n  lr: 2e-4\n  train_size: 50\nmodel:\n  dim: 64\n")
    options = parse(TrainStage, [*given, "--train-size", "7"])
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


def test_the_original_training_command():
    command = (
        "--config_path=./configs/cifar10.yaml --centercrop False --train-size 16000 "
        "--results-path cifar10-unet128/16k --dim 128 --log-every 500 --ckpt-every 2500 "
        "--iterations 500000 --num-workers 8"
    )
    options = parse(TrainStage, command.split())
    assert options.train.train_size == 16_000 and options.train.centercrop is False
    assert options.data.results_path == Path("cifar10-unet128/16k")
    assert options.model.dim_mults == (1, 2, 2, 2) and options.model.dropout == 0.1


@pytest.mark.parametrize(
    ("stage", "command"),
    [
        (
            GenerateStage,
            "--result-path generations/1000/ --ckpt-path models/1000.pt --batch-size 512 "
            "--num-files 100",
        ),
        (
            DistancesStage,
            "--result-path dists --synth-path synthetics/ --data-path data/ --use-lpips --k 5 "
            "--network alex --start-idx 0 --final-idx -1",
        ),
        (
            ClassifyStage,
            "--result-path identified/ --dist-path dists/ --eval-path synthetics/ "
            "--data-path data/ --k 5 --delta-s 0.02 --delta-m 0.03",
        ),
        (
            CriticalTimesStage,
            "--result-path times/memorized/ --ckpt-path models/ --data-path data/ --sample-path "
            "identified/memorized --sample-size 2048 --batch-size 256 --use-lpips --network vgg",
        ),
        (
            EnergyStage,
            "--ref-path reference/image.npz --ckpt-path models/ --data-path data/ --sample-path "
            "identified/memorized --sample-size 2048 --batch-size 512",
        ),
        (ToyDataStage, "--seed 9"),
        (ToyExactStage, "--sample_size 1000 --beta 20"),
        (ToyTrainStage, "--sample_size 1000 --n_iter 800000 --sampling_freq 50000"),
        (
            ToyPlotsStage,
            "--sample_size 1000 --t 0.15 --checkpoint 500000 --distance_threshold 1.0 "
            "--batch_size 10000 --dynamic_threshold False",
        ),
        (ToyBasinStage, "--sample_size 1000 --checkpoint 500000 --delta 0.1"),
    ],
)
def test_the_other_original_commands(stage, command):
    options = parse(stage, command.split())
    words = command.split()
    given = {w.replace("_", "-"): after for w, after in zip(words, [*words[1:], ""])}
    flagged = [f.name for f in dataclasses.fields(stage) if f.metadata.get("flags", True)]
    sections = [vars(getattr(options, name)) for name in flagged if name != "run"]
    found = {flag(n): value for values in sections for n, value in values.items()}
    for name in (word for word in given if word.startswith("--") and word != "--use-lpips"):
        value, text = found[name], given[name].rstrip("/")
        text = {"True": True, "False": False}.get(text, text)
        assert value == ((int(text),) if type(value) is tuple else type(value)(text)), name


@pytest.mark.parametrize("name", sorted(p.name for p in (ROOT / "configs").glob("*.yaml")))
@pytest.mark.parametrize("stage", STAGE_OF.values())
def test_every_config_serves_every_stage(name, stage):
    parse(stage, ["--config_path", str(ROOT / "configs" / name)])


@pytest.mark.parametrize(
    ("name", "batch", "iterations", "data_name", "crop", "side", "mults", "dropout"),
    [
        ("cifar10", 128, 500_000, "cifar10", False, 32, (1, 2, 2, 2), 0.1),
        ("church", 64, 800_000, "lsun-church", True, 64, (1, 1, 2, 2, 4, 4), 0.0),
        ("mnist", 128, 400_000, "mnist", False, 28, (1, 2, 2), 0.1),
        ("fmnist", 128, 400_000, "fashionmnist", False, 28, (1, 2, 2), 0.1),
    ],
)
def test_the_original_configurations(
    name, batch, iterations, data_name, crop, side, mults, dropout
):
    options = parse(TrainStage, ["--config_path", str(ROOT / "configs" / f"{name}.yaml")])
    train, model = options.train, options.model
    assert (train.global_batch_size, train.iterations, train.centercrop) == (
        batch,
        iterations,
        crop,
    )
    assert (options.data.data_name, model.image_size, model.dim_mults) == (data_name, side, mults)
    assert (model.dropout, train.lr, train.ema_decay, model.dim) == (dropout, 2e-4, 0.9999, 128)
    assert (train.log_every, train.ckpt_every, train.num_workers) == (500, 2500, 8)
    assert (train.train_size, model.attn_resolutions) == (50_000, (16,))


def test_a_stage_takes_the_data_path_of_the_data_section(tmp_path):
    given = config(tmp_path, "data:\n  data_path: /here\n")
    assert parse(DistancesStage, given).distances.data_path == Path("/here")
    flagged = parse(DistancesStage, [*given, "--data-path", "/there"])
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
        ("--prediction-type v", "--prediction-type: found v; choose epsilon, sample"),
        ("--beta-schedule cosine", "--beta-schedule: found cosine"),
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


def run_script(script, *flags):
    environment = {**os.environ, "PYTHONHASHSEED": "0", "COLUMNS": "100", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, script, *flags], cwd=ROOT, env=environment, capture_output=True, text=True
    )


def help_file(command):
    return HELP / f"{command.replace(' ', '.')}.txt"


@pytest.mark.parametrize("command", HELPED)
def test_help_is_the_stored_one(command):
    """After a change that is meant: `python -m tests.store_help`."""
    done = run_script(*command.split(), "--help")
    assert done.returncode == 0 and not done.stderr
    assert done.stdout == help_file(command).read_text()


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_imports_nothing_heavy(script):
    code = (
        f"import sys, runpy; sys.argv = [{script!r}, '--help']\n"
        "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'torchvision', 'matplotlib', 'sklearn', 'scipy', 'lpips', 'PIL'}\n"
        "print('HEAVY', heavy & set(sys.modules))"
    )
    done = run_script("-c", code)
    assert done.stdout.splitlines()[-1] == "HEAVY set()", done.stderr


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_mistake_ends_in_one_line_and_code_2(script):
    done = run_script(script, "--no-such-flag", "1")
    assert done.returncode == 2 and not done.stdout
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("error: ")


def commands() -> list[str]:
    """Every `python SCRIPT.py ...` of the README and of the scripts' docstrings, on one line."""
    texts = [ROOT / "README.md", *(ROOT / script for script in SCRIPTS)]
    joined = "\n".join(path.read_text().replace("\\\\\n", " ") for path in texts)
    joined = joined.replace("\\\n", " ")
    found = re.findall(r"^\s*(?:\$ )?python (\w+\.py .*)$", joined, flags=re.MULTILINE)
    return sorted({" ".join(command.split()) for command in found})


def test_every_script_shows_its_command():
    shown = commands()
    for known in STAGE_OF:
        assert any(f"{command} ".startswith(f"{known} ") for command in shown), known
    assert {known.split()[0] for known in STAGE_OF} == set(SCRIPTS)


@pytest.mark.parametrize("command", commands())
def test_the_commands_that_we_print_are_understood(command, monkeypatch):
    monkeypatch.chdir(ROOT)
    (known,) = (known for known in STAGE_OF if f"{command} ".startswith(f"{known} "))
    parse(STAGE_OF[known], shlex.split(command.removeprefix(known)))
