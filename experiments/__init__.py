"""The stages and what surrounds them: plan, store, build, ledger, doctor, describe, tracking."""
