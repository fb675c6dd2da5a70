#!/bin/bash
# Starts PostgreSQL, on an empty directory after making a cluster in it. Takes
# POSTGRES_PASSWORD (or POSTGRESQL_PASSWORD), POSTGRES_USER, POSTGRES_DB, PGDATA
# and the server's own options as arguments.
set -euo pipefail
export PGDATA=${PGDATA:-/var/lib/postgresql/data/pgdata}
user=${POSTGRES_USER:-postgres} password=${POSTGRES_PASSWORD:-${POSTGRESQL_PASSWORD:-}} db=${POSTGRES_DB:-${POSTGRES_USER:-postgres}}

if [ "$(id -u)" = 0 ]; then
  mkdir -p "$PGDATA"
  chown -R postgres:postgres "$PGDATA" && chmod 700 "$PGDATA"
  exec setpriv --reuid=postgres --regid=postgres --init-groups "$0" "$@"
fi
[ "${1:-}" != postgres ] || shift

if [ ! -s "$PGDATA/PG_VERSION" ]; then
  [ -n "$password" ] || { echo "postgres: set POSTGRES_PASSWORD" >&2; exit 1; }
  # A start that was killed half way through leaves nothing that counts.
  rm -rf "$PGDATA" "$PGDATA.new" 2>/dev/null || rm -rf "${PGDATA:?}"/* "$PGDATA.new"
  initdb -D "$PGDATA.new" -U "$user" --pwfile=<(printf '%s\n' "$password") --auth-local=trust --auth-host=scram-sha-256
  echo 'host all all all scram-sha-256' >>"$PGDATA.new/pg_hba.conf"
  echo 'host replication all all scram-sha-256' >>"$PGDATA.new/pg_hba.conf"
  [ "$db" = postgres ] || printf 'CREATE DATABASE "%s";\n' "$db" | postgres --single -D "$PGDATA.new" postgres >/dev/null
  if [ -d "$PGDATA" ]; then # a mount: it cannot be replaced
    cp -a "$PGDATA.new/." "$PGDATA/" && rm -rf "$PGDATA.new"
  else
    mv "$PGDATA.new" "$PGDATA"
  fi
fi
exec postgres -D "$PGDATA" -c listen_addresses='*' -c unix_socket_directories=/run/postgresql,/tmp "$@"
