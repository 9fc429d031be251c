#!/usr/bin/env bash
# make test-kind: a Docker engine and images where there are none, the tests; an engine that was started here ends.
set -euo pipefail
cd "$(dirname "$0")/.."
engine=(.venv/bin/python -m fleet.environments.kind.offline.engine)
if ! docker version >/dev/null 2>&1; then
    trap '"${engine[@]}" stop' EXIT
    "${engine[@]}" start
fi
command -v kind >/dev/null || .venv/bin/python -m fleet.environments.kind.offline.images
BLACKSTART_TEST_KIND=1 .venv/bin/python -m pytest tests/kind -v --timeout=900 -p no:cacheprovider --durations=0
