"""python -m experiments.timing: see experiments.commands.timing."""

from experiments.commands.timing import main

if __name__ == "__main__":
    raise SystemExit(main())
