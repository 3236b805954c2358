"""What a task may spend and what it has spent.

A batch is reserved whole before its first call: if the most it can cost does not fit into what is left, nothing of it
is sent and `BudgetExhausted` is raised. What was really used is charged afterwards, in the order of submission, so that
sums of money are the same to the last bit whatever the order in which answers came.

A try that was paid without a usable answer is no part of the logical account, which is the same whatever a provider
does; it is billed, it counts under every limit, and the next try of the call needs room of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from operator import add

from utils.errors import BudgetExhausted
from utils.records import Accounts, Budget, Role, Spend, StopReason, Usage


class Ledger:
    """The books of one task; one budget, two columns."""

    def __init__(self, budget: Budget | None = None) -> None:
        self.budget = budget
        self.logical = Spend()
        self.billed = Spend()
        self._wasted = Spend()  # paid for tries that gave no usable answer: billed, and under the limits
        self._reserved = Spend()  # the most that the present batch can take

    @property
    def accounts(self) -> Accounts:
        return Accounts(self.logical, self.billed)

    def reserve(self, role: Role, ceilings: Sequence[tuple[Usage, float | None]], elapsed_s: float) -> None:
        """Make sure that these calls fit, whatever they turn out to cost. Raises BudgetExhausted."""
        if self.budget is None:
            return
        for reason, used, wanted, limit in self._limits(role, ceilings, elapsed_s):
            # added up as `charge` will do it: a sum in another order may be smaller by a rounding
            if limit is not None and reduce(add, wanted, used) > limit:
                left = max(0, limit - used)
                raise BudgetExhausted(reason, f"{reason}: {sum(wanted):g} wanted, {left:g} of {limit:g} left")
        self._reserved = sum((Spend.of_waste(usage, usd) for usage, usd in ceilings), Spend())

    def refuse_late(self, elapsed_s: float) -> None:
        """Raise BudgetExhausted once the time is over: asked before every call, for a batch may take long."""
        limit = self.budget.seconds if self.budget else None
        if limit is not None and elapsed_s > limit:
            raise BudgetExhausted(StopReason.BUDGET_SECONDS, f"{elapsed_s:g} s of {limit:g} s are over")

    def bears_another(self, usage: Usage, usd: float | None) -> bool:
        """True where one more try of a call fits beside all that is reserved; it is reserved then."""
        if self.budget is None:
            return True
        reserved = self._reserved + Spend.of_waste(usage, usd)
        total = self.logical + self._wasted + reserved
        money = total.usd if total.usd is not None else float("inf")
        for used, limit in ((total.tokens, self.budget.tokens), (money, self.budget.usd)):
            if limit is not None and used > limit:
                return False
        self._reserved = reserved
        return True

    def charge(self, spend: Spend, billed: Spend, wasted: Spend | None = None) -> None:
        """Enter one call that was answered, or that failed for good, and what its tries without an answer took."""
        wasted = wasted or Spend()
        self.logical = self.logical + spend
        self.billed = self.billed + billed + wasted
        self._wasted = self._wasted + wasted

    def _limits(
        self, role: Role, ceilings: Sequence[tuple[Usage, float | None]], elapsed_s: float
    ) -> list[tuple[StopReason, float, Sequence[float], float | None]]:
        assert self.budget is not None
        spent = self.logical + self._wasted
        tokens = sum(usage.tokens_in + usage.tokens_out for usage, _ in ceilings)
        # an unknown price cannot be shown to fit under a limit of money
        prices = [price if price is not None else float("inf") for _, price in ceilings]
        optimizer_calls = self.budget.optimizer_calls
        rows: list[tuple[StopReason, float, Sequence[float], float | None]] = []
        if role is Role.TASK:
            rows.append((StopReason.BUDGET_CALLS, spent.task_calls, [len(ceilings)], self.budget.task_calls))
        if role is Role.OPTIMIZER:
            limit = self.budget.task_calls if optimizer_calls is None else optimizer_calls
            rows.append((StopReason.BUDGET_CALLS, spent.optimizer_calls, [len(ceilings)], limit))
        rows.append((StopReason.BUDGET_TOKENS, spent.tokens, [tokens], self.budget.tokens))
        usd = spent.usd if spent.usd is not None else float("inf")
        rows.append((StopReason.BUDGET_USD, usd, prices, self.budget.usd))
        rows.append((StopReason.BUDGET_SECONDS, elapsed_s, [], self.budget.seconds))
        return rows
