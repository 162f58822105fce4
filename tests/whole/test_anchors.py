"""`python -m utils.anchors`: a sweep beside published values.

Sweeps are made by the functions that write real ones, with shares that are chosen; no training."""

import json
import math

import numpy as np
import pytest
import torch
import yaml

from models.schedule import Schedule
from tests.helpers.runs import assert_one_line, complaint, run_here, run_script
from utils.cli.options.metric import MetricOptions
from utils.evidence.findings import ratio
from utils.inputs.training_args import schedule_of
from utils.stages.anchors.compare import compare
from utils.stages.anchors.measured import maximum, ours_of, read_sweep
from utils.stages.anchors.published import FILE, SHARE, Anchor, read_anchors
from utils.stages.classify.files import Judged, JudgedDistances, save_judged
from utils.stages.classify.held_out import HeldOut
from utils.stages.classify.summary import Judgement, judge_row, write_summary
from utils.stages.classify.transition import transition
from utils.stages.classify.verdicts import States, classify_by_ratio
from utils.stages.generalization.files import save_measured
from utils.stages.generalization.measures import Measured
from utils.stages.generalization.memorizer import largest_variance, speciation_time

GU = {500: 0.99, 1000: 0.92, 2000: 0.61, 3000: 0.35, 4000: 0.17, 5000: 0.09}
GU_LABELS = {1000: 0.965, 2000: 0.795, 3000: 0.56, 4000: 0.38, 5000: 0.23}
N = 2000  # samples at each step


def args_of(k, metric="l2", **changes):
    """Args of a training on K images of CIFAR-10 by the U-Net of width 128, as Gu et al. have it;
    changes: of any option, by its name."""
    sections = {
        "data": {"data_name": "cifar10", "data_path": "data"},
        "train": {"train_size": k, "random_flip": False, "duplicates": 1, "iterations": 500_000},
        "model": {"dim": 128, "image_size": 32, "in_channels": 3, "num_classes": 0},
        "generalization": {
            **MetricOptions(metric=metric).stored_metric(),
            **{"exact": False, "machine": None},
        },
    }
    for name, value in changes.items():
        next(section for section in sections.values() if name in section)[name] = value
    return sections


def near(share, n=N):
    """Distances [n, 2] to the two nearest training images: of so many a third is undercut."""
    d_1 = np.where(np.arange(n) < round(share * n), 0.2, 0.8)
    return np.stack([d_1, np.ones(n)], axis=1).astype(np.float32)


def add_course(root, k, shares, n=N, **changes):
    """generalization/K/STEP.json with this memorized share at each step."""
    times = {"collapse": (300.0, 290.0, 310.0), "speciation": (700.0, 690.0, 710.0)}
    for step, share in shares.items():
        measured = Measured([ratio(near(share, n), near(0, 500))], {}, times)
        path = root / "generalization" / str(k) / f"{step}.json"
        save_measured(path, measured, args_of(k, **changes), step)


def add_summary(root, k, share, n=N, metric="l2", **changes):
    """identified/summary/K.json and K.npz of a final model, judged by the ratio rule."""
    d, s_1 = near(share, n), np.ones(n, np.float32)
    labels = classify_by_ratio(d[:, 0], d[:, 1], s_1)
    judgements, no_states = {"ratio": Judgement(labels, None)}, States(0, 0, 0.0)
    row = judge_row(k, "ratio", metric, judgements, (None, None), no_states, None)
    args = {**args_of(k, **changes), "classify": {"criterion": "ratio"}}
    real = HeldOut(d[:0], np.empty((0, n), np.float32), 0)
    judged = Judged(row, args, JudgedDistances(d, s_1, real))
    save_judged(root / "identified" / "summary" / f"{k}.json", judged)
    return judged


def add_tests(root, k, step, **changes):
    """generalization/K.json of a final model, with a speciation time."""
    times = {"collapse": (300.0, 290.0, 310.0), "speciation": (step, step - 10, step + 10)}
    path = root / "generalization" / f"{k}.json"
    save_measured(path, Measured([ratio(near(0.5), near(0))], {}, times), args_of(k, **changes))


def compared(root, name=None, path=FILE):
    """What the command says of each published value of this name, by K."""
    found = compare(read_anchors(path), read_sweep(root))
    return {one.anchor.k: one for one in found if name in (None, one.anchor.name)}


def only(root, path, name="x"):
    """What it says of the single value of this name."""
    (one,) = compared(root, name, path).values()
    return one


def values_file(tmp_path, **entry):
    """A file with one published value."""
    needed = {"source": "us", "obtained": "made up", "criterion": "c", "data": "cifar10"}
    path = tmp_path / "values.yaml"
    path.write_text(yaml.safe_dump({"x": {**needed, **entry}}))
    return path


def command(*flags):
    return run_here("utils/anchors.py", *flags)


def test_the_file_holds_what_was_published():
    by_name = {}
    for anchor in read_anchors(FILE):
        by_name.setdefault(anchor.name, {})[anchor.k] = anchor
    shares = {name: {k: a.value for k, a in by_name[name].items()} for name in by_name}
    assert shares.pop("gu-2023") == GU and shares.pop("gu-2023-labels") == GU_LABELS
    pham = {("cifar10", w): ends for w, ends in ((64, (500, 8000)), (96, (2000, 16000)))}
    pham |= {("cifar10", 128): (2000, 16000)}
    pham |= {("lsun-church", 64): (1000, 8000), ("lsun-church", 128): (4000, 16000)}
    for (data, width), (ends, begins) in pham.items():
        name = f"pham-2025-{data.removeprefix('lsun-')}-{width}"
        for end, value in (("ends", ends), ("begins", begins)):
            anchor = by_name[f"{name}-{end}"][None]
            assert shares.pop(anchor.name) == {None: value}
            assert (anchor["data"], anchor["width"]) == (data, width)
            assert anchor["quantity"].endswith(end) and anchor["obtained"] == "a secondary source"
    rest = {"biroli-2024-lambda": 7.66, "biroli-2024-speciation": 1.018}
    rest |= {"bonnaire-2025-steps": 300, "bonnaire-2025-exponent": 1}
    assert shares == {name: {None: value} for name, value in rest.items()}


def test_equal_numbers_are_reproduced(tmp_path):
    for k, share in GU.items():
        add_course(tmp_path, k, {1000: share / 2, 2000: share, 3000: share - 0.05})
    for k, one in compared(tmp_path, "gu-2023").items():
        assert one.verdict == "reproduced" and one.reasons == (), k
        assert one.ours.value == pytest.approx(GU[k]) and one.ours.low < GU[k] < one.ours.high
    for one in compared(tmp_path, "gu-2023-labels").values():
        assert one.verdict == "not comparable"
        assert one.reasons == ("no class labels, theirs 10 class labels",)


@pytest.mark.parametrize("change", [-0.08, 0.08])
def test_altered_numbers_are_not(tmp_path, change):
    add_course(tmp_path, 2000, {1000: 0.1, 2000: 0.61 + change, 3000: 0.5})
    one = compared(tmp_path, "gu-2023")[2000]
    assert one.verdict == "not reproduced" and one.reasons == ()


@pytest.mark.parametrize("side", [-1, 1])
def test_the_published_value_may_miss_our_interval_by_its_tolerance(tmp_path, side):
    add_course(tmp_path, 2000, {1000: 0.5, 2000: 0.6, 3000: 0.5})
    sweep = read_sweep(tmp_path)
    ours = ours_of(Anchor("x", 2000, 0, 0, {"quantity": SHARE}), sweep)
    end = ours.high if side > 0 else ours.low
    for beyond, verdict in ((0.019, "reproduced"), (0.021, "not reproduced")):
        entry = {"quantity": SHARE, "values": {2000: end + side * beyond}, "tolerance": 0.02}
        path = values_file(tmp_path, criterion="d_1 / d_2 < 1/3", **entry)
        assert compared(tmp_path, path=path)[2000].verdict == verdict


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"data_name": "fashionmnist"}, "data set fashionmnist, theirs cifar10"),
        ({"dim": 64}, "width 64, theirs 128"),
        ({"image_size": 64}, "images 3 x 64 x 64, theirs 3 x 32 x 32"),
        ({"num_classes": 10}, "10 class labels, theirs no class labels"),
        ({"metric": "vgg"}, "metric vgg, theirs l2"),
        ({"random_flip": True}, "mirrored training images"),
        ({"duplicates": 2}, "repeated training images"),
        ({"exact": True}, "the exact model, no trained network"),
        ({"machine": "wiener"}, "the machine wiener, no trained network"),
        ({"n": 100}, "our interval is 23 points wide, more than 10"),
    ],
)
def test_other_conditions_are_not_comparable(tmp_path, changes, reason):
    add_course(tmp_path, 2000, {1000: 0.1, 2000: 0.61, 3000: 0.55}, **changes)
    one = compared(tmp_path, "gu-2023")[2000]
    assert one.verdict == "not comparable" and one.reasons == (reason,)
    assert one.ours.value == pytest.approx(0.61)  # shown all the same


def test_every_difference_is_named(tmp_path):
    add_course(tmp_path, 2000, {1000: 0.1, 2000: 0.61, 3000: 0.55}, dim=64, metric="vgg")
    reasons = compared(tmp_path, "gu-2023")[2000].reasons
    assert reasons == ("width 64, theirs 128", "metric vgg, theirs l2")


def test_a_final_model_is_no_maximum_over_training(tmp_path):
    add_summary(tmp_path, 2000, 0.61)
    write_summary(tmp_path / "identified")
    found = compared(tmp_path, "gu-2023")
    assert found[2000].verdict == "not comparable"
    assert found[2000].reasons == ("the final model, not the maximum over training",)
    assert found[2000].ours.value == pytest.approx(0.61)
    assert found[500].reasons == ("no such K: found 2000",) and found[500].ours is None
    # nor is a training of which one checkpoint was measured
    add_course(tmp_path, 3000, {2000: 0.35})
    assert found[2000].reasons == compared(tmp_path, "gu-2023")[3000].reasons
    # a training that is followed replaces the final model
    add_course(tmp_path, 2000, {1000: 0.1, 2000: 0.61, 3000: 0.55})
    assert compared(tmp_path, "gu-2023")[2000].verdict == "reproduced"


def test_lpips_is_another_metric(tmp_path):
    add_summary(tmp_path, 2000, 0.61, metric="vgg")
    write_summary(tmp_path / "identified")
    assert "metric vgg, theirs l2" in compared(tmp_path, "gu-2023")[2000].reasons


def test_a_share_that_still_rises_is_undecided(tmp_path):
    add_course(tmp_path, 2000, {1000: 0.1, 2000: 0.3, 3000: 0.4})
    one = compared(tmp_path, "gu-2023")[2000]
    assert one.reasons == ("our share is largest at the last step and may still rise",)
    add_course(tmp_path, 3000, {1000: 0.1, 2000: 0.5, 3000: 0.6})  # above theirs already
    assert compared(tmp_path, "gu-2023")[3000].verdict == "not reproduced"


def test_the_interval_of_a_maximum_covers_it():
    """The largest of six equal shares is biased upward; the interval allows for it."""
    rng, p, n, steps, repeats = np.random.default_rng(0), 0.3, 200, 6, 200
    covered = naive = 0
    for shares in rng.binomial(n, p, (repeats, steps)) / n:
        found = {s: ratio(near(share, n), near(0, 10)) for s, share in enumerate(shares, 1)}
        ours = maximum(found, args_of(8))
        covered += ours.low <= p <= ours.high
        one = maximum({1: found[1 + int(shares.argmax())]}, args_of(8))
        naive += one.low <= p <= one.high
    assert covered / repeats >= 0.95 > naive / repeats


def sweep_of_two(root, **changes):
    """Final models of K = 500 and 4000 with 80 and 20 % memorized samples."""
    judged = [add_summary(root, 500, 0.8, 400, **changes)]
    judged.append(add_summary(root, 4000, 0.2, 400, **changes))
    write_summary(root / "identified")
    return transition(judged).crossings["memorized_half"]


def test_half_points_are_compared_with_their_interval(tmp_path):
    half = sweep_of_two(tmp_path)
    rule = {"criterion": "half of the samples memorized by ratio", "selection": "final model"}
    for value, verdict in (
        (half.low, "reproduced"),
        (half.high, "reproduced"),
        (half.low * 0.99, "not reproduced"),
        (half.high * 1.01, "not reproduced"),
    ):
        path = values_file(tmp_path, quantity="memorization ends", value=value, **rule)
        one = only(tmp_path, path)
        assert one.verdict == verdict
        found = one.ours.value, one.ours.low, one.ours.high
        assert found == pytest.approx((half.value, half.low, half.high))
    path = values_file(tmp_path, quantity="memorization ends", value=half.value, steps=7, **rule)
    assert only(tmp_path, path).reasons == ("500,000 steps, theirs 7",)


def test_half_points_of_an_unknown_rule_are_not_comparable(tmp_path):
    sweep_of_two(tmp_path, dim=64)
    one = only(tmp_path, FILE, "pham-2025-cifar10-64-ends")
    rule = "half of the samples memorized by ratio; theirs: not stated by the secondary source"
    assert one.verdict == "not comparable" and one.reasons == (f"criterion: {rule}",)
    other = only(tmp_path, FILE, "pham-2025-church-128-ends")
    assert other.reasons[0] == "data set cifar10, theirs lsun-church"
    assert "width 64, theirs 128" in other.reasons


def test_a_half_point_beyond_the_sweep_has_no_value(tmp_path):
    for k in (500, 4000):
        add_summary(tmp_path, k, 0.9, 400)
    write_summary(tmp_path / "identified")
    one = only(tmp_path, FILE, "pham-2025-cifar10-128-ends")
    assert one.reasons == ("half of the samples are memorized at a K above 4000",)


def test_steps_of_memorization(tmp_path):
    """tau_mem at the second of three checkpoints, at steps that grow with K."""
    add_course(tmp_path, 100, {10_000: 0.0, 30_000: 0.5, 50_000: 0.6})
    add_course(tmp_path, 400, {40_000: 0.0, 120_000: 0.5, 200_000: 0.6})
    rule = {"criterion": "first step from which on the ratio test says memory"}
    for value, verdict in ((100, "reproduced"), (300, "reproduced"), (301, "not reproduced")):
        one = only(tmp_path, values_file(tmp_path, quantity="tau_mem / n", value=value, **rule))
        assert one.verdict == verdict
        assert (one.ours.value, one.ours.low, one.ours.high) == (300, 100, 300)
    rule["quantity"] = "exponent of tau_mem in n"
    for value, verdict in ((1, "reproduced"), (0.2, "not reproduced"), (1.8, "not reproduced")):
        one = only(tmp_path, values_file(tmp_path, value=value, **rule))
        assert one.verdict == verdict and one.ours.value == pytest.approx(1)
        assert one.ours.high == pytest.approx(math.log(120_000 / 10_000) / math.log(4))
    one = only(tmp_path, FILE, "bonnaire-2025-steps")
    assert "optimizer adam, theirs SGD with momentum" in one.reasons
    assert "data set cifar10, theirs celeba" in one.reasons


def mnist_digits(shared, *digits):
    """Images of these digits in the MNIST beside the checkout (500 each), float [n, 1, 28, 28] in
    0 to 1, as Biroli et al. take them; padding changes no variance."""
    raw = shared / "data" / "MNIST" / "raw"
    images = np.frombuffer((raw / "train-images-idx3-ubyte").read_bytes(), np.uint8, offset=16)
    labels = np.frombuffer((raw / "train-labels-idx1-ubyte").read_bytes(), np.uint8, offset=8)
    chosen = images.reshape(-1, 1, 28, 28)[np.isin(labels, digits)]
    return torch.from_numpy(chosen).float() / 255


def stored(name):
    return next(anchor for anchor in read_anchors(FILE) if anchor.name == name)


def test_lambda_of_two_classes_is_that_of_biroli_et_al(shared):
    """500 images of each digit instead of 5,000: their value is within our 95 % interval, and
    that of another pair of digits is not."""
    published = stored("biroli-2024-lambda")
    value, error = largest_variance(mnist_digits(shared, *published["digits"]))
    assert value == pytest.approx(7.554, abs=0.001) and error < 0.25
    assert abs(value - published.value) < 1.96 * error + published.tolerance
    value, error = largest_variance(mnist_digits(shared, 1, 7))
    assert abs(value - published.value) > 1.96 * error + published.tolerance


def test_the_speciation_time_follows_from_lambda():
    published, largest = stored("biroli-2024-speciation"), stored("biroli-2024-lambda").value
    assert abs(math.log(largest) / 2 - published.value) < published.tolerance
    # by our schedule, to a step: exp(-2 t) stands for alpha_bar
    schedule = Schedule(1000)
    step = speciation_time(largest, schedule)
    before, after = (-math.log(schedule.alpha_bar[i]) / 2 for i in (step, step + 1))
    assert before <= published.value <= after and after - before < 0.01


def test_the_speciation_time_of_a_sweep_is_converted(tmp_path):
    """Ours is of pixels in -1 to 1, whose variances are four times those in 0 to 1."""
    schedule = schedule_of({"train": {"beta_schedule": "linear", "timesteps": 1000}})
    add_tests(tmp_path, 5000, float(speciation_time(4 * 7.66, schedule)), data_name="mnist")
    for name, value in (("biroli-2024-lambda", 7.66), ("biroli-2024-speciation", 1.018)):
        one = only(tmp_path, FILE, name)
        assert one.ours.value == pytest.approx(value, rel=0.02) and one.verdict == "not comparable"
        assert one.reasons == ("all images of the data set, theirs the digits 1 and 8",)
        assert one.ours.low < value < one.ours.high
    rule = {"criterion": "t_S = 1/2 ln Lambda", "data": "mnist", "quantity": "speciation time"}
    for value, verdict in ((1.018, "reproduced"), (1.2, "not reproduced")):
        assert only(tmp_path, values_file(tmp_path, value=value, **rule)).verdict == verdict


def test_the_table_and_the_json_say_the_same(tmp_path):
    add_course(tmp_path, 2000, {1000: 0.1, 2000: 0.61, 3000: 0.55})
    add_course(tmp_path, 3000, {1000: 0.1, 2000: 0.50, 3000: 0.45})
    done = command(tmp_path)
    assert done.returncode == 0, done.stderr
    first, _, head, *lines = done.stdout.splitlines()
    assert first == f"{tmp_path}: 1 reproduced, 1 not reproduced, 23 not comparable"
    content = json.loads(command(tmp_path, "--json").stdout)["values"]
    assert [one["verdict"] for one in content].count("reproduced") == 1
    place = head.index("verdict")
    for one, line in zip(content, lines):
        assert line[place:].startswith(one["verdict"])
        assert line[head.index("ours") :].startswith("-") == (one["ours"] is None)
        for number in line[place + 14 :].strip().split(","):
            reason = next((x for x in lines if x.lstrip().startswith(f"{number}  ")), "")
            assert not number or reason.split("  ")[-1] in one["reasons"], line
    reproduced = next(line for line in lines if "  reproduced" in line)
    assert "61.0% ± 2.0%" in reproduced and "61.0% (58." in reproduced
    assert content[0]["conditions"]["obtained"] == "read off a figure"


def test_mistakes_end_in_one_line(tmp_path):
    empty, sweep = tmp_path / "empty", tmp_path / "sweep"
    empty.mkdir()
    add_summary(sweep, 2000, 0.61)
    write_summary(sweep / "identified")
    assert_one_line(command(tmp_path / "none"), "none: found no such folder", "give the --root")
    assert_one_line(command(empty), "empty: found no results", "give the --root")
    assert_one_line(command(FILE), "found a file", "give the --root")
    assert_one_line(command("x" * 300), "File name too long", "give the --root")
    assert_one_line(command(sweep, "--values", tmp_path / "no.yaml"), "--values", "no.yaml: found")
    table = sweep / "identified" / "summary.csv"
    text = table.read_text()
    two = tmp_path / "two"
    half = sweep_of_two(two)
    both = two / "identified" / "summary.csv"
    swapped = both.read_text().replace(f"{half.low},{half.high}", f"{half.high},{half.low}")
    for path, damaged in (
        (table, "K\n2000\n"),
        (table, ""),
        (table, text.splitlines()[0] + "\n"),
        (sweep / "identified" / "summary" / "2000.json", "{"),
        (sweep / "identified" / "summary" / "2000.json", "{}"),
        (both, None),
        (both, swapped),
        (both, both.read_text().replace(str(half.value), "nan")),
        (both, both.read_text().replace(str(half.value), "many")),
    ):
        root, content = two if two in path.parents else sweep, path.read_text()
        path.write_text(damaged) if damaged is not None else path.unlink()
        assert_one_line(command(root), f"{path}: found ", "run")
        path.write_text(content)
    assert command(sweep).returncode == 0
    add_course(sweep, 2000, {1000: 0.1, 2000: 0.61})
    course = sweep / "generalization" / "2000"
    (course / "2000.json").write_text('{"findings": [{}]}')
    assert_one_line(command(sweep), "2000.json", "use a file of these stages")
    add_course(sweep, 2000, {1000: 0.1, 2000: 0.61})
    course.rename(sweep / "generalization" / "a")
    add_course(sweep, 2000, {1000: 0.1, 2000: 0.61})
    assert_one_line(command(sweep), "generalization/a: found a second course of K = 2000")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no published values"),
        ("[1]", "no published values"),
        ("x: [", "no YAML"),
        ("x: 3", "x: found 3"),
        ("x: {colour: red}", "the key 'colour'"),
        ("x: {source: 3}", "x: source: found 3"),
        ("x: {source: us}", "no quantity"),
        ("x: &x {y: *x}", "values without end"),
    ],
)
def test_a_damaged_file_of_values_ends_in_one_line(tmp_path, text, words):
    add_course(tmp_path, 2000, {1000: 0.1, 2000: 0.61})
    path = tmp_path / "values.yaml"
    path.write_text(text)
    assert_one_line(command(tmp_path, "--values", path), f"{path}", words)


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"quantity": "beauty", "value": 1}, "found beauty"),
        ({"quantity": SHARE, "value": 0.5}, "no value"),
        ({"quantity": SHARE, "values": {"a": 0.5}}, "no value"),
        ({"quantity": SHARE, "values": {}}, "give shares"),
        ({"quantity": SHARE, "values": {2: 61}}, "give shares of 0 to 1"),
        ({"quantity": "tau_mem / n", "value": -1}, "no value"),
        ({"quantity": "tau_mem / n", "value": True}, "no value"),
        ({"quantity": "tau_mem / n", "value": float("nan")}, "no value"),
        ({"quantity": "tau_mem / n", "value": 1, "tolerance": "x"}, "no value"),
        ({"quantity": "tau_mem / n", "value": 1, "width": "64"}, "width: found 64"),
    ],
)
def test_impossible_values_are_refused(tmp_path, entry, words):
    path = values_file(tmp_path, **entry)
    with complaint(str(path), words):
        read_anchors(path)


def test_help_imports_nothing_heavy():
    code = (
        "import sys, runpy; sys.argv = ['x', '--help']\n"
        "try: runpy.run_module('utils.anchors', run_name='__main__')\n"
        "except SystemExit: pass\n"
        "print('HEAVY', {'torch', 'numpy', 'scipy', 'matplotlib'} & set(sys.modules))"
    )
    done = run_script("-c", code)
    assert done.stdout.splitlines()[-1] == "HEAVY set()", done.stderr
    assert "--json" in done.stdout and "--values" in done.stdout
