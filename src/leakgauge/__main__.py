"""Entry point of `python -m leakgauge`."""

from leakgauge.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
