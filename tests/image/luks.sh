#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# What QEMU encrypts is read, and what we encrypt QEMU reads, with every cipher
# that there is; with another one the error says which.
#
# requires: qemu-img qemu-io
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
done_testing
