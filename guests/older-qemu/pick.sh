# Of all unpacked packages ($1), what QEMU needs for a guest without a screen, into $2: itself, its libraries, firmware.
all=$1 out=$2
mkdir -p "$out/bin" "$out/lib" "$out/modules" "$out/share"
cp "$all/usr/bin/qemu-system-x86_64" "$out/bin/"
cp "$all"/usr/lib/x86_64-linux-gnu/qemu/accel-*.so "$out/modules/"
cp "$all"/usr/share/qemu/*.bin "$all"/usr/share/qemu/*.rom "$out/share/" 2>/dev/null || true  # some lead elsewhere
cp "$all"/usr/share/seabios/*.bin "$out/share/"
cp "$all"/usr/lib/ipxe/qemu/*.rom "$out/share/"
cp "$(find "$all" -name 'ld-linux-x86-64.so.2' -type f)" "$out/lib/ld.so"
path=$(find "$all/lib" "$all/usr/lib" -name '*.so*' -printf '%h\n' | sort -u | paste -sd:)
for binary in "$out/bin/qemu-system-x86_64" "$out"/modules/*.so; do
    "$out/lib/ld.so" --library-path "$path" --list "$binary"
done | sed -n "s,.* => \($all/[^ ]*\) .*,\1,p" | sort -u | while read -r library; do cp -L "$library" "$out/lib/"; done
cat > "$out/qemu" <<'END'
#!/bin/sh
export QEMU_MODULE_DIR=/older/modules
exec /older/lib/ld.so --library-path /older/lib /older/bin/qemu-system-x86_64 -L /older/share "$@"
END
chmod 755 "$out/qemu"
ln -s "$out" /older
/older/qemu --version
/older/qemu -machine pc-q35-7.2,accel=tcg -cpu qemu64 -display none -S -monitor stdio <<'END'
quit
END
