"""run_generalization.py: exact models, held-out images, pairs of models, and one training."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

from models.exact import ExactDenoiser
from models.schedule import Schedule
from tests.helpers.runs import DIGITS, FAST, QUICK, assert_one_line, ok, run_here, train_options
from utils.cli.options.sections import GeneralizationOptions
from utils.data.datasets import load_image_set, to_float
from utils.data.subsets import held_out_images, permutation
from utils.inputs.denoisers import training_images
from utils.inputs.samples import load_synthetics, save_synthetics
from utils.metrics.embedders import load_metric
from utils.stages.generalization.course import relative_losses, tau_gen, tau_mem
from utils.stages.generalization.files import Stored, arrays_file, load_arrays, load_measured
from utils.stages.generalization.findings import (
    GENERALIZATION,
    MEMORY,
    TESTS,
    Finding,
    denoising_gap,
    memorizer_distance,
)
from utils.stages.generalization.measures import (
    Images,
    before_collapse,
    cosines,
    measure_model,
    measure_pairs,
    measure_samples,
    nearest_within,
    pair_distances,
    partition,
)
from utils.stages.generalization.overview import ending
from utils.stages.train import stage as train

STAGE = "run_generalization.py"
NEW = ["two-models", "memorizer", "denoising-gap", "c-t", "authenticity", "ratio"]


@pytest.fixture(scope="module")
def digits():
    """Every digit, shuffled: [1797, 1, 8, 8] in [-1, 1]."""
    images = load_image_set("digits", ".", 8, 1)
    return to_float(images.read(permutation(len(images), 0)))


@pytest.fixture(scope="module")
def l2():
    return load_metric("l2", None, "cpu")


def options(**given):
    return GeneralizationOptions(t=(20, 100, 300), noises=2, **given)


def verdicts(*measured):
    return {f.test: f.verdict for one in measured for f in one.findings}


def test_the_exact_model_is_memory_by_every_test(digits, l2):
    first, second = Images(digits[:64], digits[128:900]), digits[64:128]
    given = options()
    draws = torch.randint(64, (2, 150), generator=torch.Generator().manual_seed(0))
    sets = first.train[draws[0]], second[draws[1]]
    exact = ExactDenoiser(first.train, Schedule())
    measured = measure_model(exact, first, given)
    found = verdicts(
        measured,
        measure_samples(l2, sets[0], first, given),
        measure_pairs(l2, sets, (first.train, second))[0],
    )
    assert found == dict.fromkeys(NEW, MEMORY)
    assert (measured.arrays["held-out-memorizer"] == 0).all()
    authentic = measure_samples(l2, sets[0], first, given).findings[1]
    assert authentic.details["samples"] == 0  # at chance or below: each is a training image


def test_held_out_images_are_generalization_by_every_test(digits, l2):
    """A model that knows every digit stands for one that has learnt what digits are."""
    images, new = Images(digits[:64], digits[128:700]), digits[700:900]
    given = options()
    ideal = ExactDenoiser(digits[700:], Schedule())
    measured = measure_model(ideal, Images(digits[:64], digits[800:1300]), given)
    found = verdicts(
        measured,
        measure_samples(l2, new, images, given),
        measure_pairs(l2, (new, new), (digits[:64], digits[64:128]))[0],
    )
    assert found == dict.fromkeys(NEW, GENERALIZATION)


@pytest.mark.slow
def test_losses_of_real_images_that_are_all_new_show_no_gap_but_in_one_of_forty_cases(digits):
    """200 times: 16 images taken for training ones, 200 for held-out ones; the model knows none."""
    model, rest = ExactDenoiser(digits[:64], Schedule()), digits[64:]
    given = options(probe_size=len(rest))
    errors = measure_model(model, Images(rest, rest[:2]), given).arrays["train-loss"]
    rng, said = np.random.default_rng(0), []
    for _ in range(200):
        train, held_out, _ = np.split(rng.permutation(len(rest)), [16, 216])
        said.append(denoising_gap(errors[:, train], errors[:, held_out]).verdict)
    assert said.count(MEMORY) <= stats.binom.ppf(0.995, 200, 0.025)


@pytest.mark.slow
def test_a_model_of_every_digit_is_away_from_the_memorizer_200_times(digits):
    """It is no exact null: a model that knows the truth must never be called the memorizer."""
    ideal, said = ExactDenoiser(digits, Schedule()), []
    rng = np.random.default_rng(0)
    for k in (4, 64):
        images = Images(digits[:k], digits[k:])
        found = measure_model(ideal, images, options(probe_size=600)).arrays
        m, loss = (found[f"held-out-{name}"][:2] for name in ("memorizer", "loss"))
        for _ in range(100):
            chosen = rng.choice(m.shape[1], 40, replace=False)
            said.append(memorizer_distance(m[:, chosen].sum(0), loss[:, chosen].sum(0)).verdict)
    assert said == [GENERALIZATION] * 200


def test_a_memorizer_of_other_images_is_no_memorizer_of_these(digits):
    """Far from D* and far from the truth: undecided or better, never memory."""
    other = ExactDenoiser(digits[500:564], Schedule())
    found = measure_model(other, Images(digits[:64], digits[900:1200]), options())
    assert verdicts(found)["memorizer"] != MEMORY


def test_neighbours_are_those_of_scikit_learn(digits, l2):
    from sklearn.neighbors import NearestNeighbors

    images, samples = Images(digits[:90], digits[90:300]), digits[300:420]
    arrays = measure_samples(l2, samples, images, options()).arrays
    search = NearestNeighbors(n_neighbors=2).fit(images.train.flatten(1).numpy())
    for key, queries in (("sample", samples), ("held-out", images.held_out)):
        wanted = search.kneighbors(queries.flatten(1).numpy())[0]
        np.testing.assert_allclose(arrays[f"{key}-distances"], wanted, rtol=1e-5)


def test_a_squared_metric_as_lpips_gives_the_same_findings(digits, l2):
    """Ranks and comparisons are those of distances, and the ratio is one of distances too."""
    images, samples = Images(digits[:90], digits[90:300]), digits[[*range(20), *range(300, 400)]]
    squared = replace(l2, squared=True)
    found = [measure_samples(one, samples, images, options()).findings for one in (l2, squared)]
    assert found[0] == found[1]
    twins = (digits[400:460], digits[500:560]), (digits[:90], digits[600:690])
    pairs = [measure_pairs(one, *twins)[0] for one in (l2, squared)]
    np.testing.assert_allclose(
        pairs[0].arrays["pair-distances"] ** 2, pairs[1].arrays["pair-distances"], rtol=1e-5
    )
    assert pairs[0].findings[0].value == pairs[1].findings[0].value


def test_the_gap_of_a_training_image_is_to_another_one_even_of_a_copy(digits, l2):
    train = torch.cat([digits[:20], digits[:1]])  # the first is there twice
    gaps = nearest_within(l2, train, (np.array([0, 3, 3]), np.array([20])), None)
    assert [len(part) for part in gaps] == [3, 1]
    assert gaps[0][0] == gaps[1][0] == 0
    apart = (train[3] - train).flatten(1).norm(dim=1).sort().values[1].item()
    assert gaps[0][1] == gaps[0][2] == pytest.approx(apart, rel=1e-6)


def test_cells_are_the_same_each_time_and_no_more_than_images(digits):
    again = [partition(digits[:50], 4, 7, digits[50:99]) for _ in range(2)]
    assert (again[0][0] == again[1][0]).all() and len(np.unique(again[0][0])) == 4
    assert set(partition(digits[:2], 5, 0, digits[:9])[0]) <= {0, 1}


def test_pairs_and_cosines(digits, l2):
    a, b, mean = digits[:40], digits[40:80], digits.mean(0)
    distances = pair_distances(l2, a, b, batch=7)
    np.testing.assert_allclose(distances, (a - b).flatten(1).norm(dim=1).numpy(), rtol=1e-6)
    assert cosines(a, a, mean) == pytest.approx(1)
    assert cosines(a, 2 * mean - a, mean) == pytest.approx(-1)
    assert (cosines(mean[None], a[:1], mean) == 0).all()


def test_cosines_are_those_of_images_less_the_mean_of_all_that_is_learnt(digits, l2):
    sets, learnt = (digits[400:420], digits[500:520]), (digits[:30], digits[600:690])
    measured, images = measure_pairs(l2, sets, learnt)
    arrays = measured.arrays
    flat = [x.flatten(1).double().numpy() for x in (*sets, *learnt)]
    mean = np.concatenate(flat[2:]).mean(0)
    a, b, first, second = (x - mean for x in flat)

    def cosine(x, y):
        return (x * y).sum(1) / np.linalg.norm(x, axis=1) / np.linalg.norm(y, axis=1)

    np.testing.assert_allclose(arrays["pair-cosines"], cosine(a, b), rtol=1e-5, atol=1e-6)
    for own, x, known, shown in zip(arrays["own-cosines"], (a, b), (first, second), images):
        nearest = known[((x[:, None] - known[None]) ** 2).sum(2).argmin(1)]
        np.testing.assert_allclose(shown.reshape(len(x), -1), nearest + mean, atol=1e-6)
        np.testing.assert_allclose(own, cosine(x, nearest), rtol=1e-5, atol=1e-6)


def test_one_training_image_leaves_out_what_is_not_defined(digits, l2):
    images = Images(digits[:1], digits[1:200])
    found = measure_samples(l2, digits[:1].expand(30, -1, -1, -1), images, options())
    assert [f.test for f in found.findings] == ["c-t"]
    assert measure_model(ExactDenoiser(digits[:1], Schedule()), images, options()).times[
        "collapse"
    ] == (999, 999, 999)


def test_only_times_before_the_collapse_count():
    assert before_collapse([400, 20, 100], 150) == [1, 2]
    assert before_collapse([400, 200], 30) == [1]


def test_the_memorizer_is_asked_before_the_data_collapse(digits):
    """Later it is near every denoiser, which would look like memory."""
    images, model = Images(digits[:64], digits[64:200]), ExactDenoiser(digits[300:], Schedule())
    given = GeneralizationOptions(t=(20, 700, 100, 950), noises=2)
    measured = measure_model(model, images, given)
    assert 100 < measured.times["collapse"][0] < 700
    m, loss = (measured.arrays[f"held-out-{name}"] for name in ("memorizer", "loss"))
    wanted = memorizer_distance(m[[0, 2]].sum(0), loss[[0, 2]].sum(0))
    assert measured.findings[0] == wanted
    assert wanted.value > memorizer_distance(m.sum(0), loss.sum(0)).value + 0.05


def test_where_memory_ends_in_words():
    new = GENERALIZATION
    assert ending({2: MEMORY, 64: MEMORY, 96: new}) == "memory up to K = 64, not from 96"
    assert ending({2: new, 64: new}) == "no memory from K = 2"
    assert ending({2: MEMORY}) == "memory up to K = 2, the largest"
    assert "(nor at 16)" in ending({2: MEMORY, 16: new, 64: MEMORY, 96: new})


# The stage


@pytest.fixture(scope="module")
def exact(tmp_path_factory):
    """Sets of the exact models of both subsets, K = 2 and 12."""
    root = tmp_path_factory.mktemp("exact")
    (root / "second.yaml").write_text("train: {subset: second}\n")
    for folder, more in (("first", []), ("second", [root / "second.yaml"])):
        for k in (2, 12):
            flags = ["--config_path", QUICK[1], QUICK[2], *more, "--exact", "--train-size", k]
            paths = [
                "--result-path",
                root / f"gen-{folder}" / str(k),
                "--synth-path",
                root / folder,
            ]
            ok("run_generate.py", *flags, *paths, "--num-samples", 40, run=run_here)
    return root


def flags_of(root, *more):
    sets = ["--synth-path", root / "first", "--second-synth-path", root / "second"]
    return [*QUICK, "--exact", *sets, *more]


def test_the_stage_on_exact_models(exact, tmp_path):
    result = tmp_path / "generalization"
    flags = flags_of(exact, "--result-path", result)
    done = ok(STAGE, *flags, run=run_here)
    for k in (2, 12):
        stored = load_measured(result / f"{k}.json")
        assert {n: f.verdict for n, f in stored.findings.items()} == dict.fromkeys(NEW, MEMORY)
        assert (load_arrays(result / f"{k}.json")["held-out-memorizer"] == 0).all()
        # held out is what neither of the two models has learnt
        known, images = training_images(stored.args), held_out_images(stored.args, 100, both=True)
        apart = torch.cdist(to_float(images).flatten(1), known.flatten(1)).sort(1).values[:, :2]
        found = load_arrays(result / f"{k}.json")["held-out-distances"]
        np.testing.assert_allclose(found, apart.numpy(), atol=1e-3)
        content = json.loads((result / f"{k}.json").read_text())["findings"]
        for one in content:  # each with its definition, source, and when it misleads
            assert all(one[key] for key in ("definition", "source", "misleads"))
            assert one["low"] <= one["value"] <= one["high"]
        assert (result / "figures" / f"pairs-{k}.png").exists()
    for name in ("evidence", "denoising", "memorizer", "collapse"):
        assert (result / "figures" / f"{name}.png").exists()
        assert (result / "figures" / f"{name}.pdf").exists()
    for name, test in TESTS.items():
        line = f"{name}: memory up to K = 12, the largest. When it misleads: {test.misleads}"
        assert line in done.stdout
    before = {path: path.read_bytes() for path in result.glob("*.*")}
    again = ok(STAGE, *flags, run=run_here)
    assert again.stdout.count("is finished") == 2
    ok(STAGE, *flags, "--overwrite", run=run_here)
    assert {path: path.read_bytes() for path in result.glob("*.*")} == before
    # another batch changes nothing but rounding, so it is no other result
    assert "is finished" in ok(STAGE, *flags, "--batch-size", 7, run=run_here).stdout
    assert_one_line(run_here(STAGE, *flags, "--noises", 3), "noises 2 (now 3)", "--overwrite")


def test_another_twin_is_another_result(exact, tmp_path):
    result = ["--result-path", tmp_path / "g", "--final-idx", 1]
    ok(STAGE, *flags_of(exact, *result), run=run_here)
    other = tmp_path / "other"
    for path in (exact / "second").glob("*.npz"):
        found = load_synthetics(path)
        save_synthetics(other / path.name, found.samples[::-1], found.args)
    flags = [*QUICK, "--exact", "--synth-path", exact / "first", *result]
    told = run_here(STAGE, *flags, "--second-synth-path", other)
    assert_one_line(told, "second ", "(now ", "--overwrite")


def test_a_dry_run_writes_nothing(exact, tmp_path):
    done = ok(STAGE, *flags_of(exact, "--result-path", tmp_path / "g", "--dry-run"), run=run_here)
    assert "K = 12: write" in done.stdout and not (tmp_path / "g").exists()


def test_what_does_not_fit_together(exact, tmp_path):
    result = ["--result-path", tmp_path / "g"]
    swapped = [*QUICK, "--exact", "--synth-path", exact / "first", *result]
    told = [*swapped, "--second-synth-path", exact / "first"]
    assert_one_line(run_here(STAGE, *told), "the same training images", "--subset second")
    assert_one_line(run_here(STAGE, *swapped, "--t", "2,30"), "--t: found 30", "choose 0 to 29")
    assert_one_line(run_here(STAGE, *swapped, "--t", "5,5"), "--t", "each once")
    assert_one_line(run_here(STAGE, *swapped, "--ckpt-path", tmp_path), "--exact")
    empty = tmp_path / "empty"
    empty.mkdir()
    for flag in ("--synth-path", "--second-synth-path"):
        flags = [*swapped, flag, empty]
        assert_one_line(run_here(STAGE, *flags), flag, "no K.npz")
    # drawn from other seeds
    other = tmp_path / "other"
    for path in (exact / "second").glob("*.npz"):
        found = load_synthetics(path)
        args = {**found.args, "generate": {**found.args["generate"], "seed": 7}}
        save_synthetics(other / path.name, found.samples, args)
    told = [*swapped, "--second-synth-path", other]
    assert_one_line(run_here(STAGE, *told), "--seed 7", "draw both sets with the same options")
    assert not (tmp_path / "g").exists()


def test_a_k_without_a_twin_or_held_out_images_is_passed_over(exact, tmp_path):
    twins = tmp_path / "twins"
    twins.mkdir()
    shutil.copy(exact / "second" / "12.npz", twins)
    flags = [*QUICK, "--exact", "--synth-path", exact / "first", "--second-synth-path", twins]
    done = ok(STAGE, *flags, "--result-path", tmp_path / "g", run=run_here)
    assert "K = 2: no 2.npz" in done.stdout
    assert "two-models" not in load_measured(tmp_path / "g" / "2.json").findings
    assert "two-models" in load_measured(tmp_path / "g" / "12.json").findings
    # all 1,797 digits are learnt: nothing is left to compare with
    everything = tmp_path / "all"
    found = load_synthetics(exact / "first" / "12.npz")
    args = {**found.args, "train": {**found.args["train"], "train_size": 1797}}
    save_synthetics(everything / "1797.npz", found.samples, args)
    flags = [*QUICK, "--exact", "--synth-path", everything, "--result-path", tmp_path / "h"]
    assert "K = 1797: passed over" in ok(STAGE, *flags, run=run_here).stdout


def test_files_that_are_not_whole_are_refused(exact, tmp_path):
    result = tmp_path / "g"
    flags = flags_of(exact, "--result-path", result, "--start-idx", 0, "--final-idx", 1)
    ok(STAGE, *flags, run=run_here)
    path, text = result / "2.json", (result / "2.json").read_text()
    content = json.loads(text)
    for change, words in (
        ({"findings": 3}, ["no findings"]),
        ({"findings": [{"test": "magic"}]}, ["an unknown test"]),
        ({"times": {}}, ["no collapse"]),
        ({"step": -1}, ["step"]),
        ({"args": 4}, ["args"]),
    ):
        path.write_text(json.dumps({**content, **change}))
        assert_one_line(run_here(STAGE, *flags), str(path), *words)
    for name, value in (("value", "NaN"), ("low", 9), ("n", 0), ("details", 4)):
        one = {**content["findings"][0], name: float(value) if value == "NaN" else value}
        path.write_text(json.dumps({**content, "findings": [one]}))
        assert_one_line(run_here(STAGE, *flags), str(path))
    path.write_text(text[:-40])
    assert_one_line(run_here(STAGE, *flags), str(path))
    path.write_text(text)
    arrays = dict(np.load(arrays_file(path)))
    for key, value in (("t", np.zeros(0, int)), ("train-loss", np.full((3, 2), np.nan))):
        np.savez(arrays_file(path), **{**arrays, key: value})
        assert_one_line(run_here(STAGE, *flags), str(arrays_file(path)), key)
    arrays_file(path).unlink()  # lost: both are made again
    ok(STAGE, *flags, run=run_here)
    assert path.read_text() == text and arrays_file(path).exists()


def test_samples_of_another_model_are_refused(sweep, tmp_path):
    root, _, _ = sweep
    shutil.copytree(root / "models", tmp_path / "models")
    content = torch.load(tmp_path / "models" / "2.pt", weights_only=True)
    next(iter(content["ema"].values())).add_(1)
    torch.save(content, tmp_path / "models" / "2.pt")
    flags = [*QUICK, "--ckpt-path", tmp_path / "models", "--synth-path", root / "synthetics"]
    done = run_here(STAGE, *flags, "--result-path", tmp_path / "g")
    assert_one_line(done, "synthetics/2.npz", "run_generate.py")


# Second models


def test_train_passes_over_a_k_above_half_of_the_data(tmp_path):
    flags = ["--train-size", 899, "--subset", "second", "--results-path", tmp_path / "r"]
    done = ok("train_unet.py", *FAST, *flags, run=run_here)
    assert "K = 899: more than half of the 1797 images" in done.stdout
    assert not (tmp_path / "r").exists()


def test_the_pipeline_trains_twins_and_tests_all(sweep):
    root, _, told = sweep
    for k in (2, 8):
        assert set(load_measured(root / "generalization" / f"{k}.json").findings) == set(NEW)
        own, twin = (load_synthetics(r / f"synthetics/{k}.npz") for r in (root, root / "second"))
        assert (own.args["train"]["subset"], twin.args["train"]["subset"]) == ("first", "second")
        assert own.args["generate"]["seed"] == twin.args["generate"]["seed"]
    assert "two-models: " in told
    classes = {p.parent.name for p in (root / "identified").glob("*/*.npz")}
    assert {p.parent.name for p in (root / "curvature").glob("*/*.npz")} == classes


# Over training


@pytest.fixture(scope="module")
def courses(tmp_path_factory):
    """Trainings on both subsets of 8 digits with a checkpoint at steps 2 and 4."""
    root = tmp_path_factory.mktemp("courses")
    for name in ("first", "second"):
        train.run(train_options(root / name, "--subset", name))
    return {name: root / name / "run" / "checkpoints" for name in ("first", "second")}


def test_one_training_over_its_checkpoints(courses, tmp_path):
    flags = ["--config_path", DIGITS, "--t", "2,10", "--probe-size", 8, "--noises", 2]
    flags += ["--samples", 12, "--steps", 3, "--result-path", tmp_path / "course"]
    flags += ["--checkpoints", courses["first"], "--second-checkpoints", courses["second"]]
    done = ok(STAGE, *flags, run=run_here)
    assert "tau_gen: step" in done.stdout and "tau_mem: " in done.stdout
    for step in (2, 4):
        stored = load_measured(tmp_path / "course" / f"{step}.json")
        assert stored.step == step and set(stored.findings) == set(NEW)
    assert (tmp_path / "course" / "figures" / "training.png").exists()
    files = {p: p.stat().st_mtime_ns for p in (tmp_path / "course").glob("*.json")}
    ok(STAGE, *flags, run=run_here)
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "course").glob("*.json")} == files
    assert_one_line(run_here(STAGE, *flags, "--samples", 13), "samples 12 (now 13)")
    assert_one_line(run_here(STAGE, *flags, "--exact"), "--checkpoints", "--exact too")
    assert_one_line(run_here(STAGE, *flags, "--ckpt-path", tmp_path), "--ckpt-path too")
    assert_one_line(run_here(STAGE, *flags, "--t", 20), "--t: found 20", "choose 0 to 19")
    for flag in ("--checkpoints", "--second-checkpoints"):
        moved = run_here(STAGE, *flags, flag, courses["first"].parent)
        assert_one_line(moved, f"{flag}: found ", "give the folder checkpoints/ of a training")
    # what another training has left there cannot be compared, and is left out
    left = tmp_path / "course" / "3.json"
    content = json.loads((tmp_path / "course" / "2.json").read_text()) | {"step": 3}
    content["args"]["generalization"]["probe_size"] = 9
    left.write_text(json.dumps(content))
    assert f"{left}: made with other options" in ok(STAGE, *flags, run=run_here).stdout
    same = [*flags, "--second-checkpoints", courses["first"]]
    assert_one_line(run_here(STAGE, *same), "--subset second")
    dry = [*flags, "--result-path", tmp_path / "dry", "--dry-run"]
    assert "step 4: write" in ok(STAGE, *dry, run=run_here).stdout
    assert not (tmp_path / "dry").exists()


def test_tau_gen_is_the_first_step_as_good_as_the_best():
    rng = np.random.default_rng(0)
    noise = rng.uniform(0.9, 1.1, (2, 50))
    losses = {10: 3 * noise, 20: noise * rng.uniform(0.98, 1.02, (2, 50)), 30: noise, 40: 2 * noise}
    assert tau_gen(relative_losses(losses)) == 20
    assert tau_gen(relative_losses({1: noise})) == 1
    # each time counts alike, whatever its unit
    scaled = {step: loss * [[1e-4], [1.0]] for step, loss in losses.items()}
    for step, loss in relative_losses(scaled).items():
        np.testing.assert_allclose(loss, relative_losses(losses)[step])


def test_tau_mem_is_from_where_on_it_stays_memory():
    def at(low):
        found = Finding("ratio", 0.5, low, 0.9, 50)
        return Stored({"ratio": found}, {}, {})

    assert tau_mem({10: at(-0.1), 20: at(0.1), 30: at(-0.1), 40: at(0.2), 50: at(0.3)}) == 40
    assert tau_mem({10: at(0.1), 20: at(-0.1)}) is None
