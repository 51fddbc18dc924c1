"""Write docs/benchmarks from the results in JSON: a page of tables and a plot for each, and an index.

Names of results restrict which plots are drawn. With `--check` nothing is written, and the exit code is 1 if a page
differs from its results. With `--headlines` the five headline results are printed in Markdown.

The script runs no attack. Plots need the extra `docs`, pages do not.
"""

from __future__ import annotations

import argparse
import sys

from tables import generator
from tables.headlines import headlines


def main() -> int:
    """Read the command line, then write, check or print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("names", nargs="*", metavar="NAME", help="results whose plots are drawn")
    parser.add_argument("--check", action="store_true", help="write nothing, exit 1 on differences")
    parser.add_argument("--headlines", action="store_true", help="print the headline results")
    given = parser.parse_args()
    if given.headlines:
        print(headlines("docs/benchmarks/"))
        return 0
    if given.check:
        found = generator.different()
        for name in found:
            print(f"docs/benchmarks/{name} differs: run python benchmarks/pages.py")
        return 1 if found else 0
    generator.write(set(given.names))
    return 0


if __name__ == "__main__":
    sys.exit(main())
