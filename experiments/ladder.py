"""python -m experiments.ladder: see experiments.commands.ladder."""

from experiments.commands.ladder import main

if __name__ == "__main__":
    raise SystemExit(main())
