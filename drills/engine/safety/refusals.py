"""``Refusal``: a reason not to start, found before anything is touched; each with its next step.

``before`` looks at the plan (nothing runs yet), ``at_the_gate`` at the running fleet right before the first injection.
Both only look. ``refuse`` raises. Nobody can turn one off but by what its hint says.
"""

from __future__ import annotations

import os
import re
import shlex
import socket
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from ipaddress import ip_address
from itertools import zip_longest
from pathlib import Path
from typing import Annotated, Final, Literal
from urllib.parse import urlsplit

import msgspec
import psutil

from drills.engine.nouns import Drill, Inject, Restore
from drills.engine.safety.lock import Locks
from drills.engine.safety.lookalike import look_alike, skeleton, strange_letters
from fleet.protocols import Cluster, Fleet
from history.errors import BlackstartError, Refused, UsageError

PROTECTED_VARIABLE: Final = "BLACKSTART_PROTECTED"
PROTECTED_FILE: Final = "blackstart.toml"
_SHARED: Final = {"127.0.0.1", "::1", "localhost"}

Kind = Literal[
    "opt-in",
    "protected",
    "look-alike",
    "confirm",
    "lock",
    "survivors",
    "blast radius",
    "steady state",
    "observer",
    "objectives",
]


@dataclass(frozen=True)
class Refusal:
    """One reason: what is wrong, with the values, and what to do."""

    kind: Kind
    text: str
    hint: str

    def __str__(self) -> str:
        return f"{self.text} ({self.kind}). Next: {self.hint}"


@dataclass(frozen=True)
class Protected:
    """Names and patterns (``*``, ``?``, ``[…]``) that no drill may touch, whatever is confirmed. ``source``: whose."""

    patterns: tuple[tuple[str, str], ...] = ()

    @classmethod
    def read(cls, cwd: Path, environ: Mapping[str, str] = os.environ, beside: Path | None = None) -> Protected:
        """From $BLACKSTART_PROTECTED (separated by commas) and from ``[protected] names = [...]`` in the
        blackstart.toml of ``cwd``, of the folder ``beside`` (the drill's) and of every folder above them; all count.
        ``UsageError`` when a file is damaged, or an entry can be no name: neither is ever taken for nothing."""
        own = [name.strip() for name in environ.get(PROTECTED_VARIABLE, "").split(",")]
        found = [(name, f"${PROTECTED_VARIABLE}") for name in own if name]
        above = [folder for start in (cwd, beside or cwd) for folder in (start.absolute(), *start.absolute().parents)]
        for folder in dict.fromkeys(above):
            path = folder / PROTECTED_FILE
            if _is_there(path):
                source = PROTECTED_FILE if folder == cwd.absolute() else str(path)
                found += [(name, source) for name in _names_in(path)]
        if wrong := [f"{name!r} in {source}" for name, source in found if not _could_be_a_name(name)]:
            raise UsageError(
                "what is protected is not clear: an entry is one name or pattern, without blanks, quotes, semicolons "
                "or loose brackets, and ends with a letter or digit",
                problems=tuple(wrong),
                hint=f"separate names by commas: {PROTECTED_VARIABLE}='amber,prod-*'",
            )
        return cls(tuple(found))

    def why(self, name: str) -> str:
        """The pattern that protects ``name`` (compared without case, and by its shapes), or ""."""
        for pattern, source in self.patterns:
            pairs = ((name.casefold(), pattern.casefold()), (skeleton(name), _skeleton_of(pattern)))
            if any(fnmatchcase(one, other) for one, other in pairs):
                return f"{pattern!r} in {source}"
        return ""

    @property
    def names(self) -> tuple[str, ...]:
        """Those that are no patterns."""
        return tuple(pattern for pattern, _ in self.patterns if not set(pattern) & set("*?["))


def _skeleton_of(pattern: str) -> str:
    """The shapes of a pattern; what stands in brackets names letters one by one, and stays."""
    return "".join(part if part.startswith("[") else skeleton(part) for part in re.split(r"(\[[^]]*\])", pattern))


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError as error:
        raise UsageError(f"{path} cannot be looked at: {error.strerror}", hint="mend its folder's rights") from error


def before(
    drill: Drill,
    fleet: Fleet,
    *,
    protected: Protected,
    confirmed: tuple[str, ...] = (),
    locks: Locks | None = None,
    lock_targets: tuple[str, ...] = (),
    impossible: tuple[str, ...] = (),
) -> tuple[Refusal, ...]:
    """Every reason that can be seen in a plan. ``impossible``: objectives that the forecast excludes, unless a
    failure is what the user expects."""
    found = [*_of_victims(drill, fleet), *_protected(_targets(drill), protected)]
    found += [*_alike(drill, protected, confirmed), *_radius(drill)]
    if locks is not None:
        try:
            locks.require_free(lock_targets)
        except Refused as held:
            found.append(Refusal("lock", held.message, held.hint))
    for text in impossible:
        hint = "give the survivors more room, ask for less, or run it with --expect-fail: it then ends with exit 1"
        found.append(Refusal("objectives", text, hint))
    return tuple(found)


def at_the_gate(drill: Drill, fleet: Fleet) -> tuple[Refusal, ...]:
    """Every reason that the running fleet gives, asked now."""
    return (*_of_victims(drill, fleet), *_unsteady(fleet))


def too_few_survivors(drill: Drill, fleet: Fleet, down: set[str]) -> str:
    """Why ``down`` (what is hurt, and what would be) must not be down now: of the others too few answer; "" if not."""
    silent = {cluster.name for cluster in fleet.clusters if cluster.name not in down and not _answers(cluster)}
    alive = len(fleet.clusters) - len(down | silent)
    if alive >= drill.blast_radius.survivors:
        return ""
    lost = f"; {', '.join(sorted(silent))} does not answer" if silent else ""
    return (
        f"{alive} of {len(fleet.clusters)} clusters would survive the loss of {', '.join(sorted(down))}{lost}; the "
        f"declared minimum is {drill.blast_radius.survivors}"
    )


def _answers(cluster: Cluster) -> bool:
    try:
        reach = cluster.reachable()
    except BlackstartError:
        return False
    return reach.api and all(reach.nodes.values())


def refuse(refusals: Iterable[Refusal]) -> None:
    """Raises ``Refused`` for all of them at once; returns when there are none."""
    found = tuple(refusals)
    if len(found) == 1:
        raise Refused(f"{found[0].text} ({found[0].kind})", hint=found[0].hint)
    if found:
        raise Refused(
            f"there are {len(found)} reasons not to start",
            problems=tuple(lines(found)),
            hint="each reason says what to do; nothing was touched",
        )


def lines(refusals: Sequence[Refusal]) -> Iterator[str]:
    """One line each; a next step that several in a row share is said with the last of them."""
    for one, after in zip_longest(refusals, refusals[1:]):
        yield str(one) if after is None or after.hint != one.hint else f"{one.text} ({one.kind})"


def would_die(fleet: Fleet, cluster: Cluster) -> Iterator[Refusal]:
    """What the measurement rests on and would go down with ``cluster``: entry point, Prometheus, lock and load."""
    theirs = victim_hosts(cluster)
    urls = {"entry point": fleet.target().entry_url, "Prometheus": fleet.prometheus_url or ""}
    for what, url in urls.items():
        host = urlsplit(url).hostname or ""
        if theirs & spellings(host):
            text = f"the {what} stands on {host} in {cluster.name!r} and would die with it"
            yield Refusal("observer", text, f"move the {what} out of {cluster.name}: what observes must outlive")
    if here := sorted(theirs & _own_addresses()):
        text = f"this machine ({', '.join(here)}) belongs to {cluster.name!r}: lock, load and journal would die with it"
        yield Refusal("observer", text, f"run blackstart on a machine outside {cluster.name}")


def victim_hosts(cluster: Cluster) -> set[str]:
    """The addresses that die with the cluster; one shared loopback address for all does not count."""
    facts = cluster.describe()
    hosts = {urlsplit(url).hostname or "" for url in (facts.api_url, *facts.data_urls)}
    return {one for host in hosts for one in spellings(host)} - _SHARED


def spellings(host: str) -> set[str]:
    """The host in one way of writing (small letters, no dot at its end, short addresses), and its addresses."""
    plain = host.rstrip(".").lower()
    try:
        ip = ip_address(plain)
    except ValueError:
        return ({plain} | set(addresses(plain)) if plain else set()) - _SHARED
    return {str(getattr(ip, "ipv4_mapped", None) or ip)}


def addresses(host: str) -> tuple[str, ...]:
    """What this machine's resolver says of a name; none where it knows nothing."""
    try:
        return tuple({str(found[4][0]) for found in socket.getaddrinfo(host, None, proto=socket.IPPROTO_TCP)})
    except (OSError, UnicodeError):
        return ()


def _targets(drill: Drill) -> dict[str, bool]:
    """Every name that a fault has, and whether it is a cluster's; a fault's target need not be the cluster it hits."""
    found = {fault.target: bool(fault.cluster) for fault in drill.faults}
    return found | {fault.cluster: True for fault in drill.faults if fault.cluster}


def _of_victims(drill: Drill, fleet: Fleet) -> Iterator[Refusal]:
    names = {fault.cluster for fault in drill.faults}
    for cluster in fleet.clusters:
        if cluster.name in names:
            yield from _not_opted_in(cluster)
            yield from would_die(fleet, cluster)


def _not_opted_in(cluster: Cluster) -> Iterator[Refusal]:
    ask = getattr(cluster, "opted_in", None)
    try:
        marker, why = ask() if callable(ask) else "", "it carries no opt-in marker"
    except BlackstartError as error:
        marker, why = "", f"its opt-in marker cannot be read: {error.message}"
    if not (isinstance(marker, str) and marker.strip()):
        hint = "its owner must opt in first; blackstart never puts the marker on by itself"
        yield Refusal("opt-in", f"cluster {cluster.name!r} is not open to drills: {why}", hint)


def _protected(targets: Iterable[str], protected: Protected) -> Iterator[Refusal]:
    for name in targets:
        if why := protected.why(name):
            hint = "choose another target; --confirm does not lift a protection, only its owner's list does"
            yield Refusal("protected", f"target {name!r} is protected by {why}", hint)


def _alike(drill: Drill, protected: Protected, confirmed: tuple[str, ...]) -> Iterator[Refusal]:
    """A cluster's name against those of all clusters, and every target's against the protected names."""
    clusters = [cluster.name for cluster in drill.fleet.clusters]
    targets = _targets(drill)
    for name in confirmed:
        if name not in targets:
            text = f"--confirm {name!r} names no target of this drill; it hits {', '.join(map(repr, targets))}"
            yield Refusal("confirm", text, "confirm the target that you mean, letter by letter")
    for target, is_cluster in targets.items():
        theirs = () if protected.why(target) else protected.names  # no --confirm lifts a protection
        names = dict.fromkeys([*(clusters if is_cluster else ()), *theirs])
        pairs = [(other, why) for other in names if (why := look_alike(target, other))]
        strange = strange_letters("".join((target, *names)))
        if (pairs or strange) and target not in confirmed:
            said = [f"like {other!r} ({why})" for other, why in pairs[:3]]
            more = f" and {len(pairs) - 3} more" if len(pairs) > 3 else ""
            said += [f"as if all were ASCII, but names have {strange}"] if strange else []
            hint = f"if {target!r} is the one that you mean: --confirm {shlex.quote(target)}"
            yield Refusal("look-alike", f"target {target!r} looks {', '.join(said)}{more}", hint)


def _radius(drill: Drill) -> Iterator[Refusal]:
    """Clusters hurt at one time, against the declared most; survivors, against the declared least."""
    radius, count = drill.blast_radius, len(drill.fleet.clusters)
    hurt: set[str] = set()
    worst: set[str] = set()
    for step in drill.steps:
        if isinstance(step, Inject) and step.fault.cluster:
            hurt.add(step.fault.cluster)
            worst = max(worst, set(hurt), key=len)
        elif isinstance(step, Restore):
            hurt.discard(step.cluster)
    names = ", ".join(sorted(worst))
    if len(worst) > radius.clusters:
        text = f"{len(worst)} clusters would be hurt at once ({names}); the declared blast radius is {radius.clusters}"
        yield Refusal("blast radius", text, "restore one before the next, or declare BlastRadius(clusters=…)")
    if count - len(worst) < radius.survivors:
        text = (
            f"{count - len(worst)} of {count} clusters would survive the loss of {names}; the declared minimum is "
            f"{radius.survivors}"
        )
        yield Refusal("survivors", text, "hurt fewer clusters at once, or declare BlastRadius(survivors=…)")


def _unsteady(fleet: Fleet) -> Iterator[Refusal]:
    """Every cluster answers, and every declared replica of every model is ready."""
    hint = "mend the fleet, or wait until it is whole; nothing was injected"
    ready: Counter[str] = Counter()
    for cluster in fleet.clusters:
        try:
            reach, placements = cluster.reachable(), cluster.placements()
        except BlackstartError as error:
            yield Refusal("steady state", f"cluster {cluster.name!r} does not answer: {error.message}", hint)
            continue
        silent = [name for name, answers in reach.nodes.items() if not answers]
        if silent or not reach.api:
            what = ", ".join(silent) or "its API"
            yield Refusal("steady state", f"cluster {cluster.name!r}: {what} does not answer: {reach.detail}", hint)
        ready.update(placement.model for placement in placements if placement.ready)
    try:
        declared = fleet.facts().models
    except BlackstartError as error:
        yield Refusal("steady state", f"the fleet cannot be described: {error.message}", hint)
        return
    short = [f"{m.name} {ready[m.name]} of {m.replicas}" for m in declared if ready[m.name] < m.replicas]
    if short:
        yield Refusal("steady state", f"not every declared replica is ready: {', '.join(short)}", hint)


def _own_addresses() -> set[str]:
    found = {address.address for cards in psutil.net_if_addrs().values() for address in cards}
    return (found | {socket.gethostname().lower()}) - _SHARED


class _Names(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    names: tuple[Annotated[str, msgspec.Meta(min_length=1)], ...]


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    protected: _Names


def _could_be_a_name(entry: str) -> bool:
    """Letters and digits of any script, what stands between them in names, and whole sets of letters in brackets."""
    plain = re.sub(r"(?<=.)\[!?[^][]+\]|\[!?[^][]+\](?=.)", "x", entry)
    return re.fullmatch(r"[\w*?]([\w*?.:/@+-]*[\w*?])?", plain) is not None


def _names_in(path: Path) -> tuple[str, ...]:
    try:
        return msgspec.toml.decode(path.read_bytes(), type=_File).protected.names
    except (OSError, ValueError) as error:  # msgspec's errors are ValueErrors, as those of tomllib and of the text
        raise UsageError(
            f"{path} cannot be read: {error}",
            hint=f"{path.name} must say: [protected] names = ['NAME', 'PATTERN*']; nobody knows what it protects",
        ) from error
