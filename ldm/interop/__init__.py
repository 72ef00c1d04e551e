"""Weights of other programs: the names they use, and networks built from their configurations."""
