"""Trust: decide which names in received data may become imported objects."""

from imgrec.trust.policy import (
    Scope,
    Trust,
    allow,
    current,
    declare,
    granted,
    import_named,
    in_own_scope,
    module_named,
    opening,
    reading,
    refuse_unless_trusted,
    reopened,
)

__all__ = [
    "Scope",
    "Trust",
    "allow",
    "current",
    "declare",
    "granted",
    "import_named",
    "in_own_scope",
    "module_named",
    "opening",
    "reading",
    "refuse_unless_trusted",
    "reopened",
]
