#!/bin/sh
# Turns a system that was installed in a container into one that boots: runs in the image, once.
systemctl enable systemd-networkd.service systemd-resolved.service ssh.service
# What a short-lived guest does not need, and what makes its first minute slow.
systemctl mask apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service fstrim.timer
# Each guest gets its own identity at its first boot.
rm -f /etc/ssh/ssh_host_*_key* /var/lib/dbus/machine-id
: > /etc/machine-id
echo 'LABEL=berth-root / ext4 errors=remount-ro,x-systemd.growfs 0 1' > /etc/fstab
ln -sf /boot/vmlinuz-* /vmlinuz
ln -sf /boot/initrd.img-* /initrd.img
rm -rf /var/cache/apt/* /var/lib/apt/lists/* /var/log/*.log /var/log/apt
