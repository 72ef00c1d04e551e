"""python -m experiments.doctor: see experiments.commands.doctor."""

from experiments.commands.doctor import main

if __name__ == "__main__":
    raise SystemExit(main())
