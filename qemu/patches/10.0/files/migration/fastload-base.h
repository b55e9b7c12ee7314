/*
 * Fast load: what is called otherwise, or lacks, in this QEMU: 10.0.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Each supported version has such a file, with the same names in it, so that
 * migration/fastload*.c are the same in all of them.
 */
#ifndef QEMU_MIGRATION_FASTLOAD_BASE_H
#define QEMU_MIGRATION_FASTLOAD_BASE_H

#include "exec/memory.h"
#include "exec/ramblock.h"
#include "exec/ram_addr.h"
#include "chardev/char-fe.h"
#include "options.h"

typedef CharBackend CharFrontend;

/* Is memory handed over, so that nothing of it would be loaded? */
static inline bool fastload_mode_keeps_memory(void)
{
    return migrate_mode() == MIG_MODE_CPR_TRANSFER;
}

/* What to do instead of migrate; savevm cannot work with mapped-ram here. */
#define FASTLOAD_HINT_OUTGOING "Wait until the migration is completed."

#endif
