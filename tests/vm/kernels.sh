# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=bash
#
# Finds and prepares the kernel of a guest. Sourced by tests/vm/run.
#
# A kernel is found by kernel_select, which sets
#   KVER   its release
#   KDIR   where modules for it are built
#   KID    release and package version: the key of what is cached
# and made ready by kernel_prepare, which sets
#   KELF   the ELF image that QEMU boots through PVH
#   KMODS  a folder with its modules and their modules.dep
#   INITRD an initramfs that mounts the root

CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/dm-qcow

# What the initramfs needs to mount a 9p root under an overlay.
INITRD_MODULES="virtio_pci virtio_console 9pnet_virtio 9p overlay"
# What every guest needs, so that it does not look for it: loaded there too.
INITRD_MODULES+=" virtio_blk dm-mod"

# The newest release with installed headers whose name starts with $1.
newest_headers() {
	local d
	for d in /lib/modules/"$1"*/build; do
		[ -e "$d/Makefile" ] && basename "$(dirname "$d")"
	done | sort -V | tail -n 1
}

kernel_select() {
	local name=$1
	KTREE=
	case $name in
	kasan | kcsan)
		"$VMDIR"/build-debug-kernel "$name" >&2 || die "no $name kernel"
		KTREE=$CACHE/debug/$name
		;;
	*/*)
		KTREE=$(realpath -e "$name") || die "no kernel tree: $name"
		;;
	*)
		KVER=$name
		[[ $name =~ ^[0-9]+\.[0-9]+$ ]] &&
			KVER=$(newest_headers "$name.")
		KDIR=/lib/modules/$KVER/build
		[ -n "$KVER" ] && [ -e "$KDIR/Makefile" ] ||
			die "no headers of kernel $name: try scripts/install-deps"
		KID=${KVER}_$(dpkg-query -W -f '${Version}' \
			"linux-headers-$KVER" 2>/dev/null) ||
			die "linux-headers-$KVER is not Debian's"
		return
		;;
	esac
	KVER=$(cat "$KTREE"/include/config/kernel.release) ||
		die "$KTREE holds no built kernel"
	KDIR=$KTREE
	KID=$KVER-$(stat -c %Y "$KTREE"/vmlinux)
}

# Unpacks Debian's image package; it is not installed.
unpack_image() {
	local dest=$1 pkg=linux-image-$KVER version=${KID#*_} deb tmp
	deb=$CACHE/deb/${pkg}_${version}_amd64.deb
	if [ ! -e "$deb" ]; then
		note "fetching $pkg"
		mkdir -p "$CACHE/deb"
		(cd "$CACHE/deb" && apt-get -q -o APT::Sandbox::User=root \
			download "$pkg=$version") >/dev/null 2>&1
		[ -e "$deb" ] || die "apt-get cannot download $pkg $version"
	fi
	note "unpacking $pkg"
	tmp=$(mktemp -d "$dest.XXXXXX")
	dpkg -x "$deb" "$tmp"
	"$VMDIR"/extract-vmlinux "$tmp/boot/vmlinuz-$KVER" "$tmp/vmlinux"
	depmod -b "$tmp" "$KVER"
	rm -rf "$dest"
	mv "$tmp" "$dest"
}

# A built tree: its modules, if it has any, are installed into the cache.
install_tree() {
	local dest=$1 tmp
	tmp=$(mktemp -d "$dest.XXXXXX")
	mkdir -p "$tmp/lib/modules/$KVER/kernel"
	cp "$KTREE"/modules.builtin* "$tmp/lib/modules/$KVER/"
	touch "$tmp/lib/modules/$KVER/modules.order"
	if [ -s "$KTREE/modules.order" ]; then
		make -s -C "$KTREE" modules_install INSTALL_MOD_PATH="$tmp" >&2
	fi
	depmod -b "$tmp" "$KVER"
	ln -s "$KTREE/vmlinux" "$tmp/vmlinux"
	rm -rf "$dest"
	mv "$tmp" "$dest"
}

# The modules' files in loading order, each once.
initrd_files() {
	local m
	for m in $INITRD_MODULES; do
		modprobe -d "$1" -S "$KVER" --show-depends "$m" 2>/dev/null ||
			note "kernel $KVER has no $m"
	done | awk '$1 == "insmod" && !seen[$2]++ { print $2 }'
}

build_initrd() {
	local root=$1 out=$2 tmp f n=0
	tmp=$(mktemp -d)
	mkdir -p "$tmp"/{bin,modules,proc,sys,dev,host,stage,rw,root}
	cp "$(command -v busybox)" "$tmp/bin/busybox"
	cp "$VMDIR/initramfs-init" "$tmp/init"
	for f in $(initrd_files "$root"); do
		n=$((n + 1))
		case $f in
		*.xz) xz -dc "$f" ;;
		*) cat "$f" ;;
		esac >"$tmp/modules/$(printf %02d $n).ko"
	done
	(cd "$tmp" && find . | cpio -o -H newc --quiet) >"$out.$$"
	mv "$out.$$" "$out"
	rm -rf "$tmp"
}

kernel_prepare() {
	local root=$CACHE/kernel/$KID key
	mkdir -p "$CACHE/kernel" "$CACHE/initramfs"
	exec 8>"$CACHE/kernel/.lock"
	flock 8
	if [ ! -e "$root/vmlinux" ]; then
		if [ -n "$KTREE" ]; then
			install_tree "$root"
		else
			unpack_image "$root"
		fi
	fi
	key=$({ echo "$INITRD_MODULES"
		cat "$VMDIR/initramfs-init" "$(command -v busybox)"; } | sha256sum)
	INITRD=$CACHE/initramfs/$KID-${key:0:16}.cpio
	[ -e "$INITRD" ] || build_initrd "$root" "$INITRD"
	exec 8>&-
	KELF=$root/vmlinux
	KMODS=$root/lib/modules/$KVER
}
