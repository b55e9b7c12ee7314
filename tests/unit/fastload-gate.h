/*
 * A gate before the kernel's userfaultfd calls, for unit tests.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The test programs' own ioctl(), which the engine in them calls too.  It can
 * fail calls as a kernel without memory does, and hold one where a schedule
 * has to be forced.  Everything else goes to the kernel at once.  One request
 * at a time; all calls may be made while a load runs.
 */
#ifndef FASTLOAD_GATE_H
#define FASTLOAD_GATE_H

typedef enum GateSide {
    GATE_BEFORE, /* the kernel has not been asked yet */
    GATE_AFTER,  /* the kernel has answered, the caller does not know yet */
} GateSide;

/* From here on calls of @request fail with @error_number; 0: no more. */
void gate_refuse(unsigned long request, int error_number);
/* So many calls have failed since gate_refuse(). */
uint32_t gate_refused_count(void);
/*
 * From here on calls of @request that place more than @page_bytes do so much
 * and fail with EAGAIN, as the kernel's do when something comes between; 0: no
 * more.  UFFDIO_COPY and what has its layout.
 */
void gate_shorten(unsigned long request, uint64_t page_bytes);
/* The next call of @request, just that one, is held until gate_open(). */
void gate_hold(unsigned long request, GateSide side);
/* Waits until there is a call that is held. */
void gate_wait_held(void);
void gate_open(void);

#endif /* FASTLOAD_GATE_H */
