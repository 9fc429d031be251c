"""assertions: pure functions that turn a history into verdicts. Imports ``history`` only.

result.py      Result and its records: what reports read
analyze.py     analyze: Run -> Result; encode_result, decode_result, result_schema
live.py        predicates that end a step: all_recovered, all_failed_back
case.py        Case: one run under judgement; windows.py its edges, scopes.py its load, judged good, bad, unknown
holds.py       ops_needed, certified holds, relapses: all the statistics
recovery.py    service back and recovered, as intervals       warmth.py        warm
phases.py      the phase clock from events                    telemetry.py     what Prometheus answered
failback.py    is everything home after the restore           canary.py        what new connections met
objectives.py  one checker an indicator                       event_checks.py  those that events and counters answer
measure.py     what a checker found, or why it cannot         headline.py      verdict, reasons, the one sentence
validity.py    was the measurement sound                      happened.py      did it really happen
"""

from assertions.analyze import analyze, decode_result, encode_result, result_schema
from assertions.result import Result

__all__ = ["Result", "analyze", "decode_result", "encode_result", "result_schema"]
