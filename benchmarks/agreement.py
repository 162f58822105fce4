"""What speed may not change: shares of the three classes by each precision and sampler.

    python -m benchmarks.agreement

Runs the digits sweep by `run_pipeline.py` in results/agreement, trained in float32 and in bfloat16,
sampled from the same seeds by 1,000-step ddpm, 50-step ddim and 20-step dpmpp, and prints a table:
shares in % and, for each K and class, whether all 95 % intervals have a number in common. What is
finished is not done again. About 40 minutes on two cores."""

from __future__ import annotations

import argparse
import csv
import subprocess
import sys
from pathlib import Path

import yaml

from utils.verdicts import CLASSES

PRECISIONS, SIZES = ("float32", "bfloat16"), "2,64,112,256,1500"
# The first is the sampler with which the models are trained and judged; they are used again.
SAMPLERS = {"ddim": 50, "dpmpp": 20, "ddpm": 1000}
COMMAND = [sys.executable, "run_pipeline.py", "--sizes", SIZES, "--basins", "False"]
COMMAND += ["--device", "cpu"]

Row = dict[str, str]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, default=Path("results/agreement"))
    root = parser.parse_args().root
    found = {}
    for precision in PRECISIONS:
        models: list[str] = []
        for sampler, steps in SAMPLERS.items():
            folder = root / f"{precision}-{sampler}"
            own = ["--root", folder, "--results-path", folder, "--precision", precision, *models]
            own += ["--config_path", config_of(root, sampler, steps)]
            subprocess.run([*COMMAND, *map(str, own)], check=True)
            models = ["--models", str(root / f"{precision}-{next(iter(SAMPLERS))}" / "models")]
            found[f"{precision}, {sampler} {steps}"] = rows_of(folder)
    print(table(found))


def config_of(root: Path, sampler: str, steps: int) -> Path:
    """configs/digits.yaml with another sampler: the pipeline takes it from its file alone."""
    content = yaml.safe_load(Path("configs/digits.yaml").read_text())
    content["generate"] |= {"sampler": sampler, "steps": steps}
    path = root / f"{sampler}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(content))
    return path


def rows_of(folder: Path) -> dict[int, Row]:
    """The rows of identified/summary.csv, by K."""
    with (folder / "identified" / "summary.csv").open() as file:
        return {int(row["K"]): row for row in csv.DictReader(file)}


def table(found: dict[str, dict[int, Row]]) -> str:
    """Markdown: a row for each way, memorized / spurious / generalized in % for each K."""
    sizes = list(next(iter(found.values())))
    lines = [f"| | {' | '.join(f'K = {k}' for k in sizes)} |", f"| --- |{' --- |' * len(sizes)}"]
    for name, rows in found.items():
        cells = [
            " / ".join(f"{100 * float(rows[k][f'{c}_share']):.0f}" for c in CLASSES) for k in sizes
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    shared = [
        " / ".join(
            "yes" if agree([rows[k] for rows in found.values()], c) else "no" for c in CLASSES
        )
        for k in sizes
    ]
    return "\n".join([*lines, f"| intervals share a number | {' | '.join(shared)} |"])


def agree(rows: list[Row], name: str) -> bool:
    """Whether some share lies in the 95 % interval of every row."""
    lows, highs = ([float(row[f"{name}_{end}"]) for row in rows] for end in ("low", "high"))
    return max(lows) <= min(highs)


if __name__ == "__main__":
    main()
