"""python -m experiments.submit: see experiments.commands.submit."""

from experiments.commands.submit import main

if __name__ == "__main__":
    raise SystemExit(main())
