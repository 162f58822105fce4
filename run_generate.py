"""Draw a synthetic set from a trained model; image i depends on seed + i alone.

    python run_generate.py --ckpt-path models/1000.pt --result-path generations/1000 \\
        --num-samples 4096 --synth-path synthetics
    python run_generate.py --ckpt-path models/64.pt --result-path generations/64 \\
        --num-samples 256 --sampler ddim --steps 50 --synth-path synthetics
    python run_generate.py --exact --config_path configs/digits.yaml --train-size 64 \\
        --result-path generations/64 --num-samples 256 --synth-path synthetics

Reads a checkpoint K.pt; writes shard-FIRSTSEED.npz and grid.png into --result-path, and the
merged set K.npz into --synth-path (docs/formats.md). Run it again to continue."""

from utils.cli.main import run_stage
from utils.cli.options.sections import GenerateStage


def main(options: GenerateStage) -> None:
    from utils.stages.generate.stage import run

    run(options)


if __name__ == "__main__":
    run_stage(main, GenerateStage, __doc__)
