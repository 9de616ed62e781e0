"""Measurable violations of the wording rules in code, documentation, notebooks and report templates.

``python -m tests.language_rules [PATH ...]`` prints every violation and a summary per folder. It imports no module of
the package that it checks.
"""
