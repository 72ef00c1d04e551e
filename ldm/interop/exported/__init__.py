"""Code that exports carry along, for diffusers to load; it imports diffusers and nothing of this program."""
