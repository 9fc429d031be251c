#!/bin/sh
# Makes .venv and what a drill (or the tests) need beside it. Idempotent; quick when nothing is to be done.
#   scripts/setup.sh drill    the package, and a Prometheus from the distribution's packages
#   scripts/setup.sh test     that, the test tools, and Chromium from the distribution's packages
# Changes nothing outside the checkout, except that `test` as root installs the package chromium where it is missing.
set -eu
cd "$(dirname "$0")/.."
what=${1:-drill}
python=${PYTHON:-python3}

say() { printf '%s\n' "$*" >&2; }
die() { say "Error: $1"; say "Next: $2"; exit 3; }

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
    die "$python is missing or older than 3.11" "install Python 3.11 or newer, or name one: make $what PYTHON=python3.12"

case $what in
    drill) extra=. ;;
    test) extra='.[dev]' ;;
    *) die "unknown set-up '$what'" "say drill or test" ;;
esac
stamp=.venv/.set-up-$what
if [ ! -e "$stamp" ] || [ pyproject.toml -nt "$stamp" ] || [ constraints.txt -nt "$stamp" ]; then
    say "Setting up .venv for $what (a minute at the first time) …"
    [ -x .venv/bin/pip ] || "$python" -m venv .venv ||
        die "python's venv module does not work" "install it (Debian, Ubuntu: apt-get install python3-venv)"
    .venv/bin/pip install --quiet --disable-pip-version-check -c constraints.txt -e "$extra" ||
        die "the packages could not be installed" "read pip's lines above; a network or an index of packages is needed once"
    touch "$stamp"
fi

# Only the binary is taken out of the distribution's package: no service is installed or started.
if ! command -v prometheus >/dev/null 2>&1 && [ ! -x .venv/bin/prometheus ]; then
    if command -v apt-get >/dev/null 2>&1 && command -v dpkg-deb >/dev/null 2>&1; then
        say "Fetching Prometheus from the distribution's packages …"
        box=$(mktemp -d)
        [ "$(id -u)" != 0 ] || chmod 755 "$box"
        (
            cd "$box"
            apt-get download -qq prometheus >/dev/null 2>&1 || {
                [ "$(id -u)" = 0 ] && apt-get update -qq >/dev/null 2>&1 && apt-get download -qq prometheus >/dev/null 2>&1
            }
        ) && dpkg-deb -x "$box"/prometheus_*.deb "$box/root" && cp "$box/root/usr/bin/prometheus" .venv/bin/prometheus ||
            say "Prometheus could not be fetched; try: apt-get update && apt-get install prometheus"
        rm -rf "$box"
    fi
    [ -x .venv/bin/prometheus ] || say "No Prometheus: runs go on, and objectives that need it will be unknown." \
        "Get it from your distribution or from the Prometheus project, and put it on the PATH."
fi

if [ "$what" = test ] && ! command -v chromium >/dev/null 2>&1; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
        say "Installing Chromium from the distribution's packages …"
        apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq chromium >/dev/null
    fi
    command -v chromium >/dev/null 2>&1 ||
        die "no chromium on the PATH; the report is tested in a real browser" "as root: apt-get install chromium"
fi
