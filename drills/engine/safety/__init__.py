"""Before and beside a run: loading drill files, planning and refusing, the write-ahead journal."""
