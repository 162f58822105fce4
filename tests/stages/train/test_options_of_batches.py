"""What `--random-flip`, `--duplicates`, schedules and predictions change; all are off at first."""

import numpy as np
import pytest
import torch

from models.schedule import predict_eps, predict_v
from tests.helpers.images import real_digits
from tests.helpers.runs import train_options
from utils.data.datasets import to_float
from utils.files.training_log import read_stats
from utils.inputs.checkpoints import load_checkpoint
from utils.stages.train import stage as train
from utils.stages.train.batches import batch_indices, mirrored, shown_positions
from utils.stages.train.trainer import Plan, Trainer


def weights(folder, *flags):
    train.run(train_options(folder, *flags))
    return load_checkpoint(folder / "models" / "8.pt").model


def test_half_of_the_images_are_mirrored_by_seed_and_step():
    images = (real_digits(400) * 100).to(torch.uint8)
    flipped = mirrored(images, 3, 7)
    assert torch.equal(flipped, mirrored(images, 3, 7))
    turned = torch.tensor([torch.equal(a, b.flip(2)) for a, b in zip(flipped, images)])
    same = torch.tensor([torch.equal(a, b) for a, b in zip(flipped, images)])
    assert (turned | same).all() and 160 < (turned & ~same).sum() < 240
    assert not torch.equal(mirrored(images, 4, 7), flipped)
    assert not torch.equal(mirrored(images, 3, 8), flipped)


def test_one_image_in_ten_is_shown_more_often():
    assert shown_positions(25, 1).equal(torch.arange(25))
    shown = shown_positions(25, 4)
    counts = np.bincount(shown.numpy())
    assert counts.tolist() == [4] * 3 + [1] * 22
    drawn = [shown[batch_indices(len(shown), 10, step, 1)] for step in range(340)]
    often = np.bincount(torch.cat(drawn).numpy())
    assert often[:3].sum() / often.sum() == pytest.approx(12 / 34)
    assert shown_positions(2, 3).tolist() == [0, 1, 0, 0]


@pytest.mark.parametrize(
    "flags",
    [
        ("--random-flip",),
        ("--duplicates", 5),
        ("--beta-schedule", "cosine"),
        ("--beta-schedule", "sigmoid"),
        ("--prediction-type", "v"),
    ],
)
def test_each_changes_the_training_and_none_is_on_at_first(tmp_path, flags):
    before = weights(tmp_path / "before")
    after = weights(tmp_path / "after", *flags)
    assert any(not torch.equal(before[name], after[name]) for name in before)
    off = {"random_flip": False, "duplicates": 1, "tracker": "none", "beta_schedule": "linear"}
    train_args = load_checkpoint(tmp_path / "before" / "models" / "8.pt").args["train"]
    assert off.items() <= train_args.items()


@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v"])
def test_every_prediction_learns(tmp_path, prediction):
    flags = ["--iterations", 150, "--lr", 3e-3, "--log-every", 50, "--ckpt-every", 150]
    weights(tmp_path, *flags, "--prediction-type", prediction, "--beta-schedule", "cosine")
    losses = [row["loss"] for row in read_stats(tmp_path / "run")]
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v"])
def test_the_loss_of_the_true_answer_is_0(tmp_path, prediction, schedule):
    """Of one image x_0 is known, and with it eps and v: what the exact model would predict."""
    flags = ["--train-size", 1, "--prediction-type", prediction, "--beta-schedule", schedule]
    options = train_options(tmp_path, *flags)
    trainer = Trainer(
        Plan(options, train.training_args(options), torch.device("cpu"), torch.float32)
    )
    image = to_float(trainer.images)

    def answer(x_t, t, labels):
        alpha_bar = trainer.schedule.alpha_bar_at(t)
        eps = predict_eps(x_t, image, alpha_bar)
        x_0 = image.expand(len(x_t), -1, -1, -1)
        return {"epsilon": eps, "sample": x_0, "v": predict_v(x_0, eps, alpha_bar)}[prediction]

    assert trainer.loss(answer, trainer.images.repeat(64, 1, 1, 1)) < 1e-6
