"""Verbs that may begin the docstring of a function."""

from __future__ import annotations


def words(text: str) -> frozenset[str]:
    """Return the words of a text."""
    return frozenset(text.split())


VERBS = words(
    """
    accept accumulate activate adapt add adjust aggregate align allocate allow analyze append apply assemble assert
    assign attach audit augment average backpropagate balance benchmark bind blend block blur bound broadcast build
    cache calculate calibrate call cancel capture cast change check choose clamp clean clear clip clone close collapse
    collate collect combine compare compile compress compute concatenate configure connect construct consume continue
    convert convolve copy correct count cover create crop cut decay decide decode decompose decorate decrease deepcopy
    default define delay delete denormalize dequantize derive describe deserialize detach detect determine disable
    disallow discard dispatch display distill distribute divide download downsample draw drop dump duplicate embed
    emit enable encode enforce ensure enter enumerate erase escape estimate evaluate exchange exclude execute exit
    expand export extend extract fall feed fetch fill filter finalize find finish fit fix flatten flip flush fold
    follow force format forward free freeze fuse gather generate get go group guard handle hash hide hold identify
    ignore implement import include increase increment index infer inherit initialize insert inspect install
    interpolate interrupt invert issue iterate join jump keep label launch leave limit link list load locate lock log
    lower make map mark mask match materialize maximize measure merge migrate mimic minimize mirror mix modify monitor
    move multiply name normalize notify obtain open optimize order override pack pad parse partition pass patch pause
    penalize perform permute perturb pick pin place plan plot pool pop populate postprocess predict prefetch prefix
    prepare preprocess preserve prevent print probe process produce project propagate prove provide prune publish pull
    push put quantize query queue raise rank read rebuild recompute reconstruct record recover redirect reduce refer
    refine refresh refuse register reinitialize reject release reload remap remove rename render reorder repeat
    replace replay report request require reset reshape resize resolve restart restore restrict resume retain retrieve
    retry return reuse reverse revert rewind rewrite rotate round route run sample save scale scan schedule score
    search seed select send separate serialize set share shift show shrink shuffle shut silence simplify simulate
    skip slice smooth solve sort specify split stack standardize start stop store stratify stream strip submit subtract
    suggest sum summarize suppress swap switch synchronize take terminate test tie time toggle tokenize trace track
    train transfer transform translate transpose trim truncate try tune turn undo unfold unfreeze uninstall unload
    unlock unpack unregister unscale untie unwrap update upload upsample use validate verify visualize wait walk warm
    warn watch weight widen wrap write yield zero
    """
)
"""Imperative verbs. Add a verb that the documentation of PyTorch, torchmetrics or timm uses in this position."""

NOUNS = words(
    """
    audit average balance batch benchmark blend block blur bound cache call cast change check clip clone copy count
    cover crop cut decay default delay display draw drop dump embed estimate exchange exit export extract feed fill
    filter fit fix flip fold force format freeze group guard handle hash hold import increase increment index insert
    issue join jump label launch limit link list load lock log make map mark mask match measure merge mirror mix
    monitor move name order override pack pad pass patch pause pick pin place plan plot pool pop prefix print probe
    process produce project pull push query queue raise rank read record reduce release repeat replay report request
    reset rotate round route run sample scale scan schedule score search seed set share shift show skip slice smooth
    sort split stack start stop store stream strip sum swap switch take test tie time trace track train transfer
    transform try tune turn update use wait walk watch weight wrap write yield zero
    clean clear close free lower open separate smooth warm complete present slow dry empty
    """
)
"""Verbs that are nouns or adjectives as well: they are verbs if a determiner follows."""


def third_person(verb: str) -> str:
    """Return the third person of a verb.

    >>> third_person("apply"), third_person("match"), third_person("keep")
    ('applies', 'matches', 'keeps')
    """
    if verb.endswith(("s", "x", "z", "ch", "sh", "o")):
        return verb + "es"
    if verb.endswith("y") and verb[-2] not in "aeiou":
        return verb[:-1] + "ies"
    return verb + "s"


_LITERARY = words(
    "say tell know hear give begin become bring note end let go do have see stand lie ask forget remember"
)
_OTHERS = words("compensate look refuse need spare carry hand blot bend paste sharpen rotate")
THIRD_PERSON = {third_person(verb): verb for verb in {*VERBS, *_LITERARY, *_OTHERS}} | {"has": "have"}
"""Base form of every verb in the third person."""

DETERMINERS = words("a an the each every all any its their this these no some")


def is_verb(first: str, second: str) -> bool:
    """Return True if the first of two words is a verb, in the imperative or in the third person.

    >>> is_verb("weights", "of"), is_verb("scales", "each"), is_verb("computes", "gradients")
    (False, True, True)
    """
    base = THIRD_PERSON.get(first, first if first in VERBS else None)
    if base is None:
        return False
    return base not in NOUNS or second in DETERMINERS
