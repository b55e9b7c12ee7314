/*
 * A gate before the kernel's userfaultfd calls, preadv() and MADV_COLLAPSE, for
 * unit tests.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The test programs define ioctl(), which the engine in them calls, too.  It
 * can fail calls like a kernel without memory, and hold one call to force a
 * schedule.  Everything else goes to the kernel at once.  The gate acts on one
 * kind of request at a time; all functions may be called while a load runs.
 */
#ifndef FASTLOAD_GATE_H
#define FASTLOAD_GATE_H

typedef enum GateSide {
    GATE_BEFORE, /* before the call to the kernel */
    GATE_AFTER,  /* after it, before the caller has the result */
} GateSide;

/* From here on calls of @request fail with @error_number; 0: work again. */
void gate_refuse(unsigned long request, int error_number);
/* So many calls have failed since gate_refuse(). */
uint32_t gate_refused_count(void);
/*
 * From here on calls of @request that are to place more than @page_bytes place
 * just so much and fail with EAGAIN, as the kernel does when it is disturbed;
 * 0: work again.  For UFFDIO_COPY and requests with its layout.
 */
void gate_shorten(unsigned long request, uint64_t page_bytes);
/* Holds the next call of @request, and only that one, until gate_open(). */
void gate_hold(unsigned long request, GateSide side);
/* Waits until a call is held. */
void gate_wait_held(void);
void gate_open(void);

/* Holds the next @count calls of preadv(), all until gate_open_reads(). */
void gate_hold_reads(uint32_t count);
/* So many are held now. */
uint32_t gate_held_read_count(void);
void gate_open_reads(void);

/* Each MADV_COLLAPSE takes @ns of the stopped clock; counts from 0 again. */
void gate_slow_collapse(uint64_t ns);
uint32_t gate_collapse_count(void);

#endif /* FASTLOAD_GATE_H */
