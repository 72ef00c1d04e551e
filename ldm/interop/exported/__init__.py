"""Code that exports carry along, for diffusers to load; it knows diffusers and nothing of this program."""
