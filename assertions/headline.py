"""The one sentence on top of a result, and its reasons: words that a director understands.

Called by ``analyze`` last, when every figure is known; computes nothing of its own.
"""

from __future__ import annotations

from assertions.case import Case
from assertions.result import Check, ModelRecovery, ObjectiveResult, Verdict, ends_open
from assertions.validity import INCIDENTS, READABLE
from history.clock import NS_PER_S


def verdict(checks: tuple[Check, ...], objectives: tuple[ObjectiveResult, ...]) -> Verdict:
    """Invalid or not happened: unknown. Else fail > unknown > pass; a drill without objectives is unknown."""
    if not objectives or any(check.verdict != "pass" for check in checks):
        return "unknown"
    verdicts = {objective.verdict for objective in objectives}
    if "fail" in verdicts:
        return "fail"
    return "unknown" if "unknown" in verdicts else "pass"


def reasons(
    checks: tuple[Check, ...], objectives: tuple[ObjectiveResult, ...], models: dict[str, ModelRecovery]
) -> tuple[str, ...]:
    """Why the verdict is not a pass, causes before their consequences; empty for a pass."""
    causes = [_cause(check) for check in checks if check.verdict != "pass"]
    if not objectives:
        causes.append("the drill has no objectives: nothing was promised, nothing can be kept")
    failed = [_objective(o, models) for o in objectives if o.verdict == "fail"]
    open_ = [o for o in objectives if o.verdict == "unknown"]
    if causes and len(open_) > 1:
        names = list(dict.fromkeys(o.name for o in open_))
        shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more objectives" if len(names) > 3 else "")
        return (*dict.fromkeys(causes + failed), f"so {len(open_)} results are not proven: {shown}")
    return tuple(dict.fromkeys(causes + failed + [_objective(o, models) for o in open_]))


def _objective(o: ObjectiveResult, models: dict[str, ModelRecovery]) -> str:
    state = "not kept" if o.verdict == "fail" else "not proven"
    text = f"{o.name} ({o.scope}) {state}: {o.text}, limit {o.limit:g} {o.unit}".rstrip()
    model = models.get(o.scope)
    why = model.unplaceable if model else ""
    parts = [text, o.evidence] if o.evidence else [text]
    if why and why not in o.evidence:
        parts.append(why)
    return "; ".join(parts)


def headline(
    case: Case,
    result: Verdict,
    checks: tuple[Check, ...],
    objectives: tuple[ObjectiveResult, ...],
    fleet: ModelRecovery | None,
    models: dict[str, ModelRecovery],
) -> str:
    """What happened, in one or two sentences."""
    broken = [check for check in checks if check.verdict != "pass"]
    if case.edges.injected is None or fleet is None:
        damaged = [check for check in broken if check.name == READABLE]
        return f"Nothing is known: {damaged[0].detail}." if damaged else "Nothing happened: no fault was injected."
    deed = _deed(case)
    marks = case.run.header.faults
    if marks and all(mark.noop for mark in marks):
        return f"Nothing happened: {deed}."
    scopes = {"fleet": fleet, **models}
    open_ = {name for name, scope in scopes.items() if ends_open(name, scope, objectives, result)}
    told = f"{deed}{_recovery_in_words(fleet, models, case.edges.seconds(case.edges.fault_end), open_)}"
    return f"{told} The measurement does not count: {_cause(broken[0])}." if broken else told


def _cause(check: Check) -> str:
    return check.detail if check.name in INCIDENTS else f"{check.name}: {check.detail}"


def _deed(case: Case) -> str:
    """What was done to whom, in the faults' own words; a no-op beside a real fault is not worth a word."""
    at = f"{(case.edges.zero - case.edges.start) / NS_PER_S:.1f} s into the load"
    victims = " and ".join(case.edges.victims) or "no cluster"
    marks = case.run.header.faults
    if all(mark.noop for mark in marks):
        return f"{victims} was {'left alone' if marks else 'hit'} {at}"
    deeds = [mark.label or f"{mark.cluster} was hit ({mark.kind})" for mark in marks if not mark.noop]
    return f"{' and '.join(dict.fromkeys(deeds))} {at}"


def _recovery_in_words(
    fleet: ModelRecovery, models: dict[str, ModelRecovery], observed_s: float, open_: set[str]
) -> str:
    hit = {name: m for name, m in models.items() if not m.unaffected and m.sent}
    if not hit and fleet.unaffected:
        return "; no request failed."
    back = None if fleet.service_back_s is None else fleet.service_back_s[1]
    seen = "proven" if "fleet" in open_ else "seen"
    served = "the fleet never stopped serving" if fleet.unaffected else f"the fleet was not {seen} to serve again"
    if back is not None:
        served = f"the fleet served again after {_s(back)}"
    lost = {name: m for name, m in hit.items() if m.recovered_s is None or m.recovered_s[1] is None}
    fell = {name: m for name, m in hit.items() if m.relapsed}
    if lost:
        return f"; {served}. {_did_not(lost, observed_s, open_)}"
    ends = {name: m.recovered_s[1] for name, m in hit.items() if m.recovered_s and m.recovered_s[1] is not None}
    if not ends:
        return f"; {served} and stayed there."
    last = max(ends, key=lambda name: (ends[name], name))
    many = "the last model" if len(ends) > 1 else "the only model hit"
    recovered = f"{many} ({last}) had recovered after {_s(ends[last])}"
    if fell:
        return f"; {recovered}, but {_names(fell)} failed again later."
    return f"; {served} and {recovered} and stayed so."


def _did_not(lost: dict[str, ModelRecovery], observed_s: float, open_: set[str]) -> str:
    reasons = {name: m.unplaceable for name, m in lost.items() if m.unplaceable}
    missed, unproven = ({n: m for n, m in lost.items() if (n in open_) is so} for so in (False, True))
    parts = [f"{_names(missed)} did not recover"] if missed else []
    parts += [f"{_names(unproven)} could not be proven to recover"] if unproven else []
    text = f"{', and '.join(parts)} in the {_s(observed_s)} observed"
    if reasons:
        text += ": " + "; ".join(f"{name} {why}" if len(lost) > 1 else why for name, why in reasons.items())
    return text.rstrip(".") + "."


def _names(models: dict[str, ModelRecovery]) -> str:
    names = list(models)
    if len(names) > 4:
        names = [*names[:3], f"{len(names) - 3} more models"]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _s(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds >= 0.95 else f"{seconds:.2f} s"
