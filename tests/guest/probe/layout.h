/*
 * Addresses and sizes that C and assembler of the probe guest share
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef PROBE_LAYOUT_H
#define PROBE_LAYOUT_H

#define MAPPED_GIB      8           /* of physical addresses, from 0 on */
#define STACK_BYTES     8192        /* of each processor */
#define CPUS_MAX_ASM    16          /* as CPUS_MAX */
#define EXCEPTION_COUNT 32
#define AP_TRAMPOLINE   0x8000      /* below 1 MiB, at the begin of a page */

#endif
