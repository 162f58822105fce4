"""run_generalization.py on exact models, what it refuses, and second models."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import norm

from tests.helpers.runs import FAST, QUICK, assert_one_line, ok, run_here
from tests.helpers.sandbox import GENERALIZATION_TESTS
from utils.data.datasets import to_float
from utils.data.subsets import held_out_images
from utils.evidence.findings import (
    GENERALIZATION,
    MEMORY,
    TESTS,
    UNDECIDED,
    Finding,
)
from utils.inputs.denoisers import training_images
from utils.inputs.samples import load_synthetics, save_synthetics
from utils.stages.generalization.files import Stored, arrays_file, load_arrays, load_measured
from utils.stages.generalization.overview import (
    beginning,
    ending,
    findings_rows,
    findings_table,
    verdicts_in_words,
)


def test_where_memory_ends_in_words():
    new = GENERALIZATION
    assert ending({2: MEMORY, 64: MEMORY, 96: new}) == "memory up to K = 64, not from 96"
    assert ending({2: new, 64: new}) == "no memory from K = 2"
    assert ending({2: MEMORY}) == "memory up to K = 2, the largest"
    assert "(nor at 16)" in ending({2: MEMORY, 16: new, 64: MEMORY, 96: new})
    mixed = {2: UNDECIDED, 16: new, 64: MEMORY, 96: UNDECIDED}
    assert ending(mixed) == "memory up to K = 64, not from 96 (nor at 16; undecided at 2, 96)"


def test_where_generalization_begins_in_words():
    new, no = GENERALIZATION, UNDECIDED
    assert beginning({2: no, 64: no, 96: new}) == "undecided up to K = 64, generalization from 96"
    assert beginning({2: new, 64: new}) == "generalization from K = 2"
    assert beginning({2: no}) == "undecided up to K = 2, the largest"
    assert beginning({2: new, 4: no, 8: new}).endswith("from 8 (generalization at 2)")


def test_verdicts_that_are_not_what_one_k_says_give_the_reason():
    z = {2: -2.05, 4: -1.0, 8: -0.5}
    found = {k: Finding("c-t", v, v - 1.96, v + 1.96, 99, norm.cdf(v)) for k, v in z.items()}
    found[8] = replace(found[8], undecided="no time before the collapse")
    stored = {k: Stored({"c-t": one}, {}, {}) for k, one in found.items()}
    assert found[2].verdict == MEMORY
    table, rows = findings_table(stored), list(findings_rows(stored))
    for text in (table, str(rows)):
        assert "undecided: memory at this K alone" in text
        assert "undecided: no time before the collapse" in text
        assert text.count("generalization") == 1
    assert verdicts_in_words(stored).startswith("3 verdicts, of 1 test at 3 K. ")


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
    done = ok("run_generalization.py", *flags, run=run_here)
    for k in (2, 12):
        stored = load_measured(result / f"{k}.json")
        expected = dict.fromkeys(GENERALIZATION_TESTS, MEMORY) | {"two-models": UNDECIDED}
        expected |= {"denoising-gap": UNDECIDED} if k == 2 else {}
        assert {n: f.verdict for n, f in stored.findings.items()} == expected
        assert (load_arrays(result / f"{k}.json")["held-out-memorizer"] == 0).all()
        # held out is what neither of the two models has learnt
        known, images = training_images(stored.args), held_out_images(stored.args, 100, both=True)
        apart = torch.cdist(to_float(images).flatten(1), known.flatten(1)).sort(1).values[:, :2]
        found = load_arrays(result / f"{k}.json")["held-out-distances"]
        np.testing.assert_allclose(found, apart.numpy(), atol=1e-3)
        content = json.loads((result / f"{k}.json").read_text())["findings"]
        for one in content:  # each with its definition, source, and when it misleads
            assert all(one[key] for key in ("definition", "source", "misleads"))
            assert one["low"] <= one["value"] <= one["high"] and 0 <= one["p_value"] <= 1
            assert (one["p_value"] <= 0.025) == (stored.findings[one["test"]].p_value <= 0.025)
            few = k == 2 and one["test"] == "denoising-gap"
            assert one["undecided"] == ("fewer than 3 training images" if few else "")
        assert (result / "figures" / f"pairs-{k}.png").exists()
    for name in ("evidence", "denoising", "memorizer", "collapse"):
        assert (result / "figures" / f"{name}.png").exists()
        assert (result / "figures" / f"{name}.pdf").exists()
        interval = content_times(result / f"{k}.json")["speciation"][1:]
        assert (interval == [None, None]) == (k == 2)
    said = {name: "memory up to K = 12, the largest" for name in TESTS}
    said["two-models"] = "undecided up to K = 12, the largest"
    said["denoising-gap"] += " (undecided at 2)"
    for name, test in TESTS.items():
        assert f"{name}: {said[name]}. When it misleads: {test.misleads}" in done.stdout
    assert "undecided: fewer than 3 training images" in done.stdout
    assert "12 verdicts, of 6 tests at 2 K. Memory is corrected over the K" in done.stdout
    before = {path: path.read_bytes() for path in result.glob("*.*")}
    again = ok("run_generalization.py", *flags, run=run_here)
    assert again.stdout.count("is finished") == 2
    ok("run_generalization.py", *flags, "--overwrite", run=run_here)
    assert {path: path.read_bytes() for path in result.glob("*.*")} == before
    # another batch changes nothing but rounding, so it is no other result
    assert (
        "is finished" in ok("run_generalization.py", *flags, "--batch-size", 7, run=run_here).stdout
    )
    assert_one_line(
        run_here("run_generalization.py", *flags, "--noises", 3), "noises 2 (now 3)", "--overwrite"
    )


def content_times(path):
    return json.loads(path.read_text())["times"]


def test_another_twin_is_another_result(exact, tmp_path):
    result = ["--result-path", tmp_path / "g", "--final-idx", 1]
    ok("run_generalization.py", *flags_of(exact, *result), run=run_here)
    other = tmp_path / "other"
    for path in (exact / "second").glob("*.npz"):
        found = load_synthetics(path)
        save_synthetics(other / path.name, found.samples[::-1], found.args)
    flags = [*QUICK, "--exact", "--synth-path", exact / "first", *result]
    done = run_here("run_generalization.py", *flags, "--second-synth-path", other)
    assert_one_line(done, "second ", "(now ", "--overwrite")


def test_a_dry_run_writes_nothing(exact, tmp_path):
    done = ok(
        "run_generalization.py",
        *flags_of(exact, "--result-path", tmp_path / "g", "--dry-run"),
        run=run_here,
    )
    assert "K = 12: write" in done.stdout and not (tmp_path / "g").exists()


def test_what_does_not_fit_together(exact, tmp_path):
    result = ["--result-path", tmp_path / "g"]
    swapped = [*QUICK, "--exact", "--synth-path", exact / "first", *result]
    twins = [*swapped, "--second-synth-path", exact / "first"]
    assert_one_line(
        run_here("run_generalization.py", *twins), "the same training images", "--subset second"
    )
    assert_one_line(
        run_here("run_generalization.py", *swapped, "--t", "2,30"),
        "--t: found 30",
        "choose 0 to 29",
    )
    assert_one_line(run_here("run_generalization.py", *swapped, "--t", "5,5"), "--t", "each once")
    assert_one_line(run_here("run_generalization.py", *swapped, "--ckpt-path", tmp_path), "--exact")
    empty = tmp_path / "empty"
    empty.mkdir()
    for flag in ("--synth-path", "--second-synth-path"):
        flags = [*swapped, flag, empty]
        assert_one_line(run_here("run_generalization.py", *flags), flag, "no K.npz")
    # drawn from other seeds
    other = tmp_path / "other"
    for path in (exact / "second").glob("*.npz"):
        found = load_synthetics(path)
        args = {**found.args, "generate": {**found.args["generate"], "seed": 7}}
        save_synthetics(other / path.name, found.samples, args)
    twins = [*swapped, "--second-synth-path", other]
    assert_one_line(
        run_here("run_generalization.py", *twins),
        "--seed 7",
        "draw both sets with the same options",
    )
    assert not (tmp_path / "g").exists()


def test_a_k_without_a_twin_or_held_out_images_is_passed_over(exact, tmp_path):
    twins = tmp_path / "twins"
    twins.mkdir()
    shutil.copy(exact / "second" / "12.npz", twins)
    flags = [*QUICK, "--exact", "--synth-path", exact / "first", "--second-synth-path", twins]
    done = ok("run_generalization.py", *flags, "--result-path", tmp_path / "g", run=run_here)
    assert "K = 2: no 2.npz" in done.stdout
    assert "two-models" not in load_measured(tmp_path / "g" / "2.json").findings
    assert "two-models" in load_measured(tmp_path / "g" / "12.json").findings
    # all 1,797 digits are learnt: nothing is left to compare with
    everything = tmp_path / "all"
    result = load_synthetics(exact / "first" / "12.npz")
    args = {**result.args, "train": {**result.args["train"], "train_size": 1797}}
    save_synthetics(everything / "1797.npz", result.samples, args)
    flags = [*QUICK, "--exact", "--synth-path", everything, "--result-path", tmp_path / "h"]
    assert "K = 1797: left out" in ok("run_generalization.py", *flags, run=run_here).stdout


def test_files_that_are_not_whole_are_refused(exact, tmp_path):
    result = tmp_path / "g"
    flags = flags_of(exact, "--result-path", result, "--start-idx", 0, "--final-idx", 1)
    ok("run_generalization.py", *flags, run=run_here)
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
        assert_one_line(run_here("run_generalization.py", *flags), str(path), *words)
    changes = (("value", "NaN"), ("low", 9), ("n", 0), ("details", 4), ("p_value", None))
    for name, value in (*changes, ("p_value", 2), ("undecided", 3)):
        one = {**content["findings"][0], name: float(value) if value == "NaN" else value}
        path.write_text(json.dumps({**content, "findings": [one]}))
        assert_one_line(run_here("run_generalization.py", *flags), str(path))
    for one in content["findings"]:  # as it was written before there were p-values
        del one["p_value"]
    path.write_text(json.dumps(content))
    refused = run_here("run_generalization.py", *flags)
    assert_one_line(refused, str(path), "without its p-value", "again with --overwrite")
    path.write_text(text[:-40])
    assert_one_line(run_here("run_generalization.py", *flags), str(path))
    path.write_text(text)
    arrays = dict(np.load(arrays_file(path)))
    for key, value in (("t", np.zeros(0, int)), ("train-loss", np.full((3, 2), np.nan))):
        np.savez(arrays_file(path), **{**arrays, key: value})
        assert_one_line(run_here("run_generalization.py", *flags), str(arrays_file(path)), key)
    arrays_file(path).unlink()  # lost: both are made again
    ok("run_generalization.py", *flags, run=run_here)
    assert path.read_text() == text and arrays_file(path).exists()


def test_samples_of_another_model_are_refused(sweep, tmp_path):
    root, _, _ = sweep
    shutil.copytree(root / "models", tmp_path / "models")
    content = torch.load(tmp_path / "models" / "2.pt", weights_only=True)
    next(iter(content["ema"].values())).add_(1)
    torch.save(content, tmp_path / "models" / "2.pt")
    flags = [*QUICK, "--ckpt-path", tmp_path / "models", "--synth-path", root / "synthetics"]
    done = run_here("run_generalization.py", *flags, "--result-path", tmp_path / "g")
    assert_one_line(done, "synthetics/2.npz", "run_generate.py")


# Second models


def test_train_passes_over_a_k_above_half_of_the_data(tmp_path):
    flags = ["--train-size", 899, "--subset", "second", "--results-path", tmp_path / "r"]
    done = ok("train_unet.py", *FAST, *flags, run=run_here)
    assert "K = 899: more than half of the 1797 images" in done.stdout
    assert not (tmp_path / "r").exists()


def test_the_pipeline_trains_twins_and_tests_all(sweep):
    root, _, printed = sweep
    for k in (2, 8):
        assert set(load_measured(root / "generalization" / f"{k}.json").findings) == set(
            GENERALIZATION_TESTS
        )
        first, twin = (load_synthetics(r / f"synthetics/{k}.npz") for r in (root, root / "second"))
        assert (first.args["train"]["subset"], twin.args["train"]["subset"]) == ("first", "second")
        assert first.args["generate"]["seed"] == twin.args["generate"]["seed"]
    assert "two-models: " in printed
    classes = {p.parent.name for p in (root / "identified").glob("*/*.npz")} - {"summary"}
    assert {p.parent.name for p in (root / "curvature").glob("*/*.npz")} == classes
