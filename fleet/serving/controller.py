"""``Controller``: the allocator's mind: which clusters are lost, where each slot runs, what to do about it.

It acts on what it polls: places everything once at the start, moves what a lost cluster held (``react``), moves it
home when the cluster is back. Decisions are serialised by one lock, and a slot is never wanted in two places but
while it moves home. It measures nothing; its events say what it held to be true, when.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from fleet.placement import (
    Places,
    Room,
    Slot,
    left_after,
    reallocate,
    slots_of,
    spread,
    unplaceable_without,
    why_not,
)
from fleet.serving.clients import ClusterClient, GatewayClient, Listed, Listing, Unanswered
from fleet.serving.config import AllocatorConfig
from fleet.serving.events import EventLog
from fleet.serving.serve import Tasks
from history.clock import now_ns
from history.op import DECIDED, DETECTED, FAILBACK, RETURNED, UNPLACEABLE

BOOT_S: Final = 10.0
"""The first placement waits at most this long for clusters that have not answered yet."""
RETRY_S: Final = 0.5
AUDIT_S: Final = 1.0
PATIENCE_S: Final = 3.0
"""A wish that nobody answered is given so long to come about before another place is looked for."""
READY_POLL_S: Final = 0.03

ClusterState = Literal["unknown", "up", "lost"]


@dataclass(frozen=True)
class At:
    """Where a slot's replica was wanted last."""

    cluster: str
    replica: str


class Controller:
    """See the module docstring. Used from one event loop; ``start`` there, ``close`` at the end."""

    def __init__(
        self,
        config: AllocatorConfig,
        clusters: Sequence[ClusterClient],
        gateway: GatewayClient,
        events: EventLog,
        log: logging.Logger,
    ) -> None:
        self._switches = config.switches
        self._clusters = {client.name: client for client in clusters}
        self._gateway = gateway
        self._events = events
        self._log = log
        self.slots = slots_of(config.models)
        self.state: dict[str, ClusterState] = dict.fromkeys(self._clusters, "unknown")
        self.at: dict[Slot, At | None] = dict.fromkeys(self.slots)
        self.unplaceable: dict[Slot, str] = {}
        self.placed = False
        self.held: set[str] = set()
        self._by_name = {slot.name: slot for slot in self.slots}
        self._home = {slot: slot.home for slot in self.slots}
        self._moving: dict[Slot, str] = {}
        self._failbacks: dict[str, asyncio.Task[None]] = {}
        self._deciding: dict[str, asyncio.Task[None]] = {}
        self._audits: dict[str, asyncio.Task[None]] = {}
        self._decided: set[str] = set()
        self._unsure: dict[At, float] = {}
        self._homing: set[Slot] = set()
        self._ending: set[At] = set()
        self._undying: set[At] = set()
        self._generation = 0
        self._lock = asyncio.Lock()
        self._tasks = Tasks(log)

    def start(self) -> None:
        """Begins to poll, and places everything as soon as the clusters answer."""
        for client in self._clusters.values():
            self._tasks.spawn(self._poll(client))
        self._tasks.spawn(self._boot())
        if self._switches.reaction == "automatic":
            self._tasks.spawn(self._try_again())

    async def close(self) -> None:
        """Ends all tasks; changes nothing in the clusters."""
        await self._tasks.close()

    async def headroom(self) -> dict[str, tuple[str, ...]]:
        """N-1 now: for each cluster that is up, why which slots would find no place without it."""
        rooms = await self._rooms()
        where = {slot: at.cluster for slot, at in self.at.items() if at is not None}
        return {name: unplaceable_without(name, where, rooms) for name in self._up()}

    # -- detection ----------------------------------------------------------------------------------------------

    async def _poll(self, client: ClusterClient) -> None:
        """Polls on a fixed grid; a slow poll delays the next one, never that of another cluster."""
        config, loop = self._switches, asyncio.get_running_loop()
        failures = first_failure_ns = 0
        due = audit_due = loop.time()
        while True:
            seen = await client.ready(config.detect_timeout_s)
            failures = failures + 1 if seen else 0
            first_failure_ns = now_ns() if failures == 1 else first_failure_ns
            state = self.state[client.name]
            if not seen and state != "up" and not (state == "lost" and client.name in self.held):
                self.state[client.name] = "up"
                self._undecided(client.name)
                if state == "lost":
                    self._events.append(RETURNED, cluster=client.name)
                    self._log.info("%s is back", client.name)
                    self._failbacks[client.name] = self._tasks.spawn(self._welcome(client))
            elif seen and state == "up" and failures >= config.detect_failures:
                self._lose(client.name, {"seen": seen, "failures": failures, "t_first_failure": first_failure_ns})
            elif not seen and self.placed and loop.time() >= audit_due:
                audit_due = loop.time() + AUDIT_S
                if (last := self._audits.get(client.name)) is None or last.done():  # apart: detection waits for nobody
                    self._audits[client.name] = self._tasks.spawn(self._audit(client))
            due = max(due + config.detect_interval_s, loop.time())
            await asyncio.sleep(due - loop.time())

    def _lose(self, cluster: str, why: dict[str, Any]) -> None:
        self.state[cluster] = "lost"
        self._events.append(DETECTED, cluster=cluster, detail=why)
        self._log.warning("%s is lost: %s", cluster, why)
        if (task := self._failbacks.pop(cluster, None)) is not None:
            task.cancel()
        self._moving = {slot: to for slot, to in self._moving.items() if to != cluster}
        self._unsure = {at: until for at, until in self._unsure.items() if at.cluster != cluster}
        self._undecided(cluster)
        if self._switches.reaction == "automatic":
            self._deciding[cluster] = self._tasks.spawn(self._decide_later(cluster))

    async def _decide_later(self, cluster: str) -> None:
        await asyncio.sleep(self._switches.decision_delay_s)
        self._decided.add(cluster)
        self._deciding.pop(cluster)
        await self.react()

    def _undecided(self, cluster: str) -> None:
        """It was lost anew, or is back: what was decided of it, or was about to be, is void."""
        self._decided.discard(cluster)
        if (task := self._deciding.pop(cluster, None)) is not None:
            task.cancel()

    async def _audit(self, client: ClusterClient) -> None:
        """What a cluster lists against what is wanted there. One that restarted between two polls came back empty: its
        own replicas are wanted there again, and surrogates that it held, or never got, find a new place. A surrogate
        that nobody wants (its placing was not answered and came about, or its end was not and did not) ends."""
        async with self._lock:
            try:
                if self.state[client.name] != "up":
                    return
                listed = await client.replicas()
            except Unanswered:
                return
            for name in listed:
                self._unsure.pop(At(client.name, name), None)
            now = asyncio.get_running_loop().time()
            here = {slot: at for slot, at in self.at.items() if at and at.cluster == client.name}
            missing = {s: at for s, at in here.items() if at.replica not in listed and self._unsure.get(at, 0.0) <= now}
            self._log.log(logging.WARNING if missing else logging.DEBUG, "%s lacks %s", client.name, list(missing))
            at_home = [slot for slot in missing if self._home[slot] == client.name]
            for model in dict.fromkeys(slot.model for slot in at_home):
                self._events.append(DECIDED, model=model, detail={"from": [client.name], "to": [client.name]})
            for slot in missing:
                self.at[slot] = At(client.name, slot.name) if slot in at_home else None
            was_decided = bool([at for at in missing.values() if self._unsure.pop(at, None)])
            self._undying = {at for at in self._undying if at.cluster != client.name or at.replica in listed}
            stray = self._stray(client, listed, {s.name for s in self._homing if self._home[s] == client.name})
            try:
                await asyncio.gather(*(client.put(slot.name, slot.model) for slot in at_home))
            except Unanswered as error:
                self._log.warning("%s came back empty and does not answer: %s", client.name, error)  # the next audit
        await self._end_all(stray)
        if was_decided or (missing and self._switches.reaction == "automatic"):
            await self.react()

    def _stray(self, client: ClusterClient, listed: Mapping[str, Listed], homes: Collection[str]) -> list[At]:
        """Replicas of ours in a cluster that nobody wants there, but for its ``homes``: they are to end. One whose slot
        has no place, or only one that is lost, is at it from now on: what runs already is the best place there is."""
        found = []
        for name, row in sorted(listed.items()):
            at, slot = At(client.name, name), self._slot_of(name)
            if slot is None or at in self._ending or at in self.at.values():
                continue
            wanted, is_home = self.at[slot], name == slot.name
            free = wanted is None or self.state[wanted.cluster] == "lost"
            serves = row.phase == "Ready" if is_home else row.phase not in ("Failed", "Pending")
            if free and serves and at not in self._undying and not (is_home and slot in self._homing):
                self._log.warning("%s is in %s: taken on", name, client.name)
                origins = [wanted.cluster] if wanted else []
                self._events.append(DECIDED, model=slot.model, detail={"from": origins, "to": [client.name]})
                self.at[slot] = at
                self.unplaceable.pop(slot, None)
            elif not (name in homes or wanted in self._unsure or (free and row.phase == "Pending")):
                self._log.warning("%s is in %s and nobody wants it: it ends", name, client.name)
                found.append(at)
        self._ending |= set(found)
        return found

    # -- placement ----------------------------------------------------------------------------------------------

    async def _boot(self) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + BOOT_S
        while "unknown" in self.state.values() and loop.time() < deadline:
            await asyncio.sleep(0.01)
        async with self._lock:
            await self._adopt()
            rooms = await self._rooms()
            running = {slot: at.cluster for slot, at in self.at.items() if at}
            places = spread([slot for slot in self.slots if self.at[slot] is None], rooms, running)
            for slot, room in places.items():
                if room is not None and not slot.home:
                    self._home[slot] = room.cluster
            self._say_unplaceable(places, rooms)
            complete = await self._put(places, first=True)
        self.placed = True
        if not complete:
            self._tasks.spawn(self._react_later(RETRY_S))
        for cluster, reasons in (await self.headroom()).items():
            self._log.info("without %s: %s", cluster, "; ".join(reasons) or "everything fits elsewhere")

    async def _adopt(self) -> None:
        """Takes over what an earlier life of this process placed."""
        for cluster in self._up():
            try:
                listed = await self._clusters[cluster].replicas()
            except Unanswered:
                continue
            for name in sorted(listed):
                slot = self._slot_of(name)
                if slot is not None and self.at[slot] is None:
                    self.at[slot] = At(cluster, name)
                    self._home[slot] = slot.home or cluster
                    self._generation += 1

    def _slot_of(self, replica: str) -> Slot | None:
        """The slot that a replica of this name fills, at home or as a surrogate; None: not ours."""
        return self._by_name.get(replica) or self._by_name.get(replica.rpartition("-s")[0])

    async def _react_later(self, delay_s: float) -> None:
        await asyncio.sleep(delay_s)
        await self.react()

    async def decide(self) -> tuple[str, ...]:
        """The operators' decision: what is lost now moves. Returns the models decided on."""
        self._decided |= {name for name, state in self.state.items() if state == "lost"}
        return await self.react()

    async def react(self) -> tuple[str, ...]:
        """Finds new places for every slot that has none and for those in clusters that are decided to be lost, but not
        for what is on its way home; returns the models decided on."""
        async with self._lock:
            displaced = [slot for slot in self.slots if self._displaced(slot)]
            if not displaced:
                return ()
            filling = set(self._moving.values())  # what is on its way home is not in their rooms yet
            rooms = tuple(room for room in await self._rooms() if room.cluster not in filling)
            places = reallocate(displaced, rooms)
            decided = tuple(dict.fromkeys(slot.model for slot, room in places.items() if room))
            for model in decided:
                mine = {slot: room for slot, room in places.items() if slot.model == model and room}
                origins = sorted({at.cluster for slot in mine if (at := self.at[slot])})
                targets = [room.cluster for room in mine.values()]
                self._events.append(DECIDED, model=model, detail={"from": origins, "to": targets})
            self._say_unplaceable(places, rooms)
            if not await self._put(places):
                self._tasks.spawn(self._react_later(RETRY_S))
            return decided

    def _displaced(self, slot: Slot) -> bool:
        at = self.at[slot]
        return slot not in self._moving and (at is None or at.cluster in self._decided)

    async def _try_again(self) -> None:
        """Room may come about without a cluster's coming or going."""
        while True:
            await asyncio.sleep(AUDIT_S)
            if self.unplaceable:
                await self.react()

    async def _put(self, places: Places, *, first: bool = False) -> bool:
        """Wants each replica at its place; False when a cluster did not take one (that slot has no place then). One
        that may have been taken counts as placed: the audit sees whether it was, ``PATIENCE_S`` later at the latest."""

        async def put(slot: Slot, room: Room, replica: str) -> bool:
            at = At(room.cluster, replica)
            try:
                await self._clusters[room.cluster].put(replica, slot.model, room.node)
            except Unanswered as error:
                self._log.warning("%s was not placed: %s", replica, error)
                self.at[slot] = at if error.perhaps else None
                if error.perhaps:
                    self._unsure[at] = asyncio.get_running_loop().time() + PATIENCE_S
                return error.perhaps
            self.at[slot] = at
            return True

        wanted = []
        for slot, room in places.items():
            if room is None:
                self.at[slot] = None
                continue
            self.unplaceable.pop(slot, None)
            self._generation += 1
            at_home = first or room.cluster == self._home[slot]
            wanted.append(put(slot, room, slot.name if at_home else slot.surrogate(self._generation)))
        return all(await asyncio.gather(*wanted))

    def _say_unplaceable(self, places: Places, rooms: Sequence[Room]) -> None:
        left = left_after(places.items(), rooms)
        reasons = {slot: why_not(slot, left) for slot, room in places.items() if room is None}
        for model in dict.fromkeys(slot.model for slot in reasons if slot not in self.unplaceable):
            reason = "; ".join(text for slot, text in reasons.items() if slot.model == model)
            self._events.append(UNPLACEABLE, model=model, detail={"reason": reason})
            self._log.warning("%s is unplaceable: %s", model, reason)
        self.unplaceable |= reasons

    async def _rooms(self) -> tuple[Room, ...]:
        """Free GPUs of all clusters that are up and answer."""

        async def rooms(cluster: str) -> tuple[Room, ...]:
            try:
                return await self._clusters[cluster].rooms()
            except Unanswered as error:
                self._log.warning("no free GPUs of %s known: %s", cluster, error)
                return ()

        found = await asyncio.gather(*(rooms(cluster) for cluster in self._up()))
        return tuple(room for part in found for room in part)

    def _up(self) -> tuple[str, ...]:
        return tuple(cluster for cluster, state in self.state.items() if state == "up")

    # -- fail-back ----------------------------------------------------------------------------------------------

    async def _welcome(self, client: ClusterClient) -> None:
        """A lost cluster is back: what is not wanted there any more ends, what belongs there comes home."""
        movers = [slot for slot in self.slots if self._switches.failback and self._home[slot] == client.name]
        self._moving |= dict.fromkeys(movers, client.name)
        self._homing |= set(movers)
        try:
            while not await self._want_home(client, movers):
                await asyncio.sleep(RETRY_S)
            models, listing = dict.fromkeys(slot.model for slot in movers), Listing(client)
            await asyncio.gather(
                *(self._bring_home(client, [s for s in movers if s.model == m], listing) for m in models)
            )
        finally:
            for slot in movers:
                self._at_rest(client, slot)
        if self._switches.reaction == "automatic" or self._decided:
            await self.react()

    def _at_rest(self, client: ClusterClient, slot: Slot) -> None:
        """It is home, or will not come."""
        self._homing.discard(slot)
        if self._moving.get(slot) == client.name:
            del self._moving[slot]

    async def _want_home(self, client: ClusterClient, movers: Sequence[Slot]) -> bool:
        """Ends what survived in the cluster and is stale, and asks for what belongs there; False: it did not answer.

        Slots whose replica is listed are asked for as well: the wish is idempotent, and the cluster may be empty."""
        async with self._lock:
            try:
                await self._end_all(self._stray(client, await client.replicas(), {slot.name for slot in movers}))
                await asyncio.gather(*(client.put(slot.name, slot.model) for slot in movers))
            except Unanswered as error:
                self._log.warning("%s: fail-back waits: %s", client.name, error)
                return False
            return True

    async def _bring_home(self, client: ClusterClient, slots: Sequence[Slot], listing: Listing) -> None:
        """All moved slots of one model; the event follows when the last of them is home."""

        async def move(slot: Slot) -> bool:
            try:
                return await self._move(client, slot, listing)
            finally:
                self._at_rest(client, slot)

        moved = await asyncio.gather(*map(move, slots))
        if all(moved):
            detail = {"replicas": [slot.name for slot in slots]}
            self._events.append(FAILBACK, model=slots[0].model, cluster=client.name, detail=detail)

    async def _move(self, client: ClusterClient, slot: Slot, listing: Listing) -> bool:
        """Waits until the home replica is ready and routed to; only then ends the surrogate. False: it is gone.

        One that failed may come up yet (a cluster that starts it again says so meanwhile): until then the slot is
        placed like any other."""
        home, failed = At(client.name, slot.name), False
        while True:
            try:
                listed = (await listing.replicas()).get(slot.name)
                if listed is None:
                    self._log.error("%s did not come up at home: gone", slot.name)
                    return False
                if listed.phase == "Failed" and not failed:
                    failed = True
                    self._log.error("%s has not come up at home yet: %s", slot.name, listed.reason)
                    self._moving.pop(slot, None)
                    if self._switches.reaction == "automatic" or self._decided:
                        self._tasks.spawn(self.react())
                if listed.phase == "Ready" and await self._gateway.routes_to(client.name, slot.name):
                    break
            except Unanswered as error:  # if this lasts, detection cancels us
                self._log.warning("%s: %s", slot.name, error)
            await asyncio.sleep(READY_POLL_S)
        async with self._lock:
            surrogate, self.at[slot] = self.at[slot], home
            self.unplaceable.pop(slot, None)
            self._moving.pop(slot, None)
            if surrogate is None or surrogate == home or self.state[surrogate.cluster] != "up":
                return True
            self._ending.add(surrogate)  # here: an audit may have the lock next
        await asyncio.shield(self._tasks.spawn(self._end(surrogate)))  # also when the home is lost again meanwhile
        return True

    async def _end_all(self, stray: Sequence[At]) -> None:
        try:
            await asyncio.gather(*map(self._end, stray))
        finally:  # a cancelled one has not begun, perhaps
            self._ending -= set(stray)

    async def _end(self, at: At) -> None:
        """Drains at the gateway, then deletes; a gateway that does not answer does not stop the deletion. Who calls it
        has put ``at`` among those that are ending."""
        try:
            await self._gateway.drain(at.cluster, at.replica)
        except Unanswered as error:
            self._log.warning("not drained: %s", error)
        try:
            await self._clusters[at.cluster].delete(at.replica)
            self._undying.discard(at)
        except Unanswered as error:
            self._undying.add(at)
            self._log.warning("%s was not deleted: %s", at.replica, error)  # the next audit
        finally:
            self._ending.discard(at)
