#!/bin/bash
# mysqldump as public blueprints call it: they mean Oracle's, which has an option
# that MariaDB's does not know.
args=()
for a in "$@"; do
  [[ $a == --column-statistics=* ]] || args+=("$a")
done
exec mariadb-dump "${args[@]}"
