/*
 * Stand-in for QEMU's osdep.h in the standalone build: declarations, no logic.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The engine may rely on what is here and on nothing else of QEMU's.
 */
#ifndef QEMU_OSDEP_H
#define QEMU_OSDEP_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1
#endif

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>
#include <glib.h>

#ifdef NDEBUG
#error "fastload keeps its assertions in every build"
#endif

#define QEMU_BUILD_BUG_ON(x) _Static_assert(!(x), "not expecting: " #x)

#endif /* QEMU_OSDEP_H */
