# Included by the Makefile. Drills on real Kubernetes: see docs/kind.md
.PHONY: test-kind

test-kind: setup-test docker-engine kind-images    ## drills on real Kubernetes: fleet up, drills, fleet down, nothing left
	BLACKSTART_TEST_KIND=1 $(PY) -m pytest tests/kind -v --timeout=900 -p no:cacheprovider; code=$$?; \
	  $(PY) -m fleet.environments.kind.offline.engine stop; exit $$code
