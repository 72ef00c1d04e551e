"""python -m experiments.merge: see experiments.commands.merge."""

from experiments.commands.merge import main

if __name__ == "__main__":
    raise SystemExit(main())
