"""What people see of a run: kind-style step lines, and on a terminal one live strip beneath them.

In CI (no terminal) the same events are plain lines, one each, with the seconds since the start. The view never
decides anything, and nothing else of the runner prints.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Protocol

from rich.console import Console
from rich.live import Live
from rich.text import Text

from drills.engine.runner.strip import Strip


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
    """A view that goes quiet for good when its terminal fails: a drill must heal whether anybody can be told or not."""

    def __init__(self, view: View) -> None:
        self._view: View | None = view

    def step(self, text: str) -> None:
        self._say(lambda view: view.step(text))

    def done(self, text: str, ok: bool = True) -> None:
        self._say(lambda view: view.done(text, ok))

    def note(self, text: str) -> None:
        self._say(lambda view: view.note(text))

    def tick(self, strip: Strip) -> None:
        self._say(lambda view: view.tick(strip))

    def _say(self, say: Callable[[View], None]) -> None:
        if self._view is None:
            return
        try:
            say(self._view)
        except (OSError, ValueError, SystemExit):  # closed, full, or gone (rich ends the program on a closed pipe)
            self._view = None


@contextmanager
def view_on(console: Console, *, plain: bool = False, clock: Callable[[], float] = time.monotonic) -> Iterator[View]:
    """The view that fits the console while the block runs: live on a terminal unless ``plain``."""
    if plain or not console.is_terminal:
        yield Steady(PlainView(console, clock=clock))
        return
    live = LiveView(console)
    with ExitStack() as stack:
        with suppress(OSError):
            stack.enter_context(live.shown())
        yield Steady(live)
        with suppress(OSError, ValueError):
            stack.close()
