"""Effect of precision and sampler on the shares of the three classes.

    python -m benchmarks.agreement

Runs the digits sweep with `run_pipeline.py` in results/agreement, trained in float32 and in
bfloat16, sampled from the same seeds with each sampler of SAMPLING, and prints a table of shares
in %. A share is marked * if its 95 % interval does not overlap that of the published setting
(float32, 1,000 steps of ddpm). Finished work is skipped. About an hour on two cores."""

from __future__ import annotations

import argparse
import csv
import subprocess
import sys
from pathlib import Path

import yaml

from utils.cli.options.choices import CLASSES

PRECISIONS, SIZES = ("float32", "bfloat16"), "2,16,32,48,1500"
# The run with the first also trains the models; the others sample from these models.
SAMPLING = [("ddim", 50), ("dpmpp", 20), ("ddpm", 50), ("ddpm", 1000)]
PUBLISHED = ("float32", "ddpm", 1000)
COMMAND = [sys.executable, "run_pipeline.py", "--sizes", SIZES, "--basins", "False"]
COMMAND += ["--device", "cpu"]

Row = dict[str, str]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, default=Path("results/agreement"))
    root = parser.parse_args().root
    rows = {}
    for precision in PRECISIONS:
        models: list[str] = []
        for sampler, steps in SAMPLING:
            folder = root / f"{precision}-{sampler}-{steps}"
            flags = ["--root", folder, "--results-path", folder, "--precision", precision, *models]
            flags += ["--config_path", config_of(root, sampler, steps)]
            subprocess.run([*COMMAND, *map(str, flags)], check=True)
            models = models or ["--models", str(folder / "models")]
            rows[precision, sampler, steps] = rows_of(folder)
    print(table(rows))


def config_of(root: Path, sampler: str, steps: int) -> Path:
    """configs/digits.yaml with another sampler, which has no flag in the pipeline."""
    content = yaml.safe_load(Path("configs/digits.yaml").read_text())
    content["generate"] |= {"sampler": sampler, "steps": steps}
    path = root / f"{sampler}-{steps}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(content))
    return path


def rows_of(folder: Path) -> dict[int, Row]:
    """The rows of identified/summary.csv, by K."""
    with (folder / "identified" / "summary.csv").open() as file:
        return {int(row["K"]): row for row in csv.DictReader(file)}


def table(runs: dict[tuple[str, str, int], dict[int, Row]]) -> str:
    """Markdown: a row for each setting, memorized / spurious / generalized in % for each K."""
    published = runs[PUBLISHED]
    lines = [f"| | {' | '.join(f'K = {k}' for k in published)} |"]
    lines.append(f"| --- |{' --- |' * len(published)}")
    for (precision, sampler, steps), rows in runs.items():
        cells = [" / ".join(share(rows[k], published[k], c) for c in CLASSES) for k in published]
        lines.append(f"| {precision}, {sampler}, {steps} calls | {' | '.join(cells)} |")
    return "\n".join(lines)


def share(row: Row, published: Row, name: str) -> str:
    """A class's share in %, marked if the two 95 % intervals do not overlap."""
    low, high = (
        pick(float(r[f"{name}_{end}"]) for r in (row, published))
        for end, pick in (("low", max), ("high", min))
    )
    return f"{100 * float(row[f'{name}_share']):.0f}{'*' if low > high else ''}"


if __name__ == "__main__":
    main()
