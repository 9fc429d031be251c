#!/bin/sh
# runc-shim.sh: runc for a root that lacks CAP_SYS_RESOURCE (some virtual machines and outer containers).
#
# The engine names this as its default runtime; every call ends in the real runc. Before a container is created, or a
# process is started in one, what such a root may not ask for is taken out of the request: the capability itself,
# resource limits (all of them: raising is refused), and oom scores below zero. Without it every privileged container
# fails with "unable to apply caps". Needs jq.
set -eu
wanted='if . == null then . else
  (if .capabilities then .capabilities |= map_values(map(select(. != "CAP_SYS_RESOURCE"))) else . end)
  | del(.rlimits) | if (.oomScoreAdj // 0) < 0 then .oomScoreAdj = 0 else . end end'

rewrite() { # FILE FILTER: in place, keeping the file's owner and mode
    [ -f "$1" ] || return 0
    new=$(jq -c "$2" "$1") && printf '%s\n' "$new" >"$1"
}

verb='' bundle=. process='' before=''
for word; do
    case $before in
        --bundle | -b) bundle=$word ;;
        --process | -p) process=$word ;;
    esac
    case $word in
        create | run | exec) verb=${verb:-$word} ;;
        --bundle=*) bundle=${word#*=} ;;
        --process=*) process=${word#*=} ;;
    esac
    before=$word
done
case $verb in
    create | run) rewrite "$bundle/config.json" ".process |= ($wanted)" ;;
    exec) [ -z "$process" ] || rewrite "$process" "$wanted" ;;
esac
exec "${BLACKSTART_RUNC:-runc}" "$@"
