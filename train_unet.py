"""Train a DDPM U-Net on the first K images of a data set (in the seed's order).

    python train_unet.py --config_path configs/digits.yaml --train-size 64 \\
        --results-path results/64 --model-path models
    python train_unet.py --config_path configs/cifar10.yaml --train-size 16000 \\
        --results-path cifar10-unet128/16k

Reads the data set below --data-path; writes checkpoints/, samples/ and logs/ below
--results-path, and K.pt into --model-path (docs/formats.md). Run it again to continue."""

from utils.cli.main import run_stage
from utils.cli.options.sections import TrainStage


def main(options: TrainStage) -> None:
    from utils.stages.train.stage import run

    run(options)


if __name__ == "__main__":
    run_stage(main, TrainStage, __doc__)
