"""Control-C during work that has an answer at any time."""

from __future__ import annotations

import logging
import signal
import threading
from types import FrameType, TracebackType
from typing import Any

_LOG = logging.getLogger(__name__)


class HeldInterrupts:
    """Holds an interrupt back until the piece of work in hand is done, so that nothing is left half done.

    A second interrupt is not held back. Of no effect outside of the main thread, or where interrupts have a handler
    that is not Python's own.

    Args:
        wanted: Whether to hold anything back.
    """

    def __init__(self, wanted: bool) -> None:
        self._wanted, self._came = wanted, False
        self._before: Any = None

    def __enter__(self) -> HeldInterrupts:
        ours = threading.current_thread() is threading.main_thread()
        if self._wanted and ours and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            self._before = signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def raise_if_any(self) -> None:
        """Raises KeyboardInterrupt if one was held back."""
        if self._came:
            raise KeyboardInterrupt

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._came:
            raise KeyboardInterrupt
        self._came = True
        _LOG.warning("interrupted: stopping after this piece of work; once more stops at once")
