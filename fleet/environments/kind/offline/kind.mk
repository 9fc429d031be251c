# Included by the Makefile. Real Kubernetes without pulling an image: see docs/kind-offline.md
.PHONY: kind-images docker-engine docker-engine-stop

kind-images: setup          ## build (or find in the cache) kind, kubectl, the node image and the serving image
	@$(PY) -m fleet.environments.kind.offline.images

docker-engine: setup        ## start a Docker engine of our own where none runs (root)
	@$(PY) -m fleet.environments.kind.offline.engine start

docker-engine-stop:         ## end that engine, and take out and set back what it changed
	@$(PY) -m fleet.environments.kind.offline.engine stop
