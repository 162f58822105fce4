"""Sort synthetic images into memorized, spurious and generalized, by their distances.

    python run_classify.py --dist-path dists --eval-path synthetics --result-path identified \\
        --delta-m 0.03 --delta-s 0.02
    python run_classify.py --dist-path dists --eval-path synthetics --result-path identified \\
        --criterion calibrated --false-positive-rate 0.01

Reads dists/K.npz, synthetics/K.npz and the data set; writes memorized/, spurious/ and
generalized/K.npz, summary.csv and figures/ into --result-path (docs/formats.md). Beside each share
it shows the control, the same rule applied to real images that the model has not seen
(docs/classes.md)."""

from utils.cli.main import run_stage
from utils.cli.options.sections import ClassifyStage


def main(options: ClassifyStage) -> None:
    from utils.stages.classify.stage import run
    from utils.stages.classify.summary import table, transition_in_words

    if rows := run(options):
        print(f"{table(rows)}\n\n{transition_in_words(rows)}")


if __name__ == "__main__":
    run_stage(main, ClassifyStage, __doc__)
