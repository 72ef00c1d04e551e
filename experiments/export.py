"""python -m experiments.export: see experiments.commands.export."""

from experiments.commands.export import main

if __name__ == "__main__":
    raise SystemExit(main())
