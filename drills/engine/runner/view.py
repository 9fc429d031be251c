"""What people see of a run: kind-style step lines, and on a terminal one live strip beneath them.

In CI (no terminal) the same events are plain lines, one each, with the seconds since the start. The view never
decides anything, and nothing else of the runner prints.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from queue import SimpleQueue
from typing import Protocol

from rich.console import Console
from rich.live import Live
from rich.text import Text

from drills.engine.runner.strip import Strip

LAST_WORDS_S = 2.0


class View(Protocol):
    """What the runner tells people."""

    def step(self, text: str) -> None:
        """A step begins."""
        ...

    def done(self, text: str, ok: bool = True) -> None:
        """The step that began last has ended; ``text`` says how."""
        ...

    def note(self, text: str) -> None:
        """Something worth a line that is no step."""
        ...

    def tick(self, strip: Strip) -> None:
        """The strip as it stands now."""
        ...


class PlainView:
    """One line an event, for CI and pipes; a sign of life every ``every_s`` during long steps."""

    def __init__(self, console: Console, every_s: float = 10.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._console, self._every_s, self._clock = console, every_s, clock
        self._start = self._last = clock()

    def step(self, text: str) -> None:
        self._line(f"   {text} …")

    def done(self, text: str, ok: bool = True) -> None:
        self._line(f" {'✓' if ok else '✗'} {text}")

    def note(self, text: str) -> None:
        self._line(f"   {text}")

    def tick(self, strip: Strip) -> None:
        if self._clock() - self._last >= self._every_s:
            self._line(f"   {strip}")

    def _line(self, text: str) -> None:
        self._last = self._clock()
        self._console.print(f"{self._last - self._start:7.1f} s {text}", markup=False, highlight=False, soft_wrap=True)


class LiveView:
    """Step lines that stay, and a strip that is redrawn in place."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(Text(""), console=console, refresh_per_second=5, transient=True)
        self._current = ""

    @contextmanager
    def shown(self) -> Iterator[LiveView]:
        """Shows the strip while the block runs."""
        with self._live:
            yield self

    def step(self, text: str) -> None:
        self._current = text
        self._live.update(Text(f" … {text}", style="bold"))

    def done(self, text: str, ok: bool = True) -> None:
        mark, style = ("✓", "green") if ok else ("✗", "red")
        self._console.print(Text.assemble((f" {mark} ", style), text))
        self._live.update(Text(""))

    def note(self, text: str) -> None:
        self._console.print(Text(f"   {text}", style="dim"))

    def tick(self, strip: Strip) -> None:
        text = Text.assemble(
            (f" … {self._current}\n", "bold"), (f"   {strip}", "cyan"), no_wrap=True, overflow="ellipsis"
        )
        self._live.update(text)


class Steady:
    """Tells a view from a thread of its own: a drill must heal whether its terminal takes a line, stalls, or is gone.

    Safe to call from a signal handler. A view that raises is told no more. A context manager: the end waits at most
    ``LAST_WORDS_S`` for what is still to be told.
    """

    def __init__(self, view: View) -> None:
        self._calls: SimpleQueue[Callable[[View], None] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._tell, args=(view,), name="view", daemon=True)

    def __enter__(self) -> Steady:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._calls.put(None)
        self._thread.join(LAST_WORDS_S)

    def step(self, text: str) -> None:
        self._calls.put(lambda view: view.step(text))

    def done(self, text: str, ok: bool = True) -> None:
        self._calls.put(lambda view: view.done(text, ok))

    def note(self, text: str) -> None:
        self._calls.put(lambda view: view.note(text))

    def tick(self, strip: Strip) -> None:
        if self._calls.empty():  # an old strip is worth nothing
            self._calls.put(lambda view: view.tick(strip))

    def _tell(self, view: View) -> None:
        while (say := self._calls.get()) is not None:
            try:
                say(view)
            except (OSError, ValueError, SystemExit):  # closed, full, or gone (rich ends a program on a closed pipe)
                return


@contextmanager
def view_on(console: Console, *, plain: bool = False, clock: Callable[[], float] = time.monotonic) -> Iterator[View]:
    """The view that fits the console while the block runs: live on a terminal unless ``plain``."""
    if plain or not console.is_terminal:
        yield PlainView(console, clock=clock)
        return
    live = LiveView(console)
    with ExitStack() as stack:
        with suppress(OSError):
            stack.enter_context(live.shown())
        yield live
        with suppress(OSError, ValueError):
            stack.close()
