"""The options that files carry, read from another folder than they were written in."""

from tests.helpers.images import noise, save_image
from tests.helpers.runs import FAST, assert_one_line, run_here
from utils.files.provenance import found_data_path


def test_a_relative_data_path_is_found_from_another_folder(tmp_path):
    """Training in one folder, the next stages in the folder of the results."""
    project, data = tmp_path / "project", tmp_path / "pictures"
    project.mkdir()
    for i, image in enumerate(noise(12, 8, 8)):
        save_image(data / f"{i:02}.png", image)
    own = ["--data-name", "folder", "--data-path", "../pictures", "--train-size", "4"]
    flags = [*FAST, *own, "--results-path", "r", "--model-path", "results/models"]
    assert run_here("train_unet.py", *flags, cwd=project).returncode == 0
    sets = ["--ckpt-path", "models/4.pt", "--result-path", "g", "--synth-path", "s"]
    few = ["--num-samples", "4", "--sampler", "ddim", "--steps", "2", "--device", "cpu"]
    drawn = run_here("run_generate.py", *sets, *few, cwd=project / "results")
    assert drawn.stdout.count(f"data path ../pictures: {data}, since") == 1
    near = ["--synth-path", "s", "--result-path", "d", "--device", "cpu"]
    for folder in (project / "results", project / "results" / "d"):
        near[1] = project / "results" / "s"
        assert run_here("run_distances.py", *near, cwd=folder).returncode == 0
    data.rename(tmp_path / "elsewhere")
    near[-3] = "d2"
    failed = run_here("run_distances.py", *near, cwd=project / "results")
    assert_one_line(failed, "--data-path", "pictures", "no such folder")


def test_a_folder_that_two_places_have_is_not_guessed(tmp_path, monkeypatch, capsys):
    file = tmp_path / "a" / "b" / "results" / "4.pt"
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert found_data_path("data", file) == "data"
    (tmp_path / "a" / "data").mkdir(parents=True)
    assert found_data_path("data", file) == "../a/data"
    assert found_data_path(str(tmp_path / "none"), file) == str(tmp_path / "none")
    (tmp_path / "a" / "b" / "data").mkdir(parents=True)
    assert found_data_path("data", file) == "data"
    (elsewhere / "data").mkdir()
    (tmp_path / "a" / "b" / "data").rmdir()
    assert found_data_path("data", file) == "data"  # that of the current folder
    assert capsys.readouterr().out.count("\n") == 1
