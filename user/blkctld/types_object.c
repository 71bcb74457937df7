// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Types of object-add and object-del, as QEMU's qapi/qom.json and
 * qapi/crypto.json have them, as far as they exist here.
 *
 * Owns: tables, nothing else.  Threads: constant data.
 */
#include "types.h"

ENUM(object_type, "ObjectType", "secret", "secret_keyring");
ENUM(secret_format, "QCryptoSecretFormat", "raw", "base64");

/* A secret that is encrypted with another one is refused in words */
#define SECRET_COMMON				\
	OPT("format", &secret_format),		\
	OPT("keyid", &qmp_str),			\
	OPT("iv", &qmp_str)

OBJECT(secret_properties, "SecretProperties",
	SECRET_COMMON,
	OPT("data", &qmp_str),
	OPT("file", &qmp_str));

OBJECT(keyring_properties, "SecretKeyringProperties",
	SECRET_COMMON,
	{ .name = "serial", .type = &qmp_int, .max = INT32_MAX });

const struct qmp_type qmp_object_options = {
	.kind = QMP_OBJECT, .name = "ObjectOptions",
	.members = (const struct qmp_member []){
		REQ("qom-type", &object_type),
		REQ("id", &qmp_str),
		END
	},
	.tag = "qom-type",
	.variants = (const struct qmp_variant []){
		{ "secret", &secret_properties },
		{ "secret_keyring", &keyring_properties },
		{ NULL, NULL }
	},
};

const struct qmp_type qmp_object_del_args = {
	.kind = QMP_OBJECT, .name = "q_obj_object-del-arg",
	.members = (const struct qmp_member []){
		REQ("id", &qmp_str),
		END
	},
};
