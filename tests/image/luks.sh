#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# What QEMU encrypts is read, and what we encrypt QEMU reads, with every cipher
# that there is; with another one the error says which. Key slots come and go.
#
# requires: qemu-img qemu-io jq
. "$(dirname "$0")/lib.sh"

secret=(--object "secret,id=s,data=x")
options=encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10
of() { echo "driver=qcow2,encrypt.key-secret=s,file.filename=$1"; }

head -c 500000 /dev/urandom >r.raw && truncate -s 1M r.raw
for o in cipher-alg=aes-256,cipher-mode=xts,ivgen-alg=plain64 \
	cipher-alg=aes-128,cipher-mode=xts,ivgen-alg=plain \
	cipher-alg=aes-256,cipher-mode=cbc,ivgen-alg=plain64 \
	cipher-alg=aes-128,cipher-mode=cbc,ivgen-alg=essiv,ivgen-hash-alg=sha256; do
	t "$o" img convert -q "${secret[@]}" -O qcow2 \
		-o "$options,encrypt.${o//,/,encrypt.}" r.raw e.qcow2
	t "QEMU reads it" qemu-img compare -q "${secret[@]}" --image-opts \
		"$(of e.qcow2)" driver=raw,file.filename=r.raw
	qemu-io "${secret[@]}" --image-opts "$(of e.qcow2)" \
		-c 'write -P 5 100k 300k' >/dev/null
	cp r.raw w.raw
	qemu-io -f raw -c 'write -P 5 100k 300k' w.raw >/dev/null
	t "what QEMU wrote is read" img compare -q "${secret[@]}" --image-opts \
		"$(of e.qcow2)" driver=raw,file.filename=w.raw
done
t "another mode" patient qemu-img create -q "${secret[@]}" -f qcow2 \
	-o "$options,encrypt.cipher-mode=ecb" e.qcow2 1M
fails_with 1 "is not read" img convert -q "${secret[@]}" --image-opts \
	-O raw "$(of e.qcow2)" x.raw
like "$output" "aes-ecb-plain64" "and the error says so"

# Key slots. QEMU is the judge of what they are, and of the passphrases.
secret+=(--object "secret,id=n,data=new words" --object "secret,id=w,data=wrong")
slots() {
	qemu-img info --output=json e.qcow2 | jq -r '[."format-specific".data.encrypt.slots |
		to_entries[] | select(.value.active).key] | join(" ")'
}
opens() {
	qemu-img compare -q "${secret[@]}" --image-opts \
		"driver=qcow2,encrypt.key-secret=$1,file.filename=e.qcow2" \
		driver=raw,file.filename=r.raw
}
# amend KEY OPTIONS
amend() {
	img amend -q "${secret[@]}" -o "$2" --image-opts \
		"driver=qcow2,encrypt.key-secret=$1,file.filename=e.qcow2"
}

t "to be amended" img convert -q "${secret[@]}" -O qcow2 -o "$options" r.raw e.qcow2
new=encrypt.state=active,encrypt.new-secret=n,encrypt.iter-time=10
t "another passphrase" amend s $new
is "$(slots)" "0 1" "has a slot"
t "QEMU takes it" opens n
t "and the old one" opens s
t "in a slot that is named" amend n $new,encrypt.keyslot=6
is "$(slots)" "0 1 6" "it is there"
t "QEMU's own" patient qemu-img amend -q "${secret[@]}" -o $new,encrypt.keyslot=7 \
	--image-opts "$(of e.qcow2)"
sum=$(sha e.qcow2)
fails_with 1 "one that is in use" amend s $new,encrypt.keyslot=6
like "$output" "erase it first" "and why"
for o in $new,encrypt.keyslot=8 encrypt.state=active encrypt.new-secret=n \
	encrypt.state=inactive encrypt.state=inactive,encrypt.keyslot=3 \
	encrypt.state=inactive,encrypt.new-secret=n $new,encrypt.old-secret=s \
	encrypt.state=inactive,encrypt.old-secret=w \
	encrypt.state=inactive,encrypt.keyslot=0,encrypt.old-secret=n \
	encrypt.state=active,encrypt.new-secret=none $new,encrypt.keyslot=x; do
	fails_with 1 "refused: $o" amend s "$o"
done
fails_with 1 "a wrong passphrase" amend w $new
like "$output" "Invalid password" "and why"
fails_with 1 "none" img amend -q "${secret[@]}" -o $new e.qcow2
like "$output" "encrypt.key-secret" "and how"
is "$(sha e.qcow2)" "$sum" "nothing has changed"
t "a slot is erased" amend s encrypt.state=inactive,encrypt.keyslot=6
is "$(slots)" "0 1 7" "by number"
t "those of a passphrase" amend s encrypt.state=inactive,encrypt.old-secret=n
is "$(slots)" "0" "are erased"
fails_with 0 "the disk is as it was" opens s
fails_with 2 "the passphrase is gone" opens n
fails_with 1 "the last one stays" amend s encrypt.state=inactive,encrypt.keyslot=0
fails_with 1 "by its passphrase too" amend s encrypt.state=inactive,encrypt.old-secret=s
is "$(slots)" "0" "it is there"
t "the image is clean" qemu-img check -q "${secret[@]}" \
	--image-opts "$(of e.qcow2)"
qemu-img create -q -f qcow2 p.qcow2 1M
fails_with 1 "an image without LUKS" img amend -q "${secret[@]}" -o $new p.qcow2
done_testing
