"""Objects of one kind as they were last seen: watch events and answers to own writes in, views out.

The newest resourceVersion wins, whichever way it came. Kept by migrations.py, networks.py and snapshots.py, each for
its own kind; machines and pods are cache.py's.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from typing import Final, Generic, Protocol, TypeVar

from berth.plan.world import Object

Key = tuple[str, str]
"""Namespace and name."""
MOST_GONE: Final = 1000


class Seen(Protocol):
    """An object, read."""

    @property
    def key(self) -> Key: ...
    @property
    def uid(self) -> str: ...
    @property
    def version(self) -> str: ...


T = TypeVar("T", bound=Seen)


class Known(Generic[T]):
    def __init__(self, read: Callable[[Object], T]) -> None:
        self._read = read
        self._known: dict[Key, tuple[int, T, Object]] = {}
        self._gone: dict[str, None] = {}  # uids, the latest last

    def see(self, obj: Object) -> T | None:
        """Keep it; what was read if it is news."""
        found = self._read(obj)
        version, old = int(found.version or 0), self._known.get(found.key)
        if found.uid in self._gone or (old is not None and old[1].uid == found.uid and old[0] >= version):
            return None
        self._known[found.key] = version, found, obj.get("status") or {}
        return found

    def lose(self, key: Key, uid: str | None = None) -> T | None:
        """It is gone; how it was seen last. Nothing when another one has the name, and not that ``uid``."""
        known = self._known.get(key)
        if known is None or (uid is not None and known[1].uid != uid):
            return None
        del self._known[key]
        self._gone[known[1].uid] = None
        if len(self._gone) > MOST_GONE:
            del self._gone[next(iter(self._gone))]
        return known[1]

    def get(self, key: Key) -> T | None:
        known = self._known.get(key)
        return known[1] if known is not None else None

    def stored(self, key: Key) -> Object:
        """The status as the API server has it."""
        known = self._known.get(key)
        return known[2] if known is not None else {}

    def all(self) -> list[T]:
        return [known[1] for known in self._known.values()]

    def versions(self) -> dict[Key, int]:
        return {key: version for key, (version, _, _) in self._known.items()}


class Indexed(Known[T]):
    """Found by the machines that they have to do with, too: each of a machine's reconciles asks. ``by`` tells what one
    is to be found by."""

    def __init__(self, read: Callable[[Object], T], by: Callable[[T], Iterable[Hashable]]) -> None:
        super().__init__(read)
        self._by = by
        self._index: dict[Hashable, set[Key]] = {}

    def see(self, obj: Object) -> T | None:
        meta = obj["metadata"]
        before = self.get((meta["namespace"], meta["name"]))
        found = super().see(obj)
        if found is not None:
            self._let_go(before)
            for what in self._by(found):
                self._index.setdefault(what, set()).add(found.key)
        return found

    def lose(self, key: Key, uid: str | None = None) -> T | None:
        lost = super().lose(key, uid)
        self._let_go(lost)
        return lost

    def found_by(self, what: Hashable) -> list[T]:
        """In no order."""
        return [found for key in self._index.get(what, ()) if (found := self.get(key)) is not None]

    def _let_go(self, known: T | None) -> None:
        if known is None:
            return
        for what in self._by(known):
            keys = self._index.get(what, set())
            keys.discard(known.key)
            if not keys:
                self._index.pop(what, None)
