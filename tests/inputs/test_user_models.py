"""Models of the user's own file: NetworkDenoiser, SigmaDenoiser, and what can be wrong."""

import json
import textwrap

import numpy as np
import pytest
import torch

from models.denoiser import NetworkDenoiser, SigmaDenoiser
from models.exact import ExactDenoiser
from models.samplers import draw_images
from models.schedule import Schedule, predict_v
from tests.helpers.images import real_digits
from tests.helpers.runs import assert_one_line, complaint, ok, run_here
from utils.cli.errors import UserError
from utils.inputs.user_models import read_function

KNOWN = {"data": {"data_name": "digits"}, "train": {"train_size": 8, "global_seed": 3407}}
EXACT = """
    from models.exact import ExactDenoiser
    from models.schedule import Schedule
    from tests.helpers.images import real_digits

    def load(device):
        return ExactDenoiser(real_digits(8).to(device), Schedule(50, "sigmoid"))
"""


def written(folder, code, name="own.py"):
    path = folder / name
    path.write_text(textwrap.dedent(code))
    return f"{path}:load"


def test_a_function_of_a_file_is_a_model(tmp_path):
    text = written(tmp_path, EXACT)
    stored = read_function(text, KNOWN)
    assert stored.args["train"]["timesteps"] == 50
    assert stored.args["train"]["beta_schedule"] == "sigmoid"
    assert stored.args["model"]["image_size"] == 8 and stored.args["data"]["data_name"] == "digits"
    x_t = torch.randn(3, 1, 8, 8)
    ours = ExactDenoiser(real_digits(8), Schedule(50, "sigmoid"))
    assert stored.build(torch.device("cpu"), "auto").eps(x_t, 20).equal(ours.eps(x_t, 20))
    again = read_function(text, KNOWN)
    assert again.fingerprint == stored.fingerprint
    written(tmp_path, EXACT + "    # another file\n")
    assert read_function(text, KNOWN).fingerprint != stored.fingerprint


def test_an_unnamed_schedule_is_stored(tmp_path):
    code = EXACT.replace('Schedule(50, "sigmoid")', "Schedule.from_sigma([0.01, 0.3, 2, 30])")
    stored = read_function(written(tmp_path, code), KNOWN)
    assert stored.args["train"]["beta_schedule"] == "other"
    expected = 1 / (1 + np.array([0.01, 0.3, 2, 30]) ** 2)
    np.testing.assert_allclose(stored.args["alpha_bar"], expected)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("return 3", ("a int returned", "models.denoiser.Denoiser")),
        ("raise RuntimeError('no weights here')", ("line 3: RuntimeError: no weights here",)),
        ("raise SystemExit(0)", ("line 3: SystemExit", "correct the file")),
        ("return Net(lambda x, t: x[:, :, 1:], S(9), (1, 8, 8), device=device)", ("[2, 1, 7, 8]",)),
        ("return Net(lambda x, t: x / 0, S(9), (1, 8, 8), device=device)", ("NaN or infinite",)),
        ("return Net(lambda x: x, S(9), (1, 8, 8), device=device)", ("TypeError at t = 1",)),
        ("return Net(lambda x, t: x, S(9), (1, 8, 8))", ("without weights", "device")),
        ("return Net(lambda x, t: x, S(9), (8, 8), device=device)", ("shape (8, 8)", "(C, H, W)")),
        ("return Net(lambda x, t: x, None, (1, 8, 8), device=device)", ("without schedule",)),
        ("return Net(lambda x, t: x, S(9), (1, 8, 8), 'w', device=device)", ("'w'", "epsilon, ")),
        ("return S.from_alpha_bar([0.5, 0.6])", ("0.6 after 0.5 at t = 1", "decrease")),
    ],
)
def test_what_is_wrong_with_a_function_ends_in_one_line(tmp_path, body, words):
    net = "from models.denoiser import NetworkDenoiser as Net"
    start = f"{net}; from models.schedule import Schedule as S"
    text = written(tmp_path, f"{start}\ndef load(device):\n    {body}\n")
    with complaint("--model", *words):
        read_function(text, KNOWN)


def test_a_file_that_cannot_be_run_is_named(tmp_path):
    with complaint("--model", "none.py", "No such file", "check the path"):
        read_function(f"{tmp_path}/none.py:load", KNOWN)
    with complaint("--model", "own.py", "no function other"):
        read_function(written(tmp_path, EXACT).replace(":load", ":other"), KNOWN)
    with complaint("--model", "own.py", "SyntaxError"):
        read_function(written(tmp_path, "def load(\n"), KNOWN)


def test_only_the_command_line_names_code(tmp_path):
    code = tmp_path / "ran.py"
    code.write_text("open('ran', 'w')\n")
    config = tmp_path / "own.yaml"
    for text in (
        f"generate: {{model: '{code}:load'}}",
        f"critical_times: {{model: '{code}:load'}}",
    ):
        config.write_text(text)
        flags = ["--config_path", config, "--result-path", "g", "--num-samples", 2]
        failed = run_here("run_generate.py", *flags, cwd=tmp_path)
        assert_one_line(failed, "own.yaml", "model", "on the command line")
    for value in ("own.py", "own:load", "own.txt:load"):
        failed = run_here("run_generate.py", "--model", value, "--result-path", "g", cwd=tmp_path)
        assert_one_line(failed, "--model", value, "as my_model.py:load")
    failed = run_here("run_generate.py", "--model", "a.py:b", "--ckpt-path", "8.pt", cwd=tmp_path)
    assert_one_line(failed, "--model", "beside --ckpt-path", "leave one of them out")
    assert not (tmp_path / "ran").exists()


def test_any_prediction_of_one_denoiser_gives_the_same_numbers():
    """eps, x_0, v and D(y; sigma) of the exact model, mapped back: all are the same denoiser."""
    schedule, digits = Schedule(100, "cosine"), real_digits(20)
    exact = ExactDenoiser(digits, schedule)

    def at(x, t, what):
        return getattr(exact, what)(x, t.cpu())

    def v(x, t):
        return predict_v(at(x, t, "x_0"), at(x, t, "eps"), schedule.alpha_bar_at(t))

    def denoised(y, sigma):
        """Written from its definition, in numpy."""
        apart = np.square(y.numpy()[:, None] - digits.numpy()[None]).sum((2, 3, 4))
        logits = -apart.astype(float) / (2 * sigma.double().numpy()[:, None] ** 2)
        weights = np.exp(logits - logits.max(1, keepdims=True))
        weights /= weights.sum(1, keepdims=True)
        return torch.from_numpy(np.tensordot(weights, digits.numpy().astype(float), 1)).float()

    cpu, shape = torch.device("cpu"), (1, 8, 8)
    forms = [
        NetworkDenoiser(lambda x, t: at(x, t, "eps"), schedule, shape, "epsilon", device=cpu),
        NetworkDenoiser(lambda x, t: at(x, t, "x_0"), schedule, shape, "sample", device=cpu),
        NetworkDenoiser(v, schedule, shape, "v", device=cpu),
        SigmaDenoiser(denoised, schedule, shape, cpu),
    ]
    x_t = torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    for t in (3, 40, 90, torch.tensor([2, 5, 30, 60, 80, 99])):
        for form in forms:
            torch.testing.assert_close(form.x_0(x_t, t), exact.x_0(x_t, t), rtol=1e-3, atol=2e-3)
            torch.testing.assert_close(
                form.score(x_t, t), exact.score(x_t, t), rtol=1e-3, atol=2e-2
            )
    drawn = [torch.cat([*draw_images(form, range(8), "ddim", 30, 8)]) for form in (exact, *forms)]
    for images in drawn[1:]:
        torch.testing.assert_close(images, drawn[0], rtol=0, atol=1e-2)


def test_every_stage_takes_a_model_of_ones_own(tmp_path):
    text = written(tmp_path, EXACT)
    own = ["--model", text, "--data-name", "digits", "--train-size", 8, "--global-seed", 3407]

    def run(script, *flags):
        flags = [*own, *flags, "--device", "cpu", "--result-path", script]
        return ok(script, *flags, run=lambda *a: run_here(*a, cwd=tmp_path))

    sampling = ["--num-samples", 4, "--sampler", "ddim", "--steps", 5]
    run("run_generate.py", *sampling, "--synth-path", "s")
    few = ["--sample-path", "s", "--sample-size", 2]
    quick = ["--stride", 25, "--p-trials", 2, "--ddim-steps", 3, "--delta", 2]
    run("run_critical_times.py", *few, *quick)
    refs = ["--ref-path", "s/8.npz", "--ref-range=-1,1", "--path-points", 4, "--t", 3]
    run("run_energy.py", *few, *refs)
    run("run_curvature.py", *few, "--t", 5, "--normal-points", 0)
    tests = ["--t", "2,10", "--probe-size", 8, "--noises", 1, "--held-out-size", 30]
    run("run_generalization.py", "--synth-path", "s", *tests)
    results = sorted(tmp_path.glob("run_*.py/8.npz"))
    assert len(results) == 4
    for path in [*results, tmp_path / "s" / "8.npz"]:
        with np.load(path) as file:
            args = json.loads(str(file["args"]))
        assert args["train"]["beta_schedule"] == "sigmoid" and args["train"]["timesteps"] == 50
        assert args["data"]["data_name"] == "digits" and args["train"]["train_size"] == 8


def test_bfloat16_is_the_users_own_choice(tmp_path):
    stored = read_function(written(tmp_path, EXACT), KNOWN)
    with pytest.raises(UserError, match="--precision: found bfloat16"):
        stored.build(torch.device("cpu"), "bfloat16")
