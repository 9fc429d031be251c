"""Before, during and after a run: what may be done, what was done, and how it is undone whoever dies.

loader.py     drill files, never imported by name           plan.py      a drill made concrete and checked
refusals.py   reasons not to start; lookalike.py: names     expect.py    what the forecast says of the objectives
custody.py    what the runner calls during a run: lock, journal, ledger, dead man
lock.py       who holds which targets, outliving them       journal.py   intents on disk before each injection
ledger.py     who did what to which cluster; webhook        restore.py   heals what a dead run left
watchdog.py   restores when the harness died and nobody came
"""
