#!/bin/sh
# Makes the root file system of the test images, in the new directory $1: a
# minimal Debian with the databases' servers and clients. The mirror is $2, the
# release $3, the packages the rest. All of the second half runs in its own
# process and mount namespaces: what a package starts or mounts ends with it.
set -eu
root=$1 mirror=$2 release=$3; shift 3

if [ "${1:-}" != --inside ]; then
  debootstrap --variant=minbase "$release" "$root" "$mirror"
  echo "deb $mirror $release main" >"$root/etc/apt/sources.list"
  # The machine's own way out, where it has one.
  apt-config dump | grep -iE '^(Acquire::https?::|Acquire::Retries)' >"$root/etc/apt/apt.conf.d/01machine" || :
  cp /etc/resolv.conf "$root/etc/resolv.conf"
  exec unshare --mount --pid --fork --kill-child sh "$0" "$root" "$mirror" "$release" --inside "$@"
fi

shift
mount -t proc proc "$root/proc"
# No package starts its service here.
printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"
chmod 755 "$root/usr/sbin/policy-rc.d"
mkdir -p "$root/etc/postgresql-common"
echo 'create_main_cluster = false' >"$root/etc/postgresql-common/createcluster.conf"
# One number for all, as in the images that people use.
for u in postgres mysql redis; do
  chroot "$root" groupadd -o -g 999 "$u"
  chroot "$root" useradd -o -u 999 -g "$u" -d "/var/lib/$u" -s /bin/bash "$u"
done
inside() { chroot "$root" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C DEBIAN_FRONTEND=noninteractive "$@"; }
inside apt-get update -q
inside apt-get install -y -q --no-install-recommends "$@"
inside apt-get clean
umount "$root/proc"
rm -rf "$root"/var/lib/apt/lists/* "$root"/usr/share/doc/* "$root"/usr/share/man/* "$root"/usr/share/locale/* \
  "$root"/var/lib/mysql/* "$root"/var/log/*.log "$root"/etc/apt/apt.conf.d/01machine "$root"/etc/resolv.conf
mkdir -p "$root/data" "$root/run/postgresql" "$root/run/mysqld"
chown 999:999 "$root/data" "$root/run/postgresql" "$root/run/mysqld" "$root/var/lib/mysql"
