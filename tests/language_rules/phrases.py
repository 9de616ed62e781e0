"""Words and phrases that the wording rules exclude from prose, each with its replacement."""

from __future__ import annotations

import re

END = r"(?=\s*(?:[.;,:)]|$))"
_IS = r"(?:is|are|was|were|has|have|had|does|do|did|can|cannot|could|may|would)"
_LOCATED = (
    r"(?:\s+(?:not\s+)?(?:stored|written|saved|located|kept|found|defined|placed|called|put|declared|created|read|"
    r"loaded|installed|cached))"
)

PHRASES: dict[str, list[tuple[str, str]]] = {
    "personification": [
        (r"say|says|said|saying", "return, report, describe, specify, for example"),
        (r"tells?|told|telling", "report, pass, distinguish"),
        (r"hears?|heard", "receive"),
        (r"knows|knew", "contain, support, have access to"),
        (r"know", "contain, support, have access to"),
        (r"wants|wanted|for want of", "require, request"),
        (r"want", "require, request"),
        (r"likes|liked", "prefer, accept"),
        (r"asks|asked", "request, query, require"),
        (r"remembers|forgets|forgot|forgotten|believes?|thinks|thought|speaks?|spoken|cares", "store, reset, predict"),
    ],
    "where-if": [
        (r"(?:only|except|even|but|unless|save|not|or)\s+where", "if, when"),
        (rf"where\s+there\s+{_IS}", "if there is"),
        (r"where\s+(?:none|nothing|no|neither|nobody|any|several|both)", "if none, if nothing"),
        (r"where\s+(?:given|asked|wanted|known|left|set|missing|needed|due|so)", "if given"),
        (rf"where\s+(?:it|they|that|this|one|you)\s+{_IS}(?!{_LOCATED})", "if it is"),
        (r"(?:None|null|NaN|none|nothing|True|False)(?:``?)?\s+where", "None if"),
        (r"Error`?\s+where", "raise an error if"),
    ],
    "what": [
        (
            r"(?:of|from|with|by|for|in|to|on|into|than|as|and|or|is|are|only|but|that|like|just|behind|after|before|"
            r"beside|all|at|also)\s+what(?!\s+(?:to|happens|if|extent))",
            "the standard noun: values, weights, entries that ...",
        ),
    ],
    "else": [
        (
            r"(?<!thing )(?<!thing\n)(?<!body )(?<!one )(?<!little )(?<!if/)(?<!an )else(?!\s+(?:branch|clause))(?!-)",
            "otherwise",
        )
    ],
    "anew": [(r"anew", "again, from scratch")],
    "place-of": [(r"in\s+the\s+place\s+of|in\s+(?:its|their)\s+place", "instead of, replaces")],
    "beside": [(r"besides?", "in addition to, next to")],
    "go-on": [(r"go(?:es)?\s+on|going\s+on|went\s+on|gone\s+on", "resume, continue")],
    "stands-lies": [
        (r"stands?(?!\s+(?:for|out)\b)|stood", "is, is stored, is located"),
        (r"lies|lain|lying|lay(?!\s*(?:out|er))", "is, is between"),
    ],
    "so-many": [(r"so\s+(?:many|much|few|often)", "`n`, the given number of")],
    "cannot-be": [(rf"(?:cannot|can\s+not|could\s+not)\s+be{END}", "invalid, out of range")],
    "nobody": [
        (r"nobody|somebody|whoever", "no process, another process, the caller"),
        (r"whatever|wherever", "any, for every"),
    ],
    "of-own": [(r"of\s+(?:its|their|one's|his|your|our)\s+own", "own, separate, custom")],
    "idiom": [
        (r"for\s+nothing", "without effect, for free"),
        (r"let(?:s|ting)?\s+go", "release"),
        (r"any\s*more(?!\s+than)", "no longer"),
        (r"once\s+more", "again"),
        (r"for\s+good", "permanently"),
        (r"at\s+will", "repeatedly, at any time"),
        (r"means?\s+nothing|meant\s+nothing", "matches nothing, is undefined"),
        (rf"(?:has|have|had)\s+not{END}", "complete the clause: is not set, has no label"),
        (
            r"(?:left|leaves?|stays?|kept|keeps?|taken|takes?|remains?|read|are|is|it)\s+as\s+(?:it|they)\s+"
            r"(?:is|are|was|were)",
            "unchanged",
        ),
        (r"what\s+comes\s+out|comes\s+to\s+nothing|made\s+of\s+it", "output, result"),
        (r"the\s+house|rooms|(?:a|its|each|every|which)\s+room(?!\s+for)|the\s+room\s+(?:that|which|of)", "package"),
        (r"hardly|scarcely|surely|likewise|thereof|therein|whereof|wherein|therewith", "almost no, also"),
        (
            r"none\s+(?:the\s+less|of\s+its)|no\s+matter|by\s+and\s+by|so\s+far\s+as|far\s+from|in\s+spite\s+of",
            "despite",
        ),
        (r"by\s+heart|at\s+heart|in\s+vain|for\s+ever|ere|lest", "to avoid"),
    ],
    "per": [
        (
            r"(?:one|two|three|four|some|[2-9]|\d\d+)\s+(?:(?!of|for|in|on|to|at|by|from|with|per|or|and|is|if|as|than|into|"
            r"after|before|that|has|have|are|was|gives?|not|when|where|which|makes?|take[sn]?|be|cannot)\w+\s+)?an?\s+"
            r"(?:image|class|epoch|step|sample|batch|layer|channel|frequency|weight|row|file|run|idea|loss|member|"
            r"model|process|pixel|second|minute|core|technique|split|group|unit|tensor|column|name|key)",
            "per image, for each class",
        ),
    ],
}

_WORDS = {
    rule: [(re.compile(rf"(?<![\w-])(?:{pattern})(?![\w])", re.IGNORECASE), hint) for pattern, hint in found]
    for rule, found in PHRASES.items()
}
_PEOPLE = re.compile(r"\b(?:we|you|users?|people|researchers?|readers?|who|to|don't)\b[\w' ]{0,18}$", re.IGNORECASE)
_LOCATION = re.compile(
    r"\b(?:device|folder|directory|file|place|position|point|location|layer|line|row|column|epoch|step|page|node|machine|"
    r"pixels?|regions?|images?|case|cases|example)s?,?\s+$",
    re.IGNORECASE,
)
_SENTENCE_WHERE = re.compile(r"(?:^|[.!?:;]\s+)(Where)\s+(?![^.]*\?)[^.?]*,")
_SENTENCE_WHAT = re.compile(r"[.!;]\s+(What)\s+(?![^.]*\?)")


def find_phrases(text: str) -> list[tuple[str, int, int, str]]:
    """Return rule, start, end and replacement of every excluded phrase in ``text``.

    >>> [(rule, start) for rule, start, end, hint in find_phrases("None where it says so. Read anew.")]
    [('personification', 14), ('where-if', 0), ('anew', 28)]
    """
    found = []
    for rule, patterns in _WORDS.items():
        taken: list[tuple[int, int]] = []
        for pattern, hint in patterns:
            for match in pattern.finditer(text):
                if rule == "where-if" and match[0].startswith("where") and _LOCATION.search(text[: match.start()]):
                    continue
                if match[0].lower() in ("know", "want") and _PEOPLE.search(text[: match.start()]):
                    continue
                if all(match.end() <= start or end <= match.start() for start, end in taken):
                    taken.append(match.span())
                    found.append((rule, *match.span(), hint))
    starts = {start for rule, start, _, _ in found if rule == "where-if"}
    conditions = [match for match in _SENTENCE_WHERE.finditer(text) if match.start(1) not in starts]
    found += [("where-if", *match.span(1), "if, when") for match in conditions]
    found += [("what", *match.span(1), "a noun phrase") for match in _SENTENCE_WHAT.finditer(text)]
    return found
