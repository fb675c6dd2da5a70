#!/bin/bash
# Starts MariaDB, on an empty directory after making a database in it. Takes
# MARIADB_ROOT_PASSWORD (or MYSQL_ROOT_PASSWORD), MARIADB_DATABASE (or
# MYSQL_DATABASE) and the server's own options as arguments.
set -euo pipefail
data=/var/lib/mysql
password=${MARIADB_ROOT_PASSWORD:-${MYSQL_ROOT_PASSWORD:-}} db=${MARIADB_DATABASE:-${MYSQL_DATABASE:-}}

if [ "$(id -u)" = 0 ]; then
  chown -R mysql:mysql "$data" /run/mysqld
  exec setpriv --reuid=mysql --regid=mysql --init-groups "$0" "$@"
fi
case "${1:-}" in mariadbd | mysqld) shift ;; esac

if [ ! -d "$data/mysql" ] || [ -e "$data/.thaw-init" ]; then
  [ -n "$password" ] || { echo "mariadb: set MARIADB_ROOT_PASSWORD" >&2; exit 1; }
  # A start that was killed half way through begins again.
  find "$data" -mindepth 1 -delete
  touch "$data/.thaw-init"
  mariadb-install-db --datadir="$data" --auth-root-authentication-method=normal --skip-test-db >/dev/null
  quoted=${password//\'/\'\'}
  {
    echo "FLUSH PRIVILEGES;"
    echo "ALTER USER 'root'@'localhost' IDENTIFIED BY '$quoted';"
    echo "CREATE USER 'root'@'%' IDENTIFIED BY '$quoted';"
    echo "GRANT ALL PRIVILEGES ON *.* TO 'root'@'%' WITH GRANT OPTION;"
    [ -z "$db" ] || echo "CREATE DATABASE \`$db\`;"
  } | mariadbd --no-defaults --datadir="$data" --bootstrap
  rm "$data/.thaw-init"
fi
exec mariadbd --no-defaults --datadir="$data" --bind-address=0.0.0.0 --socket=/run/mysqld/mysqld.sock --pid-file=/run/mysqld/mysqld.pid "$@"
