"""The command-line tools, called as python -m experiments.NAME."""
