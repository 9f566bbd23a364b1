"""The table of whoever has no entries yet: one for all, so that an idle connection owns no empty dictionaries."""

from __future__ import annotations

from typing import Any, NoReturn


class Nothing(dict[Any, Any]):
    """An empty dictionary that stays so: whoever gets a first entry replaces it by one of its own."""

    __slots__ = ()

    def _refuse(self, *args: Any, **more: Any) -> NoReturn:
        raise TypeError("this table is shared: make one of your own first")

    __setitem__ = __ior__ = setdefault = update = _refuse


NOTHING = Nothing()
