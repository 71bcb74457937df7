/* SPDX-License-Identifier: ((GPL-2.0 WITH Linux-syscall-note) OR MIT) */
/*
 * The qcow2 format on disk: structures and pure functions that encode, decode
 * and validate them.  The kernel module, the library and the fuzzers include
 * this one file, so that all of them agree on what is valid.
 *
 * Nothing here allocates, does I/O or keeps state.  Sizes and offsets are
 * bytes.  The rules are those of QEMU's docs/interop/qcow2.rst; where a limit
 * is not in it, it is the one that QEMU enforces.
 */
#ifndef _UAPI_LINUX_QCOW2_DISK_H
#define _UAPI_LINUX_QCOW2_DISK_H

#include <linux/types.h>
#include <asm/byteorder.h>

#define QCOW2_MAGIC			0x514649fbU	/* "QFI\xfb" */
#define QCOW2_MIN_CLUSTER_BITS		9
#define QCOW2_MAX_CLUSTER_BITS		21
#define QCOW2_MAX_L1_BYTES		(32U << 20)
#define QCOW2_MAX_REFTABLE_BYTES	(8U << 20)
#define QCOW2_MAX_SNAPSHOTS		65536U
#define QCOW2_MAX_BACKING_NAME		1023U
#define QCOW2_V2_HEADER_BYTES		72U
#define QCOW2_V3_HEADER_BYTES		104U
#define QCOW2_HEADER_MIN_READ		112U	/* bytes that decode looks at */

#define QCOW2_INCOMPAT_DIRTY		(1ULL << 0)
#define QCOW2_INCOMPAT_CORRUPT		(1ULL << 1)
#define QCOW2_INCOMPAT_DATA_FILE	(1ULL << 2)
#define QCOW2_INCOMPAT_COMPRESSION	(1ULL << 3)
#define QCOW2_INCOMPAT_EXTL2		(1ULL << 4)
#define QCOW2_INCOMPAT_KNOWN		0x1fULL
#define QCOW2_COMPAT_LAZY_REFCOUNTS	(1ULL << 0)
#define QCOW2_AUTOCLEAR_BITMAPS		(1ULL << 0)
#define QCOW2_AUTOCLEAR_DATA_FILE_RAW	(1ULL << 1)

#define QCOW2_CRYPT_NONE		0
#define QCOW2_CRYPT_AES			1
#define QCOW2_CRYPT_LUKS		2

#define QCOW2_EXT_END			0x00000000U
#define QCOW2_EXT_BACKING_FORMAT	0xe2792acaU
#define QCOW2_EXT_FEATURE_TABLE		0x6803f857U
#define QCOW2_EXT_BITMAPS		0x23852875U
#define QCOW2_EXT_CRYPTO		0x0537be77U
#define QCOW2_EXT_DATA_FILE		0x44415441U
/* Ours: the image is attached read-write.  Left behind = the user crashed. */
#define QCOW2_EXT_IN_USE		0x444d5143U	/* "DMQC" */

/* L1 and L2 entries */
#define QCOW2_OFFSET_MASK		0x00fffffffffffe00ULL
#define QCOW2_ENTRY_COPIED		(1ULL << 63)
#define QCOW2_L2_COMPRESSED		(1ULL << 62)
#define QCOW2_L2_ZERO			(1ULL << 0)
#define QCOW2_L1_RESERVED		0x7f000000000001ffULL
#define QCOW2_L2_RESERVED		0x3f000000000001feULL
/* Refcount table entries */
#define QCOW2_REFTABLE_OFFSET_MASK	0xfffffffffffffe00ULL

/* All fields big endian.  Version 2 ends before incompatible_features. */
struct qcow2_disk_header {
	__be32 magic;
	__be32 version;
	__be64 backing_file_offset;
	__be32 backing_file_size;
	__be32 cluster_bits;
	__be64 size;
	__be32 crypt_method;
	__be32 l1_size;
	__be64 l1_table_offset;
	__be64 refcount_table_offset;
	__be32 refcount_table_clusters;
	__be32 nb_snapshots;
	__be64 snapshots_offset;
	__be64 incompatible_features;
	__be64 compatible_features;
	__be64 autoclear_features;
	__be32 refcount_order;
	__be32 header_length;
	__u8 compression_type;
	__u8 padding[7];
} __attribute__((packed));

/* A header extension; its data follows, padded to 8 bytes. */
struct qcow2_disk_ext {
	__be32 magic;
	__be32 length;
} __attribute__((packed));

/* Data of QCOW2_EXT_IN_USE */
struct qcow2_disk_in_use {
	__be32 version;		/* 1 */
	__be32 reserved;	/* 0 */
} __attribute__((packed));

/* The header in host byte order, defaults filled in for version 2. */
struct qcow2_header {
	__u32 version;
	__u32 cluster_bits;
	__u32 crypt_method;
	__u32 l1_size;			/* entries */
	__u32 refcount_table_clusters;
	__u32 nb_snapshots;
	__u32 backing_file_size;
	__u32 refcount_order;
	__u32 header_length;
	__u32 compression_type;
	__u64 backing_file_offset;
	__u64 size;			/* of the guest's disk */
	__u64 l1_table_offset;
	__u64 refcount_table_offset;
	__u64 snapshots_offset;
	__u64 incompatible_features;
	__u64 compatible_features;
	__u64 autoclear_features;
};

static inline __u64 qcow2_cluster_size(const struct qcow2_header *h)
{
	return 1ULL << h->cluster_bits;
}

/* Bits of a guest offset that one L2 table covers. */
static inline __u32 qcow2_l2_span_bits(const struct qcow2_header *h)
{
	__u32 entry_bits =
		h->incompatible_features & QCOW2_INCOMPAT_EXTL2 ? 4 : 3;

	return 2 * h->cluster_bits - entry_bits;
}

/* L1 entries that the guest's size needs. */
static inline __u64 qcow2_l1_needed(const struct qcow2_header *h)
{
	__u32 bits = qcow2_l2_span_bits(h);

	return (h->size >> bits) + !!(h->size & ((1ULL << bits) - 1));
}

/**
 * qcow2_header_decode - from disk to host order, without judging the values
 * @buf: at least QCOW2_HEADER_MIN_READ bytes from the start of the image
 * @h: filled in
 * Return: NULL, or a sentence fragment that says why this is no qcow2 image.
 */
static inline const char *qcow2_header_decode(const void *buf,
					      struct qcow2_header *h)
{
	const struct qcow2_disk_header *d =
		(const struct qcow2_disk_header *)buf;

	if (__be32_to_cpu(d->magic) != QCOW2_MAGIC)
		return "not a qcow2 image (no QFI\\xfb magic)";
	h->version = __be32_to_cpu(d->version);
	if (h->version != 2 && h->version != 3)
		return "unsupported qcow2 version (only 2 and 3 exist)";
	h->cluster_bits = __be32_to_cpu(d->cluster_bits);
	h->crypt_method = __be32_to_cpu(d->crypt_method);
	h->l1_size = __be32_to_cpu(d->l1_size);
	h->refcount_table_clusters = __be32_to_cpu(d->refcount_table_clusters);
	h->nb_snapshots = __be32_to_cpu(d->nb_snapshots);
	h->backing_file_size = __be32_to_cpu(d->backing_file_size);
	h->backing_file_offset = __be64_to_cpu(d->backing_file_offset);
	h->size = __be64_to_cpu(d->size);
	h->l1_table_offset = __be64_to_cpu(d->l1_table_offset);
	h->refcount_table_offset = __be64_to_cpu(d->refcount_table_offset);
	h->snapshots_offset = __be64_to_cpu(d->snapshots_offset);
	h->incompatible_features = 0;
	h->compatible_features = 0;
	h->autoclear_features = 0;
	h->refcount_order = 4;
	h->header_length = QCOW2_V2_HEADER_BYTES;
	h->compression_type = 0;
	if (h->version == 2)
		return (const char *)0;
	h->incompatible_features = __be64_to_cpu(d->incompatible_features);
	h->compatible_features = __be64_to_cpu(d->compatible_features);
	h->autoclear_features = __be64_to_cpu(d->autoclear_features);
	h->refcount_order = __be32_to_cpu(d->refcount_order);
	h->header_length = __be32_to_cpu(d->header_length);
	if (h->header_length > QCOW2_V3_HEADER_BYTES)
		h->compression_type = d->compression_type;
	return (const char *)0;
}

/* Is [off, off + len) cluster aligned, not at 0, and below 2^56? */
static inline int qcow2_table_ok(const struct qcow2_header *h, __u64 off,
				 __u64 len)
{
	return off && !(off & (qcow2_cluster_size(h) - 1)) &&
		off < (1ULL << 56) && len < (1ULL << 56) - off;
}

static inline const char *
qcow2_header_validate_features(const struct qcow2_header *h)
{
	if (h->version == 2)
		return (const char *)0;
	if (h->header_length < QCOW2_V3_HEADER_BYTES ||
	    h->header_length > qcow2_cluster_size(h) || h->header_length & 7)
		return "header_length is out of range";
	if (h->incompatible_features & ~QCOW2_INCOMPAT_KNOWN)
		return "unknown incompatible feature bits";
	if (h->compression_type > 1)
		return "unknown compression type";
	if (!!(h->incompatible_features & QCOW2_INCOMPAT_COMPRESSION) !=
	    (h->compression_type != 0))
		return "the compression type does not match its feature bit";
	if (h->incompatible_features & QCOW2_INCOMPAT_EXTL2 &&
	    h->cluster_bits < 14)
		return "extended L2 entries need clusters of 16 KiB or more";
	return (const char *)0;
}

/**
 * qcow2_header_validate - judge every field of a decoded header
 * @h: from qcow2_header_decode()
 * @file_size: bytes of the image file or device
 *
 * Rejects what QEMU rejects at open (QEMU: qcow2_do_open,
 * qcow2_validate_table), and tables that begin behind the end of the file.
 * It does not judge which valid features the caller supports.
 *
 * Return: NULL, or a sentence fragment that says what is wrong.
 */
static inline const char *qcow2_header_validate(const struct qcow2_header *h,
						__u64 file_size)
{
	const char *why;
	__u64 cs;

	if (h->cluster_bits < QCOW2_MIN_CLUSTER_BITS ||
	    h->cluster_bits > QCOW2_MAX_CLUSTER_BITS)
		return "cluster_bits is out of range (9..21)";
	cs = qcow2_cluster_size(h);
	why = qcow2_header_validate_features(h);
	if (why)
		return why;
	if (h->crypt_method > QCOW2_CRYPT_LUKS)
		return "unknown encryption method";
	if (h->refcount_order > 6)
		return "refcount_order is out of range (0..6)";
	if (!h->refcount_table_clusters ||
	    h->refcount_table_clusters >
	    QCOW2_MAX_REFTABLE_BYTES >> h->cluster_bits)
		return "refcount_table_clusters is out of range";
	if (!qcow2_table_ok(h, h->refcount_table_offset,
			    (__u64)h->refcount_table_clusters * cs) ||
	    h->refcount_table_offset >= file_size)
		return "refcount_table_offset is not a cluster in the file";
	if (h->size > 1ULL << 61)
		return "the disk size is out of range";
	if ((__u64)h->l1_size * 8 > QCOW2_MAX_L1_BYTES)
		return "l1_size is out of range (the L1 table may have 32 MiB)";
	if (h->l1_size < qcow2_l1_needed(h))
		return "l1_size is too small for the disk size";
	if (h->l1_size && (!qcow2_table_ok(h, h->l1_table_offset,
					   (__u64)h->l1_size * 8) ||
			   h->l1_table_offset >= file_size))
		return "l1_table_offset is not a cluster in the file";
	if (h->nb_snapshots > QCOW2_MAX_SNAPSHOTS)
		return "nb_snapshots is out of range (0..65536)";
	if (h->nb_snapshots && (!qcow2_table_ok(h, h->snapshots_offset, 0) ||
				h->snapshots_offset >= file_size))
		return "snapshots_offset is not a cluster in the file";
	if (h->backing_file_offset &&
	    (h->backing_file_offset >= cs ||
	     h->backing_file_size > QCOW2_MAX_BACKING_NAME ||
	     h->backing_file_size > cs - h->backing_file_offset))
		return "the backing file name is outside the header cluster";
	return (const char *)0;
}

/*
 * L2 entries of 8 bytes ("standard").  Pass them in host byte order.
 */
enum qcow2_cluster_type {
	QCOW2_UNALLOCATED,	/* reads the backing file, or zeroes */
	QCOW2_ZERO_PLAIN,	/* reads zeroes, no host cluster */
	QCOW2_ZERO_ALLOC,	/* reads zeroes, owns a host cluster */
	QCOW2_NORMAL,
	QCOW2_COMPRESSED,
};

static inline enum qcow2_cluster_type qcow2_l2_type(__u64 entry)
{
	if (entry & QCOW2_L2_COMPRESSED)
		return QCOW2_COMPRESSED;
	if (entry & QCOW2_L2_ZERO)
		return entry & QCOW2_OFFSET_MASK ?
			QCOW2_ZERO_ALLOC : QCOW2_ZERO_PLAIN;
	return entry & QCOW2_OFFSET_MASK ? QCOW2_NORMAL : QCOW2_UNALLOCATED;
}

/* Bit position that separates offset and sector count of a compressed entry */
static inline __u32 qcow2_compressed_shift(__u32 cluster_bits)
{
	return 62 - (cluster_bits - 8);
}

static inline __u64 qcow2_compressed_offset(__u64 entry, __u32 cluster_bits)
{
	return entry & ((1ULL << qcow2_compressed_shift(cluster_bits)) - 1);
}

/* Upper bound of the compressed data's length: up to the last sector's end. */
static inline __u64 qcow2_compressed_length(__u64 entry, __u32 cluster_bits)
{
	__u64 more = (entry & (QCOW2_L2_COMPRESSED - 1)) >>
		qcow2_compressed_shift(cluster_bits);

	return (more + 1) * 512 -
		(qcow2_compressed_offset(entry, cluster_bits) & 511);
}

/**
 * qcow2_l2_check - judge one standard L2 entry
 * @entry: host byte order
 * @cluster_bits: of the image
 * @file_size: bytes, rounded up to whole clusters
 * @version: 2 or 3
 * Return: NULL, or a sentence fragment.
 */
static inline const char *qcow2_l2_check(__u64 entry, __u32 cluster_bits,
					 __u64 file_size, __u32 version)
{
	__u64 off = entry & QCOW2_OFFSET_MASK;

	if (entry & QCOW2_L2_COMPRESSED) {
		if (entry & QCOW2_ENTRY_COPIED)
			return "a compressed cluster is marked as copied";
		if (qcow2_compressed_offset(entry, cluster_bits) >= file_size)
			return "a compressed cluster is outside the file";
		return (const char *)0;
	}
	if (entry & QCOW2_L2_RESERVED)
		return "reserved bits of an L2 entry are set";
	if (entry & QCOW2_L2_ZERO && version < 3)
		return "an L2 entry of a version 2 image has the zero flag";
	if (off & ((1ULL << cluster_bits) - 1))
		return "a data cluster's offset is not aligned";
	if (off >= file_size)
		return "a data cluster is outside the file";
	return (const char *)0;
}

/*
 * Extended L2 entries: 16 bytes, an entry as above without the zero flag and a
 * bitmap of the cluster's 32 subclusters, the first one in the lowest bit.
 */
#define QCOW2_SUBCLUSTERS	32
#define QCOW2_EXTL2_ALLOC(sc)	(1ULL << (sc))		/* has data */
#define QCOW2_EXTL2_ZERO(sc)	(1ULL << (32 + (sc)))	/* reads zeroes */
#define QCOW2_EXTL2_ALL_ALLOC	0x00000000ffffffffULL
#define QCOW2_EXTL2_ALL_ZERO	0xffffffff00000000ULL

/**
 * qcow2_extl2_check - judge the bitmap of an extended L2 entry
 * @entry, @bitmap: host byte order; qcow2_l2_check() has accepted @entry
 * @allocated: the entry has a host cluster (in an image with an external data
 *             file an offset of 0 with COPIED is one)
 * Return: NULL, or a sentence fragment.
 */
static inline const char *qcow2_extl2_check(__u64 entry, __u64 bitmap,
					    int allocated)
{
	if (entry & QCOW2_L2_COMPRESSED)
		return bitmap ? "a compressed cluster has subclusters" :
			(const char *)0;
	if (entry & QCOW2_L2_ZERO)
		return "an extended L2 entry has the zero flag";
	if (bitmap >> 32 & bitmap & QCOW2_EXTL2_ALL_ALLOC)
		return "a subcluster is both allocated and zero";
	if (!allocated && bitmap & QCOW2_EXTL2_ALL_ALLOC)
		return "a subcluster is allocated in no cluster";
	return (const char *)0;
}

/* Judge one L1 entry; arguments as in qcow2_l2_check(). */
static inline const char *qcow2_l1_check(__u64 entry, __u32 cluster_bits,
					 __u64 file_size)
{
	__u64 off = entry & QCOW2_OFFSET_MASK;

	if (entry & QCOW2_L1_RESERVED)
		return "reserved bits of an L1 entry are set";
	if (off & ((1ULL << cluster_bits) - 1))
		return "an L2 table's offset is not aligned";
	if (off >= file_size)
		return "an L2 table is outside the file";
	return (const char *)0;
}

#endif /* _UAPI_LINUX_QCOW2_DISK_H */
