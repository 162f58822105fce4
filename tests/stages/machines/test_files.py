"""machines/K.json and K.npz: what is stored is read back; what is damaged is one line."""

import json
import math

import numpy as np
import pytest

from tests.helpers.comparisons import NAMES, seeds_of, stored_of
from tests.helpers.runs import complaint
from utils.stages.machines.files import load_arrays, load_result, save_result
from utils.stages.machines.overview import machine_rows, show_machines

NAN = math.nan


@pytest.fixture
def path(tmp_path):
    save_result(tmp_path / "8.json", stored_of(8), seeds_of(5))
    return tmp_path / "8.json"


def test_what_is_stored_is_read_back(path):
    assert load_result(path).entries == stored_of(8).entries
    assert load_result(path).seeds == stored_of(8).seeds
    assert load_result(path).sides == {"local": {2: 3, 10: 5}}
    for name, values in seeds_of(5).items():
        np.testing.assert_array_equal(load_arrays(path, 3)[name], values)


def test_nothing_to_explain_is_null_and_a_dash(tmp_path):
    path, nothing = tmp_path / "8.json", (NAN, NAN, NAN)
    save_result(path, stored_of(8, r2=nothing, best=None), seeds_of(5))
    for entry in json.loads(path.read_text())["entries"]:
        assert entry["best"] is None and entry["mixture_r2"] == [None] * 3
        assert all(values == [None] * 3 for values in entry["r2"].values())
    (row, _) = machine_rows({8: load_result(path)})
    assert row == ["8", "2", "-", "-", "-", "-", "local 3"]


def test_ties_and_mixtures_in_the_table():
    (row, _) = machine_rows({8: stored_of(8, tied=["exact"])})
    assert row[2:6] == [*3 * ["local* 0.90"], "0.75 local + 0.25 exact (0.90)"]


def first_entry(**changed):
    return lambda content: content["entries"][0].update(changed)


def first_seed(**changed):
    return lambda content: content["seeds"][0].update(changed)


DAMAGE = {
    "nothing": lambda content: content.clear(),
    "no machines": lambda content: content.pop("machines"),
    "machines of another type": lambda content: content.update(machines=4),
    "an unknown machine": lambda content: content.update(machines=["exact", "magic"]),
    "no machine": lambda content: content.update(machines=[]),
    "a machine twice": lambda content: content["machines"].append("exact"),
    "no entry": lambda content: content.update(entries=[]),
    "entries of another type": lambda content: content.update(entries={"a": 1}),
    "an entry of another type": lambda content: content["entries"].append(3),
    "sides of another type": lambda content: content.update(sides=[1]),
    "sides of a machine that is not there": lambda content: content.update(sides={"wiener2": {}}),
    "no side at a time": lambda content: content["sides"]["local"].pop("10"),
    "an unknown set": first_entry(group="test"),
    "a time that is none": first_entry(t="2"),
    "a time beyond all numbers": first_entry(t=math.inf),
    "no r2 of a machine": first_entry(r2={}),
    "an r2 of two numbers": first_entry(r2={name: [1, 2] for name in NAMES}),
    "an r2 above 1": first_entry(mixture_r2=[2.0, 0.1, 0.3]),
    "an r2 in words": first_entry(mixture_r2=["0.5", 0.1, 0.3]),
    "an infinite r2": first_entry(mixture_r2=[-math.inf, 0.1, 0.3]),
    "a huge r2": first_entry(mixture_r2=[10**400, 0.1, 0.3]),
    "a weight below 0": first_entry(mixture={name: [-1, 0, 1] for name in NAMES}),
    "an unknown best": first_entry(best="pca-local"),
    "an unknown tie": first_entry(tied=["magic"]),
    "ties of another type": first_entry(tied=3),
    "seeds of another type": lambda content: content.update(seeds=3),
    "seeds of an unknown set": first_seed(group="training"),
    "seeds without a number": first_seed(n=None),
    "no args": lambda content: content.pop("args"),
    "args of another K": lambda content: content["args"]["train"].update(train_size=9),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_result_is_one_line(path, damage):
    content = json.loads(path.read_text())
    DAMAGE[damage](content)
    path.write_text(json.dumps(content))
    with complaint(str(path)):
        load_result(path)


@pytest.mark.parametrize("content", ["[]", "3", "null", "{", ""])
def test_a_file_of_something_else_is_one_line(path, content):
    path.write_text(content)
    with complaint(str(path)):
        load_result(path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("seed-machines", np.zeros((2, 5, 1, 4, 4), np.float32)),  # of fewer machines
        ("seed-machines", np.zeros((3, 4, 1, 4, 4), np.float32)),  # of fewer seeds
        ("seed-network", np.full((5, 1, 4, 4), np.nan, np.float32)),
        ("seed-network", np.zeros((5, 1, 4, 4), np.int64)),
        ("seed-classes", np.full(5, 3)),
        ("args", np.array("{")),
    ],
)
def test_damaged_arrays_are_one_line(path, name, value):
    arrays = dict(np.load(path.with_suffix(".npz")))
    np.savez(path.with_suffix(".npz"), **{**arrays, name: value})
    with complaint("8.npz", name):
        load_arrays(path, 3)


def test_a_result_without_its_arrays_is_one_line(path):
    path.with_suffix(".npz").unlink()
    with complaint("8.npz"):
        show_machines(path.parent)


def test_results_of_other_options_are_not_compared(path, capsys):
    save_result(path.with_name("9.json"), stored_of(9, images=30), seeds_of(0))
    show_machines(path.parent)
    printed = capsys.readouterr().out
    assert "8.json: made with other options" in printed
    assert "\n     9     2  local 0.90" in printed and "     8     2" not in printed
    assert not (path.parent / "figures" / "seeds-9.png").exists()
