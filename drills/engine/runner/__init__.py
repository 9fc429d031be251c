"""What a run does, in order, and everything that it must undo.

session.py    starts fleet, load, probers and observers; undoes all of it in reverse, whatever happened
traffic.py    the load process and the probers      injector.py   faults: journalled, verified, healed
guarding.py   guards that trip, who asks to stop    watching.py   a run as seen from another terminal
staging.py    a cluster's restore stage by stage
steps.py      carries out the steps of a drill
tail.py       the history so far, for live predicates and the terminal
facts.py      the run header: everything a stranger needs
view.py       what people see meanwhile
run.py        all of it: Plan -> RunOutcome
"""
