"""python -m experiments.describe: see experiments.commands.describe."""

from experiments.commands.describe import main

if __name__ == "__main__":
    raise SystemExit(main())
