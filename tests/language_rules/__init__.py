"""Measurable violations of the wording rules in code, documentation, notebooks and report templates.

::

    python -m tests.language_rules imgrec/losses          # every violation, with its line, and a summary
    python -m tests.language_rules --rule where-if        # one rule
    python -m tests.language_rules --new                  # files that have more violations than accepted
    python -m tests.language_rules --summary              # counts by rule and folder, statistics of the docstrings
    python -m tests.language_rules --update               # lower tests/language_baseline.json to the present counts
    python -m tests.language_rules --moved                # the same after files were moved, merged or split

``tests/language_baseline.json`` holds the accepted number of violations of each file and rule. It only decreases. After
a merge conflict, keep both sides with their markers and run ``--update``. It imports no module of imgrec.
"""
