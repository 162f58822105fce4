"""One HTML page about a sweep.

    python -m utils.report results/digits
    python -m utils.report --root results/digits --result-path digits.html

The work is in `utils/stages/report/page.py`."""

import sys

from utils.stages.report.page import main

if __name__ == "__main__":
    main(sys.argv[1:])
