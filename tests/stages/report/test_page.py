"""The report: every part from whatever is there, commands that are true, text that stays text."""

import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.helpers.judged import row_of, shares_at
from tests.helpers.runs import ROOT, assert_one_line, run_script
from utils.cli.errors import UserError
from utils.cli.options.choices import CLASSES
from utils.cli.options.sections import SECTIONS, ReportOptions, ReportStage
from utils.evidence.findings import TESTS
from utils.files.arrays import read_npz, save_npz
from utils.files.atomic import write_json
from utils.files.provenance import to_plain
from utils.files.training_log import TrainingLog
from utils.inputs.samples import load_synthetics, save_synthetics
from utils.stages.classify.files import (
    Identified,
    Judged,
    JudgedDistances,
    read_summary,
    save_identified,
    save_judged,
)
from utils.stages.classify.held_out import HeldOut
from utils.stages.critical_times.files import Times, save_times
from utils.stages.distances.files import Distances, load_dists, save_dists
from utils.stages.energy.files import Energies, save_energies
from utils.stages.machines.files import load_result
from utils.stages.machines.overview import in_words, machine_rows
from utils.stages.report import images as parts
from utils.stages.report import page as report
from utils.stages.report.commands import Commands


class Page(HTMLParser):
    """What of a page the tests ask for: text, images, scripts, links, and tags that stay open."""

    VOID = frozenset({"meta", "link", "img", "input", "br"})

    def __init__(self, text):
        super().__init__()
        self.images, self.scripts, self.links, self.open, self.words = [], [], [], [], []
        self.feed(text)
        assert not self.open, f"left open: {self.open}"

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "img":
            self.images.append(attrs)
        if tag == "script":
            self.scripts.append(attrs)
        self.links += [attrs[name] for name in ("href", "src") if name in attrs]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


def made(root, **options):
    path = report.run(ReportStage(ReportOptions(root, **options)))
    return path.read_text()


@pytest.fixture(scope="module")
def page(sweep):
    return Page((sweep[0] / "report.html").read_text())


def test_the_pipeline_ends_with_a_page_that_needs_nothing_else(sweep, page):
    root, _, told = sweep
    assert f"{root / 'report.html'}: " in told
    assert page.images and all(a["src"].startswith("data:image/") for a in page.images)
    outside = [link for link in page.links if not link.startswith(("data:", "#"))]
    assert not outside
    assert "url(" not in (root / "report.html").read_text()


def test_every_image_has_words_in_its_place(page):
    assert all(len(a["alt"]) > 10 for a in page.images)
    (figure,) = [a["alt"] for a in page.images if a["alt"].startswith("Shares of the three")]
    assert "K = 2: " in figure and "K = 8: " in figure and " memorized (" in figure


def test_the_page_has_the_numbers_of_the_summary(sweep, page):
    for path in (sweep[0] / "identified" / "summary").glob("*.json"):
        row = read_summary(path)["row"]
        for name in CLASSES:
            assert (
                f"{100 * row[f'{name}_share']:.1f} % ({100 * row[f'{name}_low']:.1f}" in page.text
            )
    assert "half the samples are generalized from " in page.text
    assert "bfloat16" in page.text or "float32" in page.text  # what the model was trained in


def test_tiles_show_the_stored_samples_with_their_distances(sweep):
    root = sweep[0]
    content = report.contents(root)
    dists = load_dists(root / "dists" / "8.npz").arrays
    (panel,) = [panel for panel in content["panels"] if panel.k == 8]
    assert panel.classes
    for shown in panel.classes.values():
        for one in shown:
            index = int(re.search(r"sample (\d+) of K = 8", one.sample.alt)[1])
            for tile, near in zip(one.training, dists["data-dists"][index]):
                assert float(tile.distance) == pytest.approx(near, rel=5e-3)
            for tile, near in zip(one.synthetic, dists["synth-dists"][index]):
                assert float(tile.distance) == pytest.approx(near, rel=5e-3)


def test_the_sliders_start_with_the_counts_of_the_run(sweep):
    content = report.contents(sweep[0])["what_if"]
    assert json.loads(json.dumps(content)) == content
    for k, flat in zip(content["sizes"], content["cells"]):
        row = read_summary(sweep[0] / "identified" / "summary" / f"{k}.json")["row"]
        at = [axis["at"] for axis in content["axes"]]
        assert shares_at(flat, *at) == tuple(row[name] for name in CLASSES)


def test_every_command_of_the_page_finds_its_work_done(sweep):
    """In a shell, on the files themselves: other options would be refused."""
    root = sweep[0]
    commands = report.contents(root)["commands"]
    assert list(commands) == [
        *("train", "generate", "distances", "classify", "critical_times", "energy", "curvature"),
        *("second train", "second generate", "generalization", "machines"),
    ]
    before = {p: p.stat().st_mtime_ns for p in root.rglob("*.npz")}
    script = "set -e\n" + "\n".join(commands.values())
    script = script.replace("python ", f"{sys.executable} ")
    done = subprocess.run(["bash", "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert {p: p.stat().st_mtime_ns for p in root.rglob("*.npz")} == before
    finished = len(list((root / "dists").glob("*.npz")))
    for folder in ("identified", "times", "energies", "curvature"):
        finished += len(list((root / folder).glob("*/*.npz"))) if folder != "identified" else 2
    assert done.stdout.count("is finished") >= finished
    for k in (2, 8):
        assert f"{root / 'machines' / str(k)}.json is finished" in done.stdout


def test_sliders_show_what_was_judged_by_the_same_thresholds(sweep, tmp_path):
    root = copied(sweep, tmp_path, "identified", "dists")
    path = root / "identified" / "summary" / "8.json"
    found = read_summary(path)

    def sizes_with(**changed):
        write_json(path, {**found, "row": {**found["row"], **changed}})
        content = report.contents(root)["what_if"]
        return content and content["sizes"]

    assert sizes_with() == sizes_with(delta_m=9.0) == [2, 8]  # each K has its own
    assert sizes_with(metric="alex") == sizes_with(criterion="ratio") == [2]
    pair = {"criterion": "pooled", "delta_m": 1.0}
    assert sizes_with(**pair) == [2]
    (root / "identified" / "summary" / "2.json").unlink()
    assert sizes_with(**pair) == [8]


def copied(sweep, tmp_path, *folders):
    for name in folders:
        shutil.copytree(sweep[0] / name, tmp_path / name)
    return tmp_path


@pytest.mark.parametrize(
    ("folders", "there", "absent"),
    [
        (["synthetics"], ["Samples by K", "not judged yet", "run_generate.py"], ["Basins"]),
        (["training"], ["Training", "Nothing has been judged yet"], ["Samples by K"]),
        (["times"], ["Basins", "run_critical_times.py"], ["run_classify.py --dist"]),
        (["energies"], ["Energies"], ["Other thresholds"]),
        (["curvature"], ["Curvature", "FLIPD", "run_curvature.py"], ["Basins", "Other tests"]),
        (["generalization"], ["When it misleads", "run_generalization.py"], ["Basins"]),
        (["machines"], ["Denoisers in closed form", "run_machines.py"], ["Basins", "Other tests"]),
        (["identified"], ["The transition", "Other thresholds"], ["Basins", "Training"]),
        (["identified", "dists"], ["Other thresholds", "run_distances.py"], ["Training"]),
    ],
)
def test_whatever_stages_are_there(sweep, tmp_path, folders, there, absent):
    page = Page(made(copied(sweep, tmp_path, *folders)))
    for words in there:
        assert words in page.text, words
    nav = page.text.split("Skip to the results")[1].split("How it was made")[0]
    for words in absent:
        assert words not in nav + " ".join(w for w in page.words if w.startswith("python "))


def test_states_are_shown_of_the_k_with_the_most_spurious_samples(tmp_path):
    figures = tmp_path / "identified" / "figures"
    figures.mkdir(parents=True)

    def row(k, share, repeated):
        counts = {"states": 3, "largest_state": 17}
        return {"K": k, "spurious_share": share, "repeated": repeated, **counts}

    rows = [row(2, 0.1, 0.1), row(8, 0.3, 0.2), row(16, 0.5, 0.4), row(32, 0.9, 0.0)]
    assert parts.states_picture(tmp_path, rows) is None
    for k in (2, 8, 32):  # of 16 there is none, and that of 32 is left over
        Image.new("RGB", (40, 20), "white").save(figures / f"states-{k}.png")
    picture = parts.states_picture(tmp_path, rows)
    assert picture.title.startswith("Spurious states of K = 8,")
    assert picture.alt.endswith("3 states; the largest has 17 samples.")
    assert picture.uri.startswith("data:image/webp;base64,")


def test_the_same_folder_gives_the_same_bytes(sweep, tmp_path):
    first = made(sweep[0], result_path=tmp_path / "a.html")
    assert made(sweep[0], result_path=tmp_path / "b.html") == first


def test_what_cannot_be_shown_is_refused_in_one_line(sweep, tmp_path):
    done = run_script(
        "-c", "from utils.stages.report.page import main; import sys; main(sys.argv[1:])", tmp_path
    )
    assert_one_line(done, f"--root {tmp_path}", "no results", "run_pipeline.py")
    assert not list(tmp_path.iterdir())
    root = copied(sweep, tmp_path, "synthetics", "dists")
    (root / "dists" / "8.npz").write_bytes((root / "dists" / "8.npz").read_bytes()[:300])
    (root / "report.html").write_text("of yesterday")
    with pytest.raises(UserError, match=r"dists/8\.npz"):
        made(root)
    assert (root / "report.html").read_text() == "of yesterday"


def test_distances_of_another_set_are_not_shown(sweep, tmp_path):
    """Measured again on other samples since: the classes' own are of the earlier ones."""
    root = copied(sweep, tmp_path, "identified", "dists")
    path = root / "dists" / "8.npz"
    arrays = read_npz(path)
    args = json.loads(str(arrays["args"]))
    args["distances"]["samples"] = "0" * 16
    save_npz(path, **{**arrays, "args": json.dumps(args)})
    panels = {panel.k: panel for panel in report.contents(root)["panels"]}
    tiles = {
        k: [t for shown in panel.classes.values() for one in shown for t in one.training]
        for k, panel in panels.items()
    }
    assert tiles[8] and not any(tile.distance for tile in tiles[8])
    assert tiles[2] and all(tile.distance for tile in tiles[2])


def test_each_test_of_generalization_is_shown_with_its_source_and_warning(page):
    for test in TESTS.values():
        for words in (test.title, test.definition, test.source, test.misleads):
            assert words in page.text
    assert page.text.count("When it misleads:") == len(TESTS)


HOSTILE = "<script>alert(1)</script>\"'&"


def test_the_denoisers_in_closed_form_are_shown(sweep, page):
    """The table of the stage, which is best in words, and figures with words in their place."""
    section = report.contents(sweep[0])["machines"]
    stored = {k: load_result(sweep[0] / "machines" / f"{k}.json") for k in (2, 8)}
    assert section.table.rows == list(machine_rows(stored)) and len(section.table.rows) == 4
    assert "Best on held-out images at t = 20: " in page.text
    for row in section.table.rows:
        assert row[2] in page.text and row[5] in page.text
    shown = [a["alt"] for a in page.images if a["alt"].startswith(("The best denoiser", "Each "))]
    assert len(shown) == 2 and all(in_words(stored) in alt for alt in shown)
    assert any("from the same seeds, K = 8" in a["alt"] for a in page.images)


def test_text_of_files_and_options_stays_text(sweep, tmp_path):
    """A folder and options that are named as a script."""
    root = tmp_path / HOSTILE.replace("/", "∕")
    shutil.copytree(sweep[0], root)
    for path in [*root.glob("synthetics/*.npz"), *root.glob("dists/*.npz")]:
        arrays = read_npz(path)
        args = json.loads(str(arrays["args"]))
        args["data"]["data_path"] = HOSTILE
        args["generate"]["sampler"] = HOSTILE
        args["generate"][HOSTILE] = HOSTILE
        if "network" in arrays:
            arrays |= {"metric": np.array("lpips"), "network": np.array(HOSTILE)}
        save_npz(path, **{**arrays, "args": json.dumps(args)})
    for path in root.glob("identified/summary/*.json"):
        found = read_summary(path)
        found["row"]["metric"] = found["row"]["criterion"] = HOSTILE
        found["args"][HOSTILE] = {HOSTILE: HOSTILE}
        write_json(path, found)
    text = made(root)
    page = Page(text)
    assert len(page.scripts) == 2  # the data and our own
    assert "alert(1)" in page.text and "<script>alert" not in text
    data = text.split('id="data">')[1].split("</script>")[0]
    assert HOSTILE in json.loads(data)["what_if"]["axes"][0]["label"]


def test_commands_say_that_a_file_lacks_its_options(sweep, tmp_path):
    root = copied(sweep, tmp_path, "dists", "identified", "synthetics")
    for path in root.glob("dists/*.npz"):
        arrays = read_npz(path)
        args = json.loads(str(arrays["args"]))
        del args["distances"]
        save_npz(path, **{**arrays, "args": json.dumps(args)})
    commands = report.contents(root)["commands"]
    assert commands["distances"] == report.UNKNOWN and commands["classify"].startswith("python ")


def test_commands_name_what_differs_and_nothing_else(sweep):
    args = load_synthetics(sweep[0] / "synthetics" / "8.npz").args
    told = Commands(Path("a sweep")).training({2: args, 8: args})
    assert told.startswith("for K in 2 8; do\n  python train_unet.py --data-name digits ")
    assert told.endswith(
        "--train-size $K --results-path 'a sweep/training'/$K --model-path 'a sweep/models'\ndone"
    )
    assert "--timesteps 30" in told and "--ema-decay 0.999" in told and "--ema-warmup --" in told
    assert "--dropout" not in told and "--device" not in told
    other = {**args, "train": {**args["train"], "iterations": 5}}
    one, two = Commands(Path("r")).training({2: args, 8: other}).splitlines()
    assert "--train-size 2 " in one and "--iterations 5 " in two


CLOSED_FORMS = {
    "--exact": {"exact": True},
    "--machine wiener": {"machine": "wiener"},
    "--machine equivariant --patch-sides 2:3,20:5 --most-patches 40": {
        **{"machine": "equivariant", "patch_sides": "2:3,20:5", "most_patches": 40}
    },
}


@pytest.mark.parametrize("flags", CLOSED_FORMS)
def test_commands_of_a_closed_form_carry_its_data_set(tmp_path, flags):
    """What has no flag goes in as a file on the command line, and resolves to the same options."""
    from utils.cli.options.sections import GenerateStage
    from utils.cli.parse import parse

    args = {name: to_plain(SECTIONS[name]()) for name in ("data", "train", "model", "generate")}
    args["data"]["data_name"] = "digits"
    args["model"] |= {"image_size": 8, "in_channels": 1}
    chosen = CLOSED_FORMS[flags]
    args["generate"] |= {**chosen, "sampler": "ddim", "steps": 5, "num_samples": 4}
    told = Commands(Path("r")).sampling({3: args})
    # a `python` that keeps the file, which bash holds no longer than the command
    script = f"python() {{ cp $3 {tmp_path}/c.yaml; printf '%s\\n' \"$@\"; }}; {told}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True)
    words = done.stdout.splitlines()
    words[2] = str(tmp_path / "c.yaml")
    options = parse(GenerateStage, words[1:])
    assert {name: getattr(options.generate, name) for name in chosen} == chosen
    assert told.count("--machine") + told.count("--exact") == 1 and options.generate.train_size == 3
    assert options.data.data_name == "digits" and options.model.image_size == 8
    assert options.generate.num_samples == 4
    trained = {3: {"generate": {"exact": False}}}
    assert report.any_closed_form({3: args}) and not report.any_closed_form(trained)


@pytest.mark.parametrize("flags", CLOSED_FORMS)
def test_commands_of_stages_that_measure_a_closed_form(flags):
    names = ("data", "train", "model", "energy", "generalization")
    args = {name: to_plain(SECTIONS[name]()) for name in names}
    for section in (args["energy"], args["generalization"]):
        section |= CLOSED_FORMS[flags]
    args["energy"] |= {"sample_path": "s", "ref_path": "r.npz"}
    args["generalization"]["synth_path"] = "s"
    commands = Commands(Path("r"))
    told = commands.measure("energy", {"memorized": args})
    assert told.startswith(f"python run_energy.py {flags} --sample-path s")
    told = commands.generalization(args)
    assert told.startswith(f"python run_generalization.py {flags} --synth-path s")


@pytest.mark.slow
def test_38_sizes_of_colour_photographs_stay_under_5_megabytes(tmp_path):
    """Sizes as published, 64 x 64 in colour; crops of two photographs that scikit-learn ships."""
    from sklearn.datasets import load_sample_images

    photos = [image.astype(np.float32) / 127.5 - 1 for image in load_sample_images().images]
    draw = np.random.default_rng(0)

    def crops(*shape):
        found = np.empty((*shape, 3, 64, 64), np.float32)
        for at in np.ndindex(shape):
            photo = photos[draw.integers(2)]
            y, x = draw.integers(0, photo.shape[0] - 64), draw.integers(0, photo.shape[1] - 64)
            found[at] = photo[y : y + 64, x : x + 64].transpose(2, 0, 1)
        return found

    pool = crops(40)
    sizes = np.unique(np.geomspace(2, 50_000, 40).astype(int))[:38]
    assert len(sizes) == 38
    for k in map(int, sizes):
        args = {"data": {"data_name": "celeba"}, "train": {"train_size": k}}
        args["model"] = {"image_size": 64, "in_channels": 3}
        save_synthetics(tmp_path / "synthetics" / f"{k}.npz", pool[:12], args)
        labels = np.repeat([0, 1, 2], 8)
        near = np.sort(draw.uniform(0, 0.6, (20_000, 2)).astype(np.float32), axis=1)
        row = row_of(k, np.resize(labels, len(near)), limits=(0.3, 0.3)) | {"metric": "alex"}
        real = HeldOut(near, near[:, 0].reshape(1, -1), k)
        judged = Judged(row, args, JudgedDistances(near, near[::-1, 0], real))
        save_judged(tmp_path / "identified" / "summary" / f"{k}.json", judged)
        for name in CLASSES:
            images = [pool[draw.permutation(40)[:n]] for n in (8, 16, 16)]
            nns = [i.reshape(8, 2, 3, 64, 64) for i in images[1:]]
            found = Identified(images[0], *nns, 2, (8, 0), np.arange(8), args)
            save_identified(tmp_path / "identified" / name / f"{k}.npz", found)
        arrays = {"data-dists": near[:, : min(2, k)], "synth-dists": near[::-1]}
        arrays |= {f"{side}-indices": np.zeros(near.shape, int) for side in ("data", "synth")}
        save_dists(tmp_path / "dists" / f"{k}.npz", Distances(arrays, "lpips", "alex", "0", args))
        scanned, n = np.arange(1, 1000, 25), 64
        last = draw.integers(0, 41, n)
        times = Times(
            time=np.repeat(np.append(0, scanned)[last][:, None], 10, axis=1),
            critical_time=np.append(0, scanned)[last],
            censored=last == 40,
            radius=draw.uniform(0, 9, (n, 10)).astype(np.float32),
            trial_radius=draw.uniform(0, 9, (n, 10)).astype(np.float32),
            recovery=draw.uniform(0, 1, (n, 40)).astype(np.float32),
            non_monotone=np.zeros(n, bool),
            scanned=scanned,
            delta=0.3,
            args=args,
        )
        own = {"t": 0, "references": "", "as_published": False}
        potential = draw.normal(size=(4, 32)).astype(np.float32)
        energies = Energies(potential, potential * 1e-3, {**args, "energy": own})
        for name in CLASSES:
            save_times(tmp_path / "times" / name / f"{k}.npz", times)
            save_energies(tmp_path / "energies" / name / f"{k}.npz", energies)
        log = TrainingLog(tmp_path / "training" / str(k), 0)
        for step in range(1, 100):
            log.write(step=step * 500, loss=float(draw.uniform()), valid_loss=1 / step)
    text = made(tmp_path)
    assert len(text.encode()) < 5_000_000
    for k in sizes:
        for name in CLASSES:  # itself and a neighbour of either kind at least
            assert len(re.findall(f"{name} sample 0 of K = {k}\\b", text)) >= 3
