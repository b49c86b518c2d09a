#!/bin/sh
# build.sh SOURCES KERNEL OUT: compiles init and packs it, busybox and the modules in the list into OUT/initrd.
# Uncompressed: unpacking costs more than reading without hardware help. Reproducible: times and owners are fixed.
sources=$1 kernel=$2 out=$3 root=$(mktemp -d)
mkdir -p "$out" "$root/bin" "$root/dev" "$root/etc" "$root/modules" "$root/proc" "$root/sys" "$root/tmp"
# musl's compiler wrapper has no kernel headers of its own.
mkdir -p /tmp/headers && ln -sfn /usr/include/linux /tmp/headers/linux && ln -sfn /usr/include/asm-generic /tmp/headers/asm-generic
ln -sfn /usr/include/x86_64-linux-gnu/asm /tmp/headers/asm
musl-gcc -std=gnu17 -static -Os -s -Wall -Wextra -Werror -idirafter /tmp/headers -o "$root/init" "$sources"/init.c "$sources"/services.c "$sources"/devices.c "$sources"/network.c
for program in frames dirty; do
    musl-gcc -std=gnu17 -static -Os -s -Wall -Wextra -Werror -idirafter /tmp/headers -o "$root/bin/$program" "$sources/$program.c"
done
cp /usr/bin/busybox "$root/bin/busybox"
for applet in $("$root/bin/busybox" --list); do [ "$applet" = busybox ] || ln -s busybox "$root/bin/$applet"; done
install -m 755 "$sources/dhcp" "$root/etc/dhcp"
ln -s dhcp "$root/etc/dhcp6"
install -m 644 "$sources/modules" "$root/modules/order"
while read -r name; do
    strip --strip-debug -o "$root/modules/$name.ko" "$(find "$kernel/modules" -name "$name.ko")"
done < "$sources/modules"
find "$root" -exec touch -h -d @0 {} +
(cd "$root" && find . | sort | cpio --quiet --reproducible -o -H newc -R 0:0) > "$out/initrd"
cp "$kernel"/boot/vmlinuz-* "$out/vmlinuz"
