"""python -m experiments.publish: see experiments.commands.publish."""

from experiments.commands.publish import main

if __name__ == "__main__":
    raise SystemExit(main())
