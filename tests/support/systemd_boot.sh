#!/usr/bin/env bash
# Process 1 of new namespaces: makes a root of its own over that of this machine, and becomes systemd there, or does
# nothing. What is written there stays there.
# Usage: systemd_boot.sh systemd|nothing FOLDER [SOURCE TARGET]...   (what is bound into the root, read-only)
set -euo pipefail

init=$1
folder=$2
shift 2
root=$folder/root
mount --make-rprivate /
mount -t tmpfs -o mode=755 tmpfs "$folder"
mkdir "$folder"/{upper,work,root}
mount -t overlay -o "lowerdir=/,upperdir=$folder/upper,workdir=$folder/work" overlay "$root"
while [ $# -gt 0 ]; do
    mkdir -p "$root$2"
    mount --bind "$1" "$root$2"
    mount -o remount,bind,ro "$root$2"
    shift 2
done

mount -t proc proc "$root/proc"
mount --bind "$root/proc/sys" "$root/proc/sys"
mount -o remount,bind,ro "$root/proc/sys"
mount -t sysfs -o ro sysfs "$root/sys"
mount -t tmpfs -o mode=755 tmpfs "$root/run"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
cp -a /dev/{null,zero,full,random,urandom,tty} "$root/dev/"
mkdir "$root"/dev/{pts,shm}
mount -t devpts -o newinstance,ptmxmode=666,mode=620 devpts "$root/dev/pts"
mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"

ip link set lo up
cd "$root"

if [ "$init" = nothing ]; then
    exec unshare --root "$root" sleep infinity
fi

# Of all that is installed on this machine, only what services need to run is started.
rm -rf "$root"/etc/systemd/system "$root"/var/log/journal
mkdir "$root/etc/systemd/system"
for unit in timers.target systemd-modules-load.service systemd-journald-audit.socket \
    sys-kernel-{debug,tracing}.mount; do
    ln -s /dev/null "$root/etc/systemd/system/$unit"
done
: >"$root/etc/fstab"
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
exec env --ignore-environment container=tests PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    setpriv --bounding-set -sys_module,-sys_rawio,-sys_time,-audit_control,-audit_read,-syslog \
    unshare --root "$root" /lib/systemd/systemd --system --unit=basic.target
