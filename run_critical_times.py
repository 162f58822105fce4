"""Measure basins of attraction: up to how much noise an image is recovered.

    python run_critical_times.py --ckpt-path models --sample-path identified/memorized \\
        --result-path times/memorized --metric vgg
    python run_critical_times.py --ckpt-path models --result-path times/training --delta 1 \\
        --search bisect
    python run_critical_times.py --exact --sample-path identified/spurious \\
        --result-path exact-times/spurious --delta 1

Noise of t = 1, 26, ... is added to each image and removed by DDIM; the image is recovered at t if
9 of 10 trials end within --delta of it. Its critical time is the last scanned time t before it
first stops being recovered. Reads models K.pt and samples K.npz (without --sample-path the training
images); writes K.npz into --result-path and figures beside it (docs/formats.md). Run it again to
continue."""

from utils.cli.main import run_stage
from utils.cli.options.sections import CriticalTimesStage


def main(options: CriticalTimesStage) -> None:
    from utils.stages.critical_times.stage import run

    run(options)


if __name__ == "__main__":
    run_stage(main, CriticalTimesStage, __doc__)
