"""Every command of README.md and of the pages for users, in their order, in one folder, on tiny
settings; the table of stages; links.

Commands run in this process: a new one takes three seconds for its imports alone. What would start
others is asked for the command that it would start, and that runs here once: torchrun's own parser,
the batch file under bash, the recipe in the Makefile. The launchers themselves are tried in
test_ranks.py and test_cluster.py."""

from __future__ import annotations

import io
import os
import re
import runpy
import shlex
import shutil
import signal
import subprocess
import sys
from argparse import Namespace
from collections.abc import Iterable
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import pytest
import sklearn  # noqa: F401  (its first import sets environment variables, see `state`)
import torch
import yaml
from matplotlib.figure import Figure
from torch.distributed.run import get_args_parser

from tests.helpers.formats import PARSE_UTILS
from tests.helpers.images import offline, small_cifar, write_mnist
from tests.helpers.runs import COMMAND_PAGES, ROOT
from tests.helpers.sources import tiles, write_folder
from utils.cli import signals as interrupts
from utils.data import photos
from utils.data.datasets import load_image_set
from utils.inputs.checkpoints import build_network
from utils.stages.toy import analysis as toy_analysis
from utils.stages.toy import stage as toy

README, STAGES = (ROOT / "README.md").read_text(), (ROOT / "docs" / "stages.md").read_text()
MAKEFILE = (ROOT / "Makefile").read_text()
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

# Read after each command's own YAML files, so it beats them; flags beat it, so see FLAGS.
TINY = """
run: {device: cpu}
# All images are cut to 8 x 8: a step of a network for 28 x 28 takes as long as ten.
train:
  {iterations: 40, global_batch_size: 16, lr: 2.0e-3, ema_decay: 0.9, valid_size: 8,
   log_every: 20, ckpt_every: 40, centercrop: true}
model: {image_size: 8, dim: 32, dim_mults: [1], attn_resolutions: [4], num_res_blocks: 1}
generate: {steps: 10}
# So short a training memorizes nothing at a rate of 1 %, and without samples of a class the
# commands that examine them would have nothing to do. At this rate every class has some.
classify: {false_positive_rate: 0.95, top_size: 4, least_size: 2, k: 2}
critical_times: {sample_size: 1, p_trials: 2, ddim_steps: 2, stride: 500}
energy: {sample_size: 2, path_points: 2}
curvature: {sample_size: 1, t: [20], normal_points: 70}
generalization: {t: [20], probe_size: 4, noises: 1, held_out_size: 40, cells: 1, samples: 4}
machines: {t: [20], images: 8, sides: [3], side_images: 4, most_patches: 100, seeds: 2}
pipeline: {sizes: [2, 8], samples: 24, jobs: 1}
toy_all: {n_iter: 40}
toy_plots: {samples: 40}
toy_basin: {points: 2, p_trials: 4}
"""
SIZES = (2, 8)  # of published models, as in TINY
FLAGS = {  # flags whose numbers are replaced, and why
    "--iterations": ("40", "steps of a training"),
    "--dim": ("32", "the narrowest network that there is"),
    "--t": ("20", "a pass over the samples for each"),
    "--samples": ("24", "each is drawn and compared with all others"),
    "--num-samples": ("24", "as --samples"),
    "--sizes": ("8", "a training for each, and the data sets are small; TINY has two"),
    "--jobs": ("1", "several are new processes"),
    "--repeats": ("2", "a training of each K for each"),
    "--n-iter": ("40", "steps of a training of the circle"),
    "--sampling-freq": ("10", "some checkpoints in so few steps"),
}
NOT_RUN = {  # modules behind commands that are not run, and why
    "pytest": "would run this very test, and takes many minutes",
    "benchmarks": "an hour; its numbers are no test's",
    "ruff": "looks at the code, not at what the README says",
}

# What the README says to type


class Step(NamedTuple):
    """A command as words, or a snippet of Python as code; its page, and its line there."""

    line: int
    words: tuple[str, ...]
    code: str = ""
    page: str = "README.md"

    def __str__(self) -> str:
        return f"{self.page}, line {self.line}: {shlex.join(self.words) or self.code}"


LAUNCHERS = ("python", "torchrun", "sbatch", "make", "hf")
FENCE = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SHELL, OUTPUT = ("", "sh", "bash", "shell", "console"), ("text", "bibtex")


def steps_of(text: str) -> list[Step]:
    """All of them, in order. Raises AssertionError for what is neither understood nor output."""
    found = []
    for block in FENCE.finditer(text):
        line, kind, body = text[: block.start()].count("\n") + 2, block[1].strip(), block[2]
        if kind == "python":
            found.append(Step(line, (), body))
        elif kind not in OUTPUT:
            assert kind in SHELL, f"README.md, line {line - 1}: a block of the unknown kind {kind}"
            found += commands_of(body, line)
    prose = FENCE.sub(lambda block: re.sub(r"[^\n]", "", block[0]), text)
    assert "```" not in prose, "README.md: a block that does not end"
    found += inline_commands(prose)
    return sorted(found, key=lambda step: step.line)


def commands_of(body: str, first: int) -> list[Step]:
    """The commands of a block without a language.

    A block whose first line is indented, as the head of a table is, or begins with @, as BibTeX,
    is output. With the prompt `$ ` only the lines behind it are commands."""
    numbered = list(enumerate(body.splitlines(), first))
    is_output = body.startswith((" ", "\t", "@"))
    prompted = [(n, line[2:]) for n, line in numbered if line.startswith("$ ")]
    steps, open_line = [], ""
    for n, line in prompted or numbered:
        joined = f"{open_line} {line}".strip()
        if joined.endswith("\\"):
            open_line = joined[:-1].strip()
            continue
        open_line = ""
        if is_output:
            assert joined.partition(" ")[0] not in LAUNCHERS, f"README.md, line {n}: in an output"
        elif words := shlex.split(joined, comments=True):
            steps.append(checked(Step(n, tuple(words))))
    return steps


def inline_commands(prose: str) -> list[Step]:
    """Commands in the running text, as `python A B`, `make A`, but none that has an ellipsis."""
    steps = []
    for span in re.finditer(r"(?<!`)`((?:python|make|torchrun|sbatch|hf)\s[^`]+)`", prose):
        words = tuple(span[1].split())
        if "..." not in words:
            steps.append(checked(Step(prose[: span.start()].count("\n") + 1, words)))
    return steps


def checked(step: Step) -> Step:
    """The step, if `Checkout.run` knows its kind."""
    first, second = (*step.words, "")[:2]
    known = {
        "python": second.endswith(".py") or (second == "-m" and len(step.words) > 2),
        "make": len(step.words) > 1 and all("=" in word for word in step.words[2:]),
        "hf": second == "download" and step.words[3:4] == ("--local-dir",) and len(step.words) == 5,
    }.get(first, first in LAUNCHERS)
    operators = {"|", "||", "&", "&&", ";", ">", "<"} & set(step.words)
    remedy = "teach tests/whole/test_readme.py, or if this is output, begin its block with ```text"
    assert known and not operators, f"{step}: an unknown kind of command; {remedy}"
    return step


def recipe(target: str) -> list[tuple[str, ...]]:
    """The Python commands of a target in the Makefile; it must be there, with its word of help."""
    found = re.search(rf"^{re.escape(target)}:.*##.*\n((?:\t.*\n)*)", MAKEFILE, re.MULTILINE)
    assert found, f"make {target}: no such target with a line of help in the Makefile"
    return [("python", *shlex.split(c)) for c in re.findall(r"\$\(RUN\) (.*)", found[1])]


# A checkout in which they are run


def tiny(words: Iterable[str]) -> list[str]:
    """Arguments with the numbers of FLAGS replaced; what is no number stays, to be refused."""
    words = list(words)
    for i, (word, value) in enumerate(zip(words, words[1:])):
        small = FLAGS.get(word.replace("_", "-"))
        if small and re.fullmatch(r"[\d,]+", value):
            words[i + 1] = small[0]
    return [*words, "--config_path", "tiny.yaml"]


def state() -> dict[str, Any]:
    """What one command could leave behind for the next, or for other tests."""
    return {
        "signals": {number: signal.getsignal(number) for number in interrupts.SIGNALS},
        "asked to stop": interrupts.stopping(),
        "folder": os.getcwd(),
        "environment": dict(os.environ),
        "arguments": [*sys.argv],
        "paths": [*sys.path],
        "matplotlib": dict(matplotlib.rcParams),
        "threads": torch.get_num_threads(),
        "gradients": torch.is_grad_enabled(),
        "number format": torch.get_default_dtype(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
    }


class Checkout:
    """A folder with what a user's checkout has, and what each stage has written there."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.folder, self.patch = folder, patch
        self.wrote: dict[str, set[Path]] = {}
        self.done: set[tuple[str, ...]] = set()
        self.names = {"torch": torch, "numpy": np, "np": np}  # a snippet leaves its imports out
        for path in (*ROOT.glob("*.py"), ROOT / "configs", ROOT / "utils"):
            (folder / path.name).symlink_to(path)
        # Copied: the README lets the trained models be written beside these modules.
        shutil.copytree(ROOT / "models", folder / "models", ignore=lambda *_: {"__pycache__"})
        (folder / "tiny.yaml").write_text(TINY)
        patch.chdir(folder)

    def run(self, step: Step) -> None:
        """Raises AssertionError, with the step, where it does not end well."""
        out, err = io.StringIO(), io.StringIO()
        try:
            with redirect_stdout(out), redirect_stderr(err):
                if step.code:
                    exec(compile(step.code, str(step), "exec"), self.names)
                else:
                    self.start(step.words)
        except (Exception, SystemExit) as error:
            raise AssertionError(f"{step}\n{error!r}\n{err.getvalue()[-2000:]}") from error

    def start(self, words: tuple[str, ...]) -> None:
        launcher, *rest = words
        if launcher == "torchrun":
            given = get_args_parser().parse_args(rest)
            self.python((given.training_script, *given.training_script_args))
        elif launcher == "sbatch":
            self.python(self.first_task(rest))
        elif launcher == "make":
            for command in recipe(rest[0]):
                self.start(command)
        elif launcher == "hf":
            self.download(rest[1], rest[3])
        elif not (rest[0] == "-m" and rest[1].partition(".")[0] in NOT_RUN):
            self.python(tuple(rest))

    def python(self, words: tuple[str, ...]) -> None:
        """`python SCRIPT.py ...` or `python -m MODULE ...`, unless the same has run before."""
        if words in self.done:
            return
        self.done.add(words)
        script, *rest = words
        if script == "-m":
            # Run by its path: runpy warns of a module that a test has imported before.
            spec = find_spec(rest[0])
            assert spec, f"no module {rest[0]}"
            name, path, rest = rest[0], spec.origin, rest[1:]
        else:
            name = path = script
            assert Path(script).is_file(), f"no {script}"
        before, there = state(), self.files()
        self.patch.setattr(sys, "argv", [path, *tiny(rest)])
        try:
            runpy.run_path(path, run_name="__main__")
        except SystemExit as stop:
            assert not stop.code, f"exit code {stop.code}"
        finally:
            # The end of a command ignores all signals for good.
            for number, handler in before["signals"].items():
                signal.signal(number, handler)
            self.patch.setattr(sys, "argv", before["arguments"])
        assert state() == before
        now = self.files()
        changed = {path for path in now if now[path] != there.get(path)}
        self.wrote.setdefault(name, set()).update(changed)

    def files(self) -> dict[Path, int]:
        """Every file below the folder, and when it was written; the checkout's own are links."""
        found = {}
        for path in self.folder.rglob("*"):
            if path.is_file():
                found[path.relative_to(self.folder)] = path.stat().st_mtime_ns
        return found

    def first_task(self, words: list[str]) -> tuple[str, ...]:
        """What the first task of an array would run, asked of the batch file itself."""
        place = next((i for i, word in enumerate(words) if not word.startswith("-")), len(words))
        options, given = words[:place], words[place:]
        assert given and Path(given[0]).is_file(), f"no batch file {' '.join(given[:1])}"
        ids = re.search(r"--array=(\d+)-(\d+)", " ".join(options))
        assert ids, "no --array=FIRST-LAST"
        first, last = map(int, ids.groups())
        task = {"ID": first, "MIN": first, "MAX": last, "COUNT": last - first + 1}
        env = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
        env |= {f"SLURM_ARRAY_TASK_{name}": str(value) for name, value in task.items()}
        # In the place of Python: it notes its arguments.
        asked = self.folder.parent / "asked"
        asked.write_text('#!/bin/bash\nprintf "%s\\0" "$@" > "$0.txt"\n')
        asked.chmod(0o755)
        ran = {"env": env | {"PYTHON": str(asked)}, "capture_output": True, "text": True}
        done = subprocess.run(["bash", *given], **ran)
        assert done.returncode == 0, done.stderr
        return tuple(asked.with_suffix(".txt").read_text().split("\0")[:-1])

    def download(self, repository: str, folder: str) -> None:
        """In the place of the Hub: SIZES models of the data set, in the form of published ones.

        configs/ must know the repository; options and weights are ours, tiny and untrained."""
        stem, _, width = repository.rpartition("-unet")
        # A file names several widths as in `NAME-unet64, -unet96, -unet128`.
        named = re.compile(rf"\b{re.escape(stem)}-unet(\d+, -unet)*{re.escape(width)}\b")
        configs = [path.read_text() for path in sorted((ROOT / "configs").glob("*.yaml"))]
        known = [yaml.safe_load(text) for text in configs if named.search(text)]
        assert len(known) == 1, f"{repository}: in {len(known)} files of configs/"
        names: dict[str, Any] = {}
        self.patch.setitem(sys.modules, "parse_utils", None)  # so that it is gone afterwards
        exec(PARSE_UTILS, names)
        sections = names["SECTIONS"]
        sections["data"] |= known[0]["data"]
        sections["train"] |= {"timesteps": 1000, "centercrop": True}
        sections["model"] |= {"in_channels": known[0]["model"]["in_channels"], "dim_mults": (1,)}
        for k in SIZES:
            sections["train"]["train_size"] = k
            args: Namespace = names["namespace"]("whole")
            network = build_network(sections["model"])
            weights = network.state_dict()
            content = {
                "model": {f"module.{name}": value for name, value in weights.items()},
                "ema": weights,
                "opt": torch.optim.Adam(network.parameters()).state_dict(),
                "args": args,
                "iterations": 12,
            }
            Path(folder).mkdir(parents=True, exist_ok=True)
            torch.save(content, Path(folder) / f"{k}.pt")


@pytest.fixture
def checkout(tmp_path, monkeypatch) -> Checkout:
    folder = tmp_path / "checkout"
    folder.mkdir()
    # Real digits, in the sizes and formats of the data sets that the pages name: as many as its
    # trainings need, and few, since all pass through LPIPS.
    digits = load_image_set("digits", "", 8, 1).read(range(540))[:, 0].numpy()
    threefold = np.pad(digits.repeat(3, axis=1).repeat(3, axis=2), [(0, 0), (2, 2), (2, 2)])
    write_mnist(folder / "data", threefold[:200], threefold[200:220])
    # Each in another colour: three digits, one for each channel.
    fourfold = digits.repeat(4, axis=1).repeat(4, axis=2).reshape(-1, 3, 32, 32)
    small_cifar(folder / "data", monkeypatch, fourfold)
    # Few tiles of one photograph: at 8 x 8 there are a hundred thousand.
    monkeypatch.setattr(photos, "PHOTOGRAPHS", {"skimage": ("data", ("chelsea.png",))})
    cut = photos.cut
    monkeypatch.setattr(photos, "cut", lambda *of: cut(*of)[::15])

    for module in ("mnist", "cifar"):  # what is not there must not be downloaded
        monkeypatch.setattr(f"torchvision.datasets.{module}.download_and_extract_archive", offline)
    # Its thread would outlive this test, and end the process of all tests after a signal.
    monkeypatch.setattr(interrupts._State, "watched", True)
    # `toy_example.py all` has no options for these.
    monkeypatch.setattr(toy_analysis, "SIDE", 15)
    few = {"ToyPlotsOptions": {"samples": 40}, "ToyBasinOptions": {"points": 2, "p_trials": 4}}
    for name, values in few.items():
        monkeypatch.setattr(toy, name, partial(getattr(toy, name), **values))

    # Half of the time would go into fonts for PDF, and into dots. test_figures.py looks at these.
    draw = Figure.savefig

    def savefig(figure: Figure, file: Any, *, format: str, **_: Any) -> None:
        if format == "png":
            draw(figure, file, format=format, dpi=20)
        else:
            file.write(b"%PDF")

    monkeypatch.setattr(Figure, "savefig", savefig)
    monkeypatch.setattr(Figure, "draw_without_rendering", lambda _: None)
    result = Checkout(folder, monkeypatch)
    result.download("lemoncmd/dm-am-mnist-unet128", "my-models")  # brought by the user
    for name, images in (("samples", tiles(40)), ("train", tiles(30)), ("test", tiles(40, "test"))):
        write_folder(folder / f"my-{name}", images)
    return result


# What the table of stages promises


def promises(text: str) -> dict[str, list[str]]:
    """Of each stage in the table of stages, the patterns of the files that it writes."""
    table = re.search(r"^\| stage \| reads \| writes \|\n\|[- |]+\|\n((?:\|.*\n)+)", text, re.M)
    assert table, "no table of | stage | reads | writes |"
    found: dict[str, list[str]] = {}
    for row in table[1].splitlines():
        stage, _, writes = (cell.strip() for cell in row.strip("|").split("|"))
        name = re.search(r"\w+\.py|utils\.\w+", stage)
        assert name, f"the stage {stage}"
        names = [name for name in re.findall(r"`([^`]+)`", writes) if not name.startswith("-")]
        patterns = [re.sub(r"\bK\b|\bCLASS\b", "*", name).rstrip("/") for name in names]
        if "figure" in writes:
            patterns.append("figures/*.png")
        if "all of it" in writes:
            patterns += [pattern for others in found.values() for pattern in others]
        assert patterns, f"{name[0]} writes nothing"
        found[name[0]] = patterns
    return found


def assert_kept(promised: dict[str, list[str]], wrote: dict[str, set[Path]]) -> None:
    """A pattern may be the name of a folder: then there is a file somewhere below it."""
    for stage, patterns in promised.items():
        assert stage in wrote, f"{stage}: in the table, but no command of the pages runs it"
        places = {place for path in wrote[stage] for place in (path, *path.parents)}
        for pattern in patterns:
            found = any(place.match(pattern) for place in places)
            assert found, f"{stage} has not written {pattern}, as the table of stages says"


@pytest.mark.slow
def test_every_command_runs_and_writes_what_the_table_says(checkout):
    promised = promises(STAGES)
    for page in COMMAND_PAGES:
        for step in steps_of((ROOT / page).read_text()):
            checkout.run(step._replace(page=page))
    assert_kept(promised, checkout.wrote)


# Its length and its links


def test_it_is_short():
    assert len(README.splitlines()) <= 160


def links(text: str) -> list[str]:
    """Targets of links and pictures that are no addresses of the web."""
    prose = re.sub(r"(?<!`)`[^`]+`", "", FENCE.sub("", text))
    found = re.findall(r"\]\(\s*<?([^()\s>]+)", prose) + re.findall(
        r"(?:src|href)=\"([^\"]+)", prose
    )
    found += re.findall(r"^\[[^\]]+\]:\s*(\S+)", prose, re.M)
    return [target for target in found if not re.match(r"[a-z][a-z+.-]*:", target)]


def anchors(page: Path) -> set[str]:
    """Of its headings, as GitHub makes them."""
    headings = re.findall(r"^#+ +(.+?) *#*$", FENCE.sub("", page.read_text()), re.M)
    plain = [re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings]
    return {heading.replace(" ", "-") for heading in plain}


def assert_links_lead_somewhere(page: Path, text: str) -> None:
    for target in links(text):
        name, _, anchor = target.partition("#")
        path = page.parent / name if name else page
        assert path.exists(), f"{page.name}: {target} is not there"
        if anchor and path.suffix == ".md":
            assert anchor in anchors(path), f"{page.name}: no heading for {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_and_pictures_are_there(page):
    assert_links_lead_somewhere(page, page.read_text())


# That these tests would notice


MISUNDERSTOOD = {
    "```\npip install lmdb\n```\n": "an unknown kind of command",
    "```sh\nmake demo\ngit pull\n```\n": "an unknown kind of command",
    "```\npython -c 1\n```\n": "an unknown kind of command",
    "```\nmake demo && make toy\n```\n": "an unknown kind of command",
    "```\npython run_energy.py | head\n```\n": "an unknown kind of command",
    "```\nhf download a/b\n```\n": "an unknown kind of command",
    "```\nhalf of them are memorized\n```\n": "an unknown kind of command",
    "```\n     K   N\n     2   5\nmake demo\n```\n": "in an output",
    "```perl\nmake demo\n```\n": "a block of the unknown kind",
    "```\nmake demo\n": "a block that does not end",
}


@pytest.mark.parametrize("text", MISUNDERSTOOD)
def test_nothing_is_passed_over(text):
    with pytest.raises(AssertionError, match=MISUNDERSTOOD[text]):
        steps_of(text)


def test_commands_are_found_in_every_form():
    text = """Run `make lint`, or `python a.py
--x 1`; not `python ...`, nor `a.py`.

```
make demo  # a comment
torchrun --nproc_per_node 2 b.py \\
    --k 5
```

```console
$ python -m utils.report r
r/report.html: 0.2 MB
```

```text
pip says
```

```
   K
a table
```
"""
    found = [" ".join(step.words) for step in steps_of(text)]
    assert found[:3] == ["make lint", "python a.py --x 1", "make demo"]
    assert found[3:] == ["torchrun --nproc_per_node 2 b.py --k 5", "python -m utils.report r"]


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("python toy_example.py exact --betta 20", "--betta"),
        ("python toy_example.py train --n_iter many", "--n-iter: found invalid int value"),
        ("python run_enrgy.py --t 1", "no run_enrgy.py"),
        ("python -m utils.reprt r", "no module utils.reprt"),
        ("python -m utils.describe none.npz", "none.npz"),
        ("torchrun --nproc_per_node 2 run_distances.py --k x", "k: found invalid int value"),
        ("torchrun --ranks 4 run_distances.py", "unrecognized arguments: --ranks"),
        ("sbatch --array=0-7 configs/slurm/over.sbatch a.py", "no batch file"),
        ("sbatch configs/slurm/over_k.sbatch run_energy.py", "no --array"),
        ("sbatch --array=2-3 configs/slurm/over_k.sbatch run_energy.py", "--array: found 2 ids"),
        ("make coffee", "no such target"),
        ("hf download lemoncmd/dm-am-mnist-unet12 --local-dir models", "in 0 files of configs/"),
    ],
)
def test_a_broken_command_fails(checkout, command, message):
    with pytest.raises(AssertionError, match=message):
        checkout.run(Step(1, tuple(command.split())))


def test_a_file_that_is_not_written_fails():
    text = (
        "| stage | reads | writes |\n| --- | --- | --- |\n| `a.py` | b | `dists/K.npz`, `logs/` |\n"
    )
    wrote = {Path("r/dists/8.npz"), Path("r/logs/stats.jsonl")}
    assert_kept(promises(text), {"a.py": wrote})
    for there in ({}, {"b.py": wrote}, *({"a.py": wrote - {path}} for path in wrote)):
        with pytest.raises(AssertionError, match="a.py"):
            assert_kept(promises(text), there)


@pytest.mark.parametrize(
    "link", ["[a](none.md)", "![a](none.png)", "[a](speed.md#none)", "[a](#none)"]
)
def test_a_link_to_nowhere_fails(link):
    page = ROOT / "docs" / "formats.md"
    there = "[b](../README.md) [c](#file-formats) [d](https://none) `[e](none)`"
    assert_links_lead_somewhere(page, there)
    with pytest.raises(AssertionError, match="none"):
        assert_links_lead_somewhere(page, f"{there} {link}")
