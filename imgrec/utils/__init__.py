"""Helpers without a domain: YAML, paths, seeding by position, formatting, optional packages."""
