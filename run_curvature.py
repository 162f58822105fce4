"""Measure the curvature of the energy -log p_t around samples, and their local dimension.

    python run_curvature.py --ckpt-path models --sample-path identified/memorized \\
        --result-path curvature/memorized
    python run_curvature.py --ckpt-path models --sample-path identified/spurious \\
        --t 20,50,200 --times-path times/spurious --result-path curvature/spurious
    python run_curvature.py --exact --sample-path identified/memorized \\
        --result-path exact-curvature/memorized

The Hessian of -log p_t, by Jacobian-vector products of the model: eigenvalues (all of them for
small images, both ends of the spectrum by block Lanczos for larger ones), trace, flat directions,
and two local intrinsic dimensions. Reads models K.pt and samples K.npz (without --sample-path the
training images); writes K.npz into --result-path and figures beside it (docs/formats.md). Run it
again to continue."""

from utils.cli.main import run_stage
from utils.cli.options.sections import CurvatureStage


def main(options: CurvatureStage) -> None:
    from utils.stages.curvature.stage import run

    run(options)


if __name__ == "__main__":
    run_stage(main, CurvatureStage, __doc__)
