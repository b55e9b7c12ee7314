/*
 * Fast load: what is called otherwise, or lacks, in this QEMU: 10.2.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Each supported version has such a file, with the same names in it, so that
 * migration/fastload*.c are the same in all of them.
 */
#ifndef QEMU_MIGRATION_FASTLOAD_BASE_H
#define QEMU_MIGRATION_FASTLOAD_BASE_H

#include "system/memory.h"
#include "system/ramblock.h"
#include "system/ram_addr.h"
#include "options.h"

/* Is memory handed over, so that nothing of it would be loaded? */
static inline bool fastload_mode_keeps_memory(void)
{
    return migrate_mode() == MIG_MODE_CPR_TRANSFER ||
           migrate_mode() == MIG_MODE_CPR_EXEC;
}

/* What to do instead of migrate. */
#define FASTLOAD_HINT_OUTGOING \
    "Wait until the migration is completed, or use snapshot-save."

#endif
