# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=bash
#
# Encrypted images, and QEMU's programs on them.

LUKS_PASS='open sesame'

luks_secret() { echo "secret,id=s,data=$LUKS_PASS"; }

# luks_opts IMAGE: for --image-opts
luks_opts() {
	echo "driver=qcow2,encrypt.key-secret=s,file.filename=$1"
}

# luks_image NAME SIZE [OPTION of qemu-img create]...: in the current folder,
# prints the path
luks_image() {
	local name=$1 size=$2 i
	shift 2
	# A host that measures time coarsely may find the hash too fast.
	for i in $(seq 50); do
		qemu-img create -q --object "$(luks_secret)" -f qcow2 -o \
			encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10 \
			"$@" "$PWD/$name.qcow2" "$size" 2>create.err &&
			echo "$PWD/$name.qcow2" && return
	done
	note "qemu-img ($i times): $(cat create.err)" >&2
	return 1
}

# luks_io IMAGE OPTION-OF-QEMU-IO...: all reads have found their pattern
luks_io() {
	local image=$1 out
	shift
	out=$(qemu-io --object "$(luks_secret)" --image-opts "$@" \
		"$(luks_opts "$image")" 2>&1) || { echo "$out"; return 1; }
	! grep -iE 'verification failed|error|failed' <<<"$out"
}

# luks_compare IMAGE OTHER: the same content; OTHER as QEMU names it
luks_compare() {
	qemu-img compare --object "$(luks_secret)" --image-opts \
		"$(luks_opts "$1")" "driver=raw,file.filename=$2"
}

luks_check() {
	qemu-img check --object "$(luks_secret)" --image-opts \
		"$(luks_opts "$1")"
}
