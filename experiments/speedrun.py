"""python -m experiments.speedrun: see experiments.commands.speedrun."""

from experiments.commands.speedrun import main

if __name__ == "__main__":
    raise SystemExit(main())
