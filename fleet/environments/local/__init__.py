"""local: a fleet of real processes on this machine; Python and loopback only.

fleet.py      LocalFleet: start, facts, stop                         addresses.py  loopback addresses and ports
startup.py    the order of the start, and its errors                 layout.py     every configuration, worked out first
cluster.py    LocalCluster: describe, watch, power, freeze           watch.py      following an event stream
zygote.py     the preloaded process that forks all others            processes.py  fork; nobody outlives the parent
control.py    a cluster's control plane (API)                        scheduler.py  who gets which GPUs
replicas.py   Kubelet: starts and ends replicas                      node.py       node-init: forks agent and servers
ask.py        one question, with a short time-out                    black_hole.py packets that vanish
leftovers.py  what is left when harness and zygote die together
"""
