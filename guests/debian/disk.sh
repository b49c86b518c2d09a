#!/bin/sh
# disk.sh SYSTEM GRUB.CFG OUT: a partitioned, bootable qcow2 with the folder SYSTEM as its root file system.
# GRUB's two parts go where a BIOS looks: its first sector into the boot sector, the rest into the gap before the partition.
system=$1 config=$2 out=$3 raw=$(mktemp) grub=/usr/lib/grub/i386-pc
# Nothing is out of date: without these stamps the first boot rebuilds every cache.
touch "$system/usr" && touch -r "$system/usr" "$system/etc/.updated" "$system/var/.updated"
truncate -s 3G "$raw"
echo 'start=2048, type=83, bootable' | sfdisk --quiet --label dos "$raw"
# GRUB cannot read two of ext4's newer features.
mke2fs -q -t ext4 -L berth-root -U be47be47-0000-4000-8000-000000000001 -O ^orphan_file,^metadata_csum_seed -E offset=1048576,hash_seed=00000000-0000-4000-8000-000000000000 \
    -d "$system" "$raw" "$(((3 * 1024 * 1024 - 1024)))k"
grub-mkimage -O i386-pc -p /boot/grub -c "$config" -o /tmp/core.img biosdisk part_msdos ext2 linux boot
[ "$(stat -c %s /tmp/core.img)" -lt 1048064 ]
# The boot sector's last bytes are the partition table: they stay.
dd if=$grub/boot.img of="$raw" bs=440 count=1 conv=notrunc status=none
dd if=/tmp/core.img of="$raw" bs=512 seek=1 conv=notrunc status=none
qemu-img convert -c -W -m 8 -O qcow2 -o compression_type=zstd "$raw" "$out"
rm "$raw" /tmp/core.img
