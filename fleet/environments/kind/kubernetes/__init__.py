"""kubernetes: the Kubernetes API of one cluster, as this environment asks and watches it.

client.py   bounded calls over the published client library     pods.py   a pod as a replica, pure
watch.py    list, then watch, with gaps                          gpus.py   GPUs on nodes, reconciled
"""
