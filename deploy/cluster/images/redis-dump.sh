#!/bin/bash
# Prints what a Redis holds as commands, which redis-cli reads: redis-dump as a
# public blueprint calls it, with -a PASSWORD and -h HOST.
set -euo pipefail
while getopts a:h:p: o; do
  case $o in
    a) export REDISCLI_AUTH=$OPTARG ;;
    h) host=$OPTARG ;;
    p) port=$OPTARG ;;
    *) exit 2 ;;
  esac
done
cli=(redis-cli --no-raw -h "${host:-127.0.0.1}" -p "${port:-6379}")
keys=$("${cli[@]}" --scan) # quoted, one a line
[ -n "$keys" ] || exit 0
paste -d ' ' \
  <(sed 's/^/RESTORE /' <<<"$keys") \
  <(sed 's/^/PTTL /' <<<"$keys" | "${cli[@]}" | sed 's/^(integer) //; s/^-.*/0/') \
  <(sed 's/^/DUMP /' <<<"$keys" | "${cli[@]}" | sed 's/$/ REPLACE/')
