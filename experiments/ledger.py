"""python -m experiments.ledger: see experiments.commands.ledger."""

from experiments.commands.ledger import main

if __name__ == "__main__":
    raise SystemExit(main())
