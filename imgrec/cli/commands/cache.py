"""``imgrec cache``: manage the caches of decoded images on this machine."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from imgrec.cli.parser import Parser
from imgrec.errors import UserError, suggestion
from imgrec.utils.terminal import print

if TYPE_CHECKING:
    from imgrec.data.cache.registry import StoredCache


def run(command: str, words: list[str]) -> int:
    """List caches, compare their contents with their checksums, delete them, or limit their total size."""
    parser = Parser(
        prog="imgrec cache",
        description="Manage the caches of decoded images, in IMGREC_CACHE or ~/.cache/imgrec.",
    )
    actions = parser.add_subparsers(dest="action", required=True)
    actions.add_parser("list", help="list the content and the size of each cache")
    verify = actions.add_parser(
        "verify", help="compare every image with its checksum (exit status 1 if one is damaged)"
    )
    clear = actions.add_parser("clear", help="delete caches, which are built again on use")
    for each in (verify, clear):
        each.add_argument("name", nargs="*", help="name of a cache, or its first characters (default: all)")
    limit = actions.add_parser(
        "limit",
        help="print or set the limit on the total size of all caches",
        description="Print the limit on the total size of all caches, or set it and remove the least recently used "
        "caches above it. A cache that is in use is never removed. IMGREC_CACHE_LIMIT takes "
        "precedence. The default is 50%.",
    )
    limit.add_argument("size", nargs="?", help="20GB, 500MiB, or 30%% of the sum of free space and caches")
    arguments = parser.parse_args(words)
    if arguments.action == "limit":
        return _limit(arguments.size)

    from imgrec.data.cache.registry import cache_root, stored_caches

    found = stored_caches()
    selected = _select(found, getattr(arguments, "name", []))
    if not found:
        print(f"no cache in {cache_root()}")
        return 0
    return {"list": _list, "verify": _verify, "clear": _clear}[arguments.action](selected)


def _select(found: list[StoredCache], names: list[str]) -> list[StoredCache]:
    for name in names:
        if not any(cache.name.startswith(name) for cache in found):
            known = [cache.name for cache in found]
            raise UserError(f'there is no cache "{name}".{suggestion(name, known)} See `imgrec cache list`.')
    return [cache for cache in found if not names or cache.name.startswith(tuple(names))]


def _list(found: list[StoredCache]) -> int:
    from imgrec.data.cache.limit import describe_total

    for cache in found:
        about = cache.problem or _about(cache.meta)
        used = datetime.fromtimestamp(cache.last_used, tz=UTC).date().isoformat()
        print(f"{cache.name}  {_size(cache):>10}  used {used}  {about}")
    print(describe_total(found))
    return 0


def _limit(size: str | None) -> int:
    from imgrec.data.cache.limit import describe_total, make_room, store_limit
    from imgrec.data.cache.registry import stored_caches

    if size is not None:
        store_limit(size)
        kept = make_room(0)
        if not kept:
            print("the remaining caches are in use. The limit applies when the next cache is written")
    print(describe_total(stored_caches()))
    return 0


def _about(meta: dict[str, Any]) -> str:
    bad = f", {len(meta['bad'])} of them unreadable" if meta["bad"] else ""
    return f"{meta['created'][:10]}  {meta['images']:,} images ({meta['plan']}){bad} of {meta['source']}"


def _size(cache: StoredCache) -> str:
    return f"{cache.size / 2**20:,.1f} MiB"


def _verify(found: list[StoredCache]) -> int:
    from imgrec.data.cache.registry import verify

    damaged = 0
    for cache in found:
        problems = list(verify(cache))
        damaged += bool(problems)
        print(f"{cache.name}  {'intact' if not problems else f'{len(problems)} damaged'}")
        for problem in problems[:5]:
            print(f"  {problem}")
    return 1 if damaged else 0


def _clear(found: list[StoredCache]) -> int:
    from imgrec.data.cache.registry import clear

    for cache in found:
        size = _size(cache)
        clear(cache)
        print(f"deleted {cache.name}  {size}")
    return 0
