"""Find copies of training images among samples, whichever model they are from.

    python run_audit.py --samples samples/ --train train/ --held-out test/ --result-path audit
    python run_audit.py --samples s.npz --train cifar10:train --result-path audit --metric alex
    python run_audit.py --samples samples.zip --train train.npy --result-path audit --shifts 2

Writes audit.json, neighbours.csv (each sample, worst first), copied.csv, duplicates.csv, pictures
and report.html. Held-out images, which the model has not seen, are the control: they tell which
distances new images have. docs/audit.md describes all inputs and numbers. Exit code 3: the share of
copies is above --fail-above."""

from utils.cli.main import run_stage
from utils.cli.options.sections import AuditStage


def main(options: AuditStage) -> None:
    from utils.stages.audit.stage import run

    run(options)


if __name__ == "__main__":
    run_stage(main, AuditStage, __doc__)
