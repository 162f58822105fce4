"""A sweep beside published values: reproduced, not reproduced, or not comparable and why.

    python -m utils.anchors results/cifar10
    python -m utils.anchors results/cifar10 --json

Reads identified/ and generalization/ of the folder, and utils/anchors.yaml; writes nothing.
The rules are in docs/anchors.md."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from utils.cli.main import run_stage
from utils.cli.options.sections import AnchorsStage


def run(options: AnchorsStage) -> None:
    """Print every published value beside that of the sweep."""
    # here, because PyTorch comes with them, which --help does not need
    from utils.stages.anchors.compare import as_json, compare, table
    from utils.stages.anchors.measured import read_sweep
    from utils.stages.anchors.published import FILE, read_anchors

    root = Path(options.anchors.root)
    anchors = read_anchors(Path(options.anchors.values or FILE))
    compared = compare(anchors, read_sweep(root))
    if options.anchors.json:
        print(json.dumps(as_json(compared, root), indent=2, allow_nan=False))
    else:
        print(table(compared, root))


def main(arguments: list[str]) -> None:
    """The command line."""
    # `--root` may be left out.
    if arguments and not arguments[0].startswith("-"):
        arguments = ["--root", *arguments]
    name = "python -m utils.anchors"
    run_stage(run, AnchorsStage, __doc__ or "", arguments, name, show_options=False)


if __name__ == "__main__":
    main(sys.argv[1:])
