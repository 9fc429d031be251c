"""history: the truth of a run, and the records that rooms exchange. Imports no other room.

clock.py     one monotonic clock, one wall-clock anchor
op.py        Op and the vocabulary of sources, kinds and errors
records.py   frozen records in header.json: what assertions and reports know of a run
rundir.py    RunDirectory, Schedule
writer.py    OpWriter: one append-only file a process
files.py     blocks of lines, merge of the parts
reader.py    History, Run: all ops of a run in columns
errors.py    the one exception tree
priority.py  who measures goes first
"""
