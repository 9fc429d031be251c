# Included by the Makefile. Drills on real Kubernetes: see docs/kind.md
.PHONY: test-kind

test-kind: setup-test    ## drills on real Kubernetes: fleet up, drills, fleet down, nothing left (docs/kind.md)
	@scripts/test-kind.sh
