"""Measurable violations of the wording rules in code, documentation, notebooks and report templates.

::

    python -m tests.language_rules imgrec/losses          # every violation, with its line, and a summary
    python -m tests.language_rules --rule where-if        # one rule
    python -m tests.language_rules --summary              # counts by rule and folder, statistics of the docstrings

The test allows no violation. The tool imports no module of imgrec.
"""
