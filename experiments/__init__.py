"""The stages and what surrounds them: plan, store, build, ledger, doctor, describe, tracking."""

import os

# Threads that wait for each other spin only briefly: little slower on an idle machine, if at all, and several times as
# fast on one that also does something else (docs/performance.md). Read when torch is first imported.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
