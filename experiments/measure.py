"""python -m experiments.measure: see experiments.commands.measure."""

from experiments.commands.measure import main

if __name__ == "__main__":
    raise SystemExit(main())
