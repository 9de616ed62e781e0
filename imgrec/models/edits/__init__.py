"""Edits: replacements and insertions of layers in a built backbone."""
