"""Write docs/benchmarks from the results in JSON: a page of tables and a plot for each, and an index.

Names of results restrict which plots are drawn. With `--check` nothing is written, and the exit code is 1 if a page
differs from its results. It is 2, and no page is changed, if a file of results is damaged.
With `--headlines` the five headline results are printed in Markdown.

The script runs no attack. Plots need the extra `docs`, pages do not.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tables import generator
from tables.documents import RESULTS, Damaged, names


def main() -> int:
    """Read the command line, then write, check or print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("names", nargs="*", metavar="NAME", help="results whose plots are drawn")
    parser.add_argument("--check", action="store_true", help="write nothing, exit 1 on differences")
    parser.add_argument("--headlines", action="store_true", help="print the headline results")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the results")
    parser.add_argument("--pages", type=Path, default=generator.FOLDER, help="folder of the pages")
    given = parser.parse_args()
    try:
        unknown = set(given.names) - set(names(given.results))
        if unknown:
            parser.error(
                f"expected names of files in {given.results}, found {', '.join(sorted(unknown))}. "
                "Name a file there, without .json."
            )
        return work(given)
    except Damaged as error:
        print(error, file=sys.stderr)
        return 2


def work(given: argparse.Namespace) -> int:
    """Write, check or print, and return the exit code."""
    if given.headlines:
        print(generator.lead(given.results))
        return 0
    if given.check:
        found = generator.different(given.results, given.pages)
        for name in found:
            print(f"{given.pages / name} differs: run python benchmarks/pages.py")
        return 1 if found else 0
    generator.write(set(given.names), given.results, given.pages)
    return 0


if __name__ == "__main__":
    sys.exit(main())
