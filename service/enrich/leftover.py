"""How is a call made for which no webhook waits? With what is left over of everybody's budget."""

from collections.abc import Callable

from service.enrich.budget import Budget, load_spare_prelude
from service.store.group import GroupCommit
from service.store.keys import Keys
from service.store.script import load_script


class SpareBudget(Budget):
    """The same budget, of which a call is taken only while nothing is due and enough is left."""

    def __init__(
        self, group: GroupCommit, *, keys: Keys, share: float, rng: Callable[[], float]
    ) -> None:
        super().__init__(group, keys=keys, share=share, rng=rng)
        self._acquire = load_script(__package__, "spare", prelude=load_spare_prelude())
        self._acquire_keys = (*self._acquire_keys, keys.backlog)
