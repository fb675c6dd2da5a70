#!/bin/bash
# Starts Redis on /data. Takes REDIS_PASSWORD and the server's own options as
# arguments.
set -euo pipefail
if [ "$(id -u)" = 0 ]; then
  chown -R redis:redis /data
  exec setpriv --reuid=redis --regid=redis --init-groups "$0" "$@"
fi
[ "${1:-}" != redis-server ] || shift
set -- --dir /data --bind 0.0.0.0 --protected-mode no --appendonly no "$@"
[ -z "${REDIS_PASSWORD:-}" ] || set -- --requirepass "$REDIS_PASSWORD" "$@"
exec redis-server "$@"
