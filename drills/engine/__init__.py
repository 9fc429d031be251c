"""drills.engine: the only room that knows all the others.

nouns/      what a drill script is made of: Drill, steps, faults, objectives; values, no side effects
safety/     loading, planning and refusing before; the journal during
runner/     what a run does, in order, and everything that it must undo
commands/   the command line: one command a file
"""
