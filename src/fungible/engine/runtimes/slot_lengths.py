"""How many tokens each slot of a runtime holds, and the refusals that follow from it."""

from fungible.engine.runtimes.base import RuntimeLimits
from fungible.errors import ContextLengthError, InputError


class SlotLengths(list[int]):
    """Tokens by slot; all slots are empty at first."""

    def __init__(self, limits: RuntimeLimits) -> None:
        super().__init__([0] * limits.slots)
        self._limits = limits

    def require_room(self, slot: int, count: int) -> None:
        """Raise unless the slot exists and takes `count` more tokens.

        Raises:
            ContextLengthError: They do not fit.
            InputError: There is no such slot.
        """
        slots, context = self._limits.slots, self._limits.context
        if not 0 <= slot < slots:
            raise InputError(f"slot {slot} is not one of {slots}")
        if self[slot] + count > context:
            raise ContextLengthError(
                f"slot {slot} holds {self[slot]} of {context} tokens; {count} more do not fit",
                hint="shorten the prompt, or raise the engine's context",
            )

    def require_held(self, slot: int, length: int) -> None:
        """Raise `InputError` unless the slot holds at least `length` tokens."""
        self.require_room(slot, 0)
        if not 0 <= length <= self[slot]:
            raise InputError(f"slot {slot} holds {self[slot]} tokens, not {length}")

    def require_empty(self, slot: int) -> None:
        """Raise `InputError` unless the slot exists and is empty."""
        self.require_room(slot, 0)
        if self[slot]:
            raise InputError(f"slot {slot} holds {self[slot]} tokens; it must be empty")
