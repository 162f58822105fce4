"""Test whether a model generalizes or memorizes, without a threshold of distance.

    python run_generalization.py --ckpt-path models --synth-path synthetics \\
        --second-synth-path second/synthetics --result-path generalization
    python run_generalization.py --ckpt-path models --synth-path synthetics \\
        --times-path times --identified-path identified --result-path generalization
    python run_generalization.py --checkpoints results/64/checkpoints \\
        --result-path generalization/64

For each K: whether two models of disjoint training sets draw the same images from the same seeds,
how far the model is from the exact memorizer, the gap between losses on training and held-out
images, three tests of nearest neighbours against held-out images, and the collapse and speciation
times of the data. Reads models K.pt, sets K.npz and the data set; writes K.json, K.npz
and figures into --result-path (docs/formats.md). With --checkpoints the same over one training's
steps. Run it again to continue."""

from utils.cli.main import run_stage
from utils.cli.options.sections import GeneralizationStage


def main(options: GeneralizationStage) -> None:
    from utils.stages.generalization.stage import run

    run(options)


if __name__ == "__main__":
    run_stage(main, GeneralizationStage, __doc__)
