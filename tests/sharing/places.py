"""The places where a signal handler can run: an exception is raised at the one with this number.

CPython runs signal handlers after a call of a function in C, at the start of a function and at a jump back;
between other instructions (from the end of ``__enter__`` into the block, say) it does not. A trace function
sees every instruction, so it can raise where a handler could, at each place in turn. What a handler raises
inside a call that waits (``poll``) is not among them.
"""

from __future__ import annotations

import dis
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any, Final, TypeVar

from tests.sharing.tally import Cut

T = TypeVar("T")
_IN: Final = "/wheeltimer/client/"
_CHECKS: Final = frozenset(
    code for name, code in dis.opmap.items() if name.startswith(("CALL", "RESUME")) or "JUMP_BACKWARD" in name
)


class CutAfterCalls:
    """Runs something with ``Cut`` raised at place ``number``, counted from 0, of the client's code."""

    def __init__(self, number: int) -> None:
        self.raised = False
        self._left = number
        self._entered = False  # a function in Python: no handler runs at its end

    def run(self, request: Callable[[], T]) -> T:
        if self.raised:
            return request()
        sys.settrace(self._enter)
        try:
            return request()
        finally:
            sys.settrace(None)

    def _enter(self, frame: FrameType, event: str, arg: Any) -> Any:
        self._entered = True
        if _IN not in frame.f_code.co_filename:
            return None
        frame.f_trace_lines, frame.f_trace_opcodes = False, True
        code, previous = frame.f_code.co_code, -1

        def look(frame: FrameType, event: str, arg: Any) -> Any:
            nonlocal previous
            if event == "opcode":
                returned, self._entered = self._entered, False
                check = previous >= 0 and code[previous] in _CHECKS
                if check and not (returned and dis.opname[code[previous]].startswith("CALL")):
                    self._left -= 1
                    if self._left < 0:
                        self.raised = True
                        sys.settrace(None)
                        raise Cut
                previous = frame.f_lasti
            elif event == "return":
                self._entered = True
            return look

        return look
