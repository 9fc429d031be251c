"""``KindFleet``: a fleet of real Kubernetes clusters as the harness sees it.

Implements ``fleet.protocols.Fleet``. It uses the clusters that ``blackstart fleet up`` made when they are those meant,
and leaves them up; else it makes one and takes it away at the end. It never places a replica.
"""

from __future__ import annotations

from typing import Any, Final

from fleet import prometheus
from fleet.environments.kind import hosting, leftovers, lifecycle
from fleet.environments.kind.cluster import KindCluster
from fleet.environments.kind.layout import PROMETHEUS, lay_out
from fleet.environments.kind.state import FleetState, Folder, new_id
from fleet.environments.kind.supplies import Supplies, of_a_fleet
from fleet.environments.kind.topology import smaller, topology
from fleet.environments.local.addresses import PLAIN
from fleet.environments.local.layout import Layout, fleet_facts
from fleet.environments.local.stores import StoreFaults
from fleet.environments.local.watch import Allocator
from fleet.protocols import Say
from fleet.spec import FleetSpec
from history.errors import FleetError
from history.records import FleetFacts, Target


class KindFleet(StoreFaults):
    """See the module docstring. ``gateway_port`` 0: a free one."""

    environment: Final = "kind"

    def __init__(self, spec: FleetSpec, *, folder: Folder | None = None, gateway_port: int = 0) -> None:
        self._folder = folder or Folder()
        self._gateway_port = gateway_port
        found = self._folder.read()
        self._state: FleetState | None = None
        self._seen = _standing(found)
        self._spec = spec
        if found is not None and found.complete:
            fitting = [one for one in (spec, smaller(spec)) if lifecycle.same_machines(found.spec, one)]
            if fitting:
                self._state, self._spec = found, fitting[0]
        self._found_up = self._state is not None
        self._fleet_id = self._state.fleet_id if self._state is not None else new_id()
        self._started = False
        self.clusters = tuple(KindCluster(one, self) for one in topology(self._spec))
        self.prometheus_url: str | None = None
        self.prometheus_absent = "the fleet has not been started"

    # -- the Protocol -----------------------------------------------------------------------------------------------

    @property
    def controller(self) -> Allocator:
        """The reference allocator."""
        return Allocator(lambda: self.layout.allocator_url, found_up=self._found_up)

    def start(self, say: Say) -> None:
        """Makes the fleet, or makes sure that the one that is up is whole; ``FleetError`` when it is another by now."""
        if _standing(self._folder.read()) != self._seen:
            raise FleetError("the kind fleet is not the one that this run was planned on", hint="run it anew")
        self._state = lifecycle.up(self._spec, self._folder, say, self._gateway_port, self._fleet_id)
        self._seen = self._state.fleet_id
        self._started = True
        if prometheus.find_binary() is None:
            self.prometheus_absent = prometheus.ABSENT
            return
        url = f"http://{PLAIN}:{self.state.ports[PROMETHEUS]}"
        if prometheus.wait_ready(url):
            self.prometheus_url, self.prometheus_absent = url, ""
        else:
            self.prometheus_absent = f"it did not become ready at {url}; read {self._folder.logs / 'prometheus.out'}"

    def facts(self) -> FleetFacts:
        """The fleet as it is now; ``FleetError`` when a cluster does not answer."""
        return fleet_facts(self._spec, self.clusters, ("client_path", "node addresses"))

    def target(self) -> Target:
        """The gateway."""
        port = self.state.ports["gateway"] if self.is_up else self._gateway_port
        return Target(f"http://{PLAIN}:{port}")

    def died(self) -> tuple[str, ...]:
        """Services outside the clusters that ended by themselves."""
        return hosting.died(self.state, self._folder) if self._started else ()

    def stop(self) -> None:
        """Takes away what this run made; what was up before stays up."""
        found = self._folder.read()
        if not self._found_up and found is not None and found.fleet_id == self._fleet_id:
            lifecycle.down(self._folder, lambda _: None)
            self._state, self._seen = None, ""
        self._started = False

    def leftovers(self) -> dict[str, Any]:
        """The facts by which ``leftovers.restore`` heals this fleet without it."""
        return leftovers.facts(self._folder, self._found_up, self._fleet_id)

    # -- for its clusters -------------------------------------------------------------------------------------------

    @property
    def folder(self) -> Folder:
        """The fleet's folder."""
        return self._folder

    @property
    def is_up(self) -> bool:
        """Is there a fleet to ask?"""
        return self._state is not None

    @property
    def state(self) -> FleetState:
        """As it was written last; ``FleetError`` when no fleet is up."""
        if self._state is None:
            raise FleetError("the fleet is not up", hint="blackstart fleet up --env kind")
        return self._folder.read() or self._state

    @property
    def layout(self) -> Layout:
        """Addresses of everything outside the clusters."""
        return lay_out(self.state, self._folder)

    def supplies(self) -> Supplies:
        """kind and the images that the fleet was made with: a drill builds nothing."""
        return of_a_fleet(self.state.kind, self.state.node_image, self.state.serving_image)


def _standing(found: FleetState | None) -> str:
    """The id of a fleet that is whole; one that is half made does not stand."""
    return found.fleet_id if found is not None and found.complete else ""
