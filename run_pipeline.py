"""Run every stage for every training-set size K: train, generate, distances, classify.

    python run_pipeline.py --config_path configs/digits.yaml
    python run_pipeline.py --config_path configs/mnist.yaml --sizes 2,64,1024 --samples 512 \\
        --metric alex --root results/mnist
    python run_pipeline.py --models models --data-path data --metric vgg --sizes 2,1000,50000 \\
        --root results/published

One YAML file serves all stages; flags override it. With --models nothing is trained: the models of
that folder, ours or the published ones, are measured. Writes models/, training/, generations/,
synthetics/, dists/ and identified/ below --root, and ends with a table and the paths of the
figures. Run it again to continue: finished work is skipped."""

from utils.cli.main import run_stage
from utils.cli.options.sections import PipelineStage


def main(options: PipelineStage) -> None:
    from utils.stages.pipeline.stage import run

    run(options)


if __name__ == "__main__":
    run_stage(main, PipelineStage, __doc__)
