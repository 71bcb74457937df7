# SPDX-License-Identifier: GPL-2.0-or-later
#
# make                 the kernel module for KVER, and the userspace
# make module user     one of the two; CC=clang SAN=1 TSAN=1 DEBUG=1 STOP_POINTS=1
#                      choose variants
# make install         DESTDIR=, prefix=/usr, KVER=
# make dkms            hand the module to DKMS, which follows kernel updates
# make demo [HOST=1]   the main job, in a guest or on this machine
# make check           all tests; also: unit model fuzz lint sparse bench
# make coverage        how much of the code the tests reach
#
# Everything that is built is under build/: the module in build/kernel/KVER/,
# programs in build/user/CC/. Different KVER and CC do not touch each other.

MAKEFLAGS += --no-builtin-rules
SHELL := /bin/bash
.SUFFIXES:
.DELETE_ON_ERROR:

VERSION := $(shell sed -n 's/^PACKAGE_VERSION="\(.*\)"/\1/p' dkms.conf)

all: module user

# --- the kernel module ------------------------------------------------------

# A kernel tree given by KDIR names its release itself.
ifdef KDIR
KVER := $(shell cat $(KDIR)/include/config/kernel.release)
endif
KVER ?= $(notdir $(patsubst %/build,%,$(shell \
	ls -d /lib/modules/*/build 2>/dev/null | sort -V | tail -n 1)))
KDIR ?= /lib/modules/$(KVER)/build
K := build/kernel/$(KVER)$(if $(DEBUG),-debug)$(if $(KCOVERAGE),-coverage)

# Only sources are copied, so that no build output is ever shared.
KSYNC := rsync -a --delete --exclude='*.mod.c' --include='*/' \
	--include='*.[ch]' --include='Kbuild*' --exclude='*'
KMAKE = $(MAKE) --no-print-directory -C $(KDIR) M=$(CURDIR)/$(K) $(if $(DEBUG),DEBUG=1) \
	$(if $(KCOVERAGE),GCOV_PROFILE=y)

module: | check-kdir
	@mkdir -p $(K)
	+@flock $(K) sh -ec '$(KSYNC) Kbuild kernel $(K)/; \
		$(KMAKE) W=1 KCFLAGS=-Werror modules'

check-kdir:
	@test -n "$(KVER)" -a -e "$(KDIR)/Makefile" || { \
		echo "no kernel headers for '$(KVER)' in '$(KDIR)'" >&2; \
		echo "hint: scripts/install-deps, or make user" >&2; exit 1; }

sparse: | check-kdir
	@tests/sparse $(KVER) $(KDIR)

# --- userspace --------------------------------------------------------------

ifeq ($(origin CC),default)
CC := gcc
endif
PKGS := devmapper libnl-3.0 libnl-genl-3.0 liburing jansson smartcols blkid zlib libdeflate libzstd nettle libcryptsetup
# what unit tests compare with, beyond these
TEST_PKGS := nettle

U := build/user/$(notdir $(CC))$(if $(SAN),-san)$(if $(TSAN),-tsan)$(if $(STOP_POINTS),-stop)$(if $(COVERAGE),-coverage)
ifdef COVERAGE
# counters hide from the compiler what it knows of variables
SANFLAGS := --coverage -fprofile-update=atomic -Wno-maybe-uninitialized
endif
ifdef TSAN
SANFLAGS := -fsanitize=thread -fno-omit-frame-pointer
endif
ifdef SAN
SANFLAGS := -fsanitize=address,undefined -fno-sanitize-recover=undefined \
	-fno-omit-frame-pointer
ifeq ($(notdir $(CC)),clang)
SANFLAGS += -fsanitize=fuzzer-no-link
endif
endif

# Filled in only where userspace is built, so that a machine without the
# libraries still builds the module.
PKG_CFLAGS = $(eval PKG_CFLAGS := $$(shell pkg-config --cflags $(PKGS)))$(PKG_CFLAGS)
PKG_LIBS = $(eval PKG_LIBS := $$(shell pkg-config --libs $(PKGS)))$(PKG_LIBS)
TEST_LIBS = $(eval TEST_LIBS := $$(shell pkg-config --libs $(TEST_PKGS)))$(TEST_LIBS)

CFLAGS ?= -O2 -g
ALL_CFLAGS = -std=gnu11 -Wall -Wextra -Wno-unused-parameter -Werror \
	-Wmissing-prototypes -Wstrict-prototypes -Wpointer-arith \
	-fPIC -fstack-protector-strong -pthread $(SANFLAGS) \
	-D_GNU_SOURCE -D_FILE_OFFSET_BITS=64 \
	-DBLKCTL_VERSION='"$(VERSION)"' \
	$(if $(STOP_POINTS),-DBLK_STOP_POINTS) -Iuser -Iuser/blkctl -Iuser/libblkctl -Ikernel/uapi \
	$(PKG_CFLAGS) $(CPPFLAGS) $(CFLAGS)
ALL_LDFLAGS = -pthread $(SANFLAGS) -Wl,-z,relro,-z,now -Wl,--as-needed $(LDFLAGS)

# A second level of make runs under a lock: two makes in one tree take turns.
user unit-build fuzz-build prop-build crash-build:
	@mkdir -p $(U)
	+@flock $(U) $(MAKE) --no-print-directory build-$@

objects = $(patsubst %.c,$(U)/%.o,$(1))
libsrc := $(wildcard user/libblkctl/*.c user/libblkctl/*/*.c)
progs := $(foreach p,blkctld blkctl,$(if $(wildcard user/$(p)/*.c),$(p)))
map := $(wildcard user/libblkctl/libblkctl.map)
SONUM := 0
comma := ,

ifneq ($(libsrc),)
build-user: $(U)/libblkctl.a $(U)/libblkctl.so.$(SONUM)
endif
build-user: $(addprefix $(U)/,$(progs))

$(U)/libblkctl.a: $(call objects,$(libsrc))
	@rm -f $@
	$(call say,AR)ar rcs $@ $^

$(U)/libblkctl.so.$(SONUM): $(call objects,$(libsrc)) $(map)
	$(call say,LD)$(CC) $(ALL_LDFLAGS) -shared -Wl,-soname,$(@F) \
		$(addprefix -Wl$(comma)--version-script=,$(map)) \
		-o $@ $(filter %.o,$^) $(PKG_LIBS)
	@ln -sf $(@F) $(U)/libblkctl.so

# The programs carry the library inside: one upgrade replaces all of it, and
# what only they need stays out of the library's interface.
define program
$(U)/$(1): $$(call objects,$$(wildcard user/$(1)/*.c user/$(1)/*/*.c)) $(if $(libsrc),$(U)/libblkctl.a)
	$$(call say,LD)$$(CC) $$(ALL_LDFLAGS) -o $$@ $$^ $$(PKG_LIBS)
endef
$(foreach p,$(progs),$(eval $(call program,$(p))))

$(U)/%.o: %.c Makefile
	@mkdir -p $(@D)
	$(call say,CC)$(CC) $(ALL_CFLAGS) -MMD -MP -c -o $@ $<

# --- unit tests and fuzzers ---------------------------------------------------

units := $(patsubst tests/unit/%.c,$(U)/unit/%,$(wildcard tests/unit/*.c))
fuzzers := $(patsubst tests/fuzz/%.c,$(U)/fuzz/%,$(wildcard tests/fuzz/*.c))

build-unit-build: $(units)
$(U)/unit/%: tests/unit/%.c $(if $(libsrc),$(U)/libblkctl.a) Makefile
	@mkdir -p $(@D)
	$(call say,CC)$(CC) $(ALL_CFLAGS) -Itests -MMD -MP $(ALL_LDFLAGS) \
		-o $@ $< $(filter %.a,$^) $(PKG_LIBS) $(TEST_LIBS)

# The property test's program runs in guests.
propsrc := $(wildcard tests/prop/*.c)
build-prop-build: $(U)/prop/prop
$(U)/prop/prop: $(call objects,$(propsrc))
	@mkdir -p $(@D)
	$(call say,LD)$(CC) $(ALL_LDFLAGS) -o $@ $^ -luring

# The crash test's load runs in guests, its judge on the host.
crashsrc := $(wildcard tests/crash/*.c)
build-crash-build: $(U)/crash/writer $(U)/crash/check
$(U)/crash/writer: $(call objects,tests/crash/writer.c tests/crash/sector.c tests/prop/io.c)
	@mkdir -p $(@D)
	$(call say,LD)$(CC) $(ALL_LDFLAGS) -o $@ $^ -luring -ldevmapper
$(U)/crash/check: $(call objects,$(filter-out tests/crash/writer.c,$(crashsrc)))
	@mkdir -p $(@D)
	$(call say,LD)$(CC) $(ALL_LDFLAGS) -o $@ $^ -lz -lzstd -lcrypto -lcryptsetup

# Build these with CC=clang SAN=1: the library they call is instrumented too.
build-fuzz-build: $(fuzzers)
$(U)/fuzz/%: tests/fuzz/%.c $(if $(libsrc),$(U)/libblkctl.a) Makefile
	@mkdir -p $(@D)
	$(call say,CC)$(CC) $(ALL_CFLAGS) -Itests -Itests/fuzz/shim -MMD -MP \
		$(ALL_LDFLAGS) -fsanitize=fuzzer -o $@ $< $(filter %.a,$^) $(PKG_LIBS)

unit:
	@tests/run.sh --only unit
# TIME: seconds for each target
fuzz:
	@FUZZ_SECONDS=$(TIME) tests/run.sh --only fuzz
model:
	@tests/run.sh --only model

# --- installation -------------------------------------------------------------

prefix ?= /usr
sbindir ?= $(prefix)/sbin
libdir ?= $(prefix)/lib/$(shell gcc -print-multiarch)
includedir ?= $(prefix)/include
mandir ?= $(prefix)/share/man
# Where systemd, udev and the others look, whatever the prefix's lib is.
datadir ?= $(prefix)/lib
D = $(DESTDIR)
INSTALL := install -p -D
install_all = $(foreach f,$(1),$(INSTALL) -m 644 $(f) $(D)$(strip $(2))/$(notdir $(f));)

install: install-module install-user

install-module: module
	@$(INSTALL) -m 644 $(K)/kernel/dm-qcow/dm-qcow.ko \
		$(D)/lib/modules/$(KVER)/updates/dm-qcow.ko
	@test -n "$(D)" || depmod $(KVER)

install-user: user
	@for p in $(progs); do $(INSTALL) $(U)/$$p $(D)$(sbindir)/$$p; done
ifneq ($(libsrc),)
	@$(INSTALL) -m 644 $(U)/libblkctl.so.$(SONUM) $(D)$(libdir)/libblkctl.so.$(SONUM)
	@$(INSTALL) -m 644 $(U)/libblkctl.a $(D)$(libdir)/libblkctl.a
	@ln -sf libblkctl.so.$(SONUM) $(D)$(libdir)/libblkctl.so
	@cd user/libblkctl && for h in $$(ls *.h */*.h 2>/dev/null | grep -v _int); do \
		$(INSTALL) -m 644 $$h $(D)$(includedir)/libblkctl/$$h; done
endif
	@$(call install_all,$(wildcard kernel/uapi/linux/*.h),$(includedir)/linux)
	@$(foreach s,1 3 5 7 8,$(call install_all,$(wildcard user/man/*.$(s)),$(mandir)/man$(s)))
	@$(call install_all,$(wildcard user/dist/*.service user/dist/*.socket),$(datadir)/systemd/system)
	@$(call install_all,$(wildcard user/dist/*.rules),$(datadir)/udev/rules.d)
	@$(call install_all,$(wildcard user/dist/completion/*),$(prefix)/share/bash-completion/completions)
	@for f in $(wildcard user/dist/*.tmpfiles); do $(INSTALL) -m 644 $$f \
		$(D)$(datadir)/tmpfiles.d/$$(basename $$f .tmpfiles).conf; done
	@test -n "$(D)" || ldconfig

# What DKMS builds from: the module alone, as a package would ship it.
DKMS_SOURCE := /usr/src/dm-qcow-$(VERSION)
dkms-source:
	@mkdir -p $(D)$(DKMS_SOURCE)
	@$(KSYNC) Kbuild kernel $(D)$(DKMS_SOURCE)/
	@cp COPYING dkms.conf $(D)$(DKMS_SOURCE)/

dkms: dkms-source
	@test -z "$$(dkms status dm-qcow/$(VERSION))" || \
		dkms remove dm-qcow/$(VERSION) --all
	dkms add dm-qcow/$(VERSION)
	dkms install dm-qcow/$(VERSION) -k $(KVER)

# --- tests ----------------------------------------------------------------------

# KERNEL=6.1, 6.12, kasan or kcsan: only on that one
check:
	@scripts/install-deps
	@tests/run.sh $(if $(KERNEL),--kernel $(KERNEL))

# All that runs in guests, on the kernel that finds most; hours
check-debug:
	@scripts/install-deps
	@tests/run.sh --kernel kasan --only device --only prop --only crash

lint:
	@tests/run.sh --only lint

demo:
	@scripts/install-deps
	+@$(if $(HOST),$(MAKE) -s install && tests/demo/demo.sh --host,\
		tests/demo/demo.sh)

# MODULE=1: of the module as well, in guests with a debug kernel
coverage:
	@scripts/install-deps
	@tests/coverage $(if $(MODULE),--module) $(if $(FILTER),--filter '$(FILTER)')

bench:
	@scripts/install-deps
	@tests/bench/run

clean:
	rm -rf build

.PHONY: all module user sparse check-kdir unit unit-build model fuzz fuzz-build \
	prop-build crash-build build-user build-unit-build build-fuzz-build \
	build-prop-build build-crash-build install install-module \
	install-user dkms dkms-source check check-debug lint coverage demo bench clean

# V=1 shows the commands, make -s nothing, otherwise one short line each.
silent := $(findstring s,$(filter-out -%,$(firstword $(MAKEFLAGS))))
say = $(if $(V),,@$(if $(silent),,printf '  %-4s %s\n' $(1) $@;))

-include $(patsubst %.c,$(U)/%.d,$(libsrc) $(wildcard user/blkctl*/*.c user/blkctl*/*/*.c) $(propsrc) $(crashsrc))
-include $(addsuffix .d,$(units) $(fuzzers))
