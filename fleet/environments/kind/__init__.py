"""kind: a fleet of real Kubernetes clusters, each one made by kind out of containers of one Docker engine.

offline/     builds the node image, the serving image, kind and kubectl where no image can be pulled
"""
