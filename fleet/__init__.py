"""fleet: where drills happen. Imports only ``history``.

spec.py        FleetSpec and its parts: the description of a fleet      checks.py   everything that is wrong with one
fleets.py      ready-made fleets                                        packing.py  exact packing of replicas on nodes
placement.py   which replica goes to which node                        reload.py   how long lost weights take
forecast.py    who fits, and in how many seconds, if a cluster goes     protocols.py  the seams of an environment
prometheus.py  a real Prometheus beside the fleet                       queries/    what it is asked, one file a system
environments/  where a fleet runs                                       serving/    the reference serving system
"""
