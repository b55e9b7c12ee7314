/*
 * A gate before the kernel's userfaultfd calls, preadv() and MADV_COLLAPSE, for
 * unit tests.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include <stdarg.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <linux/userfaultfd.h>
#include "fastload-clock.h"
#include "fastload-gate.h"

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25 /* Linux 6.1 */
#endif

typedef enum GateHold {
    GATE_HOLD_NONE,
    GATE_HOLD_NEXT,
    GATE_HOLD_ONE, /* it is held */
} GateHold;

static struct {
    GMutex lock;
    GCond cond;
    unsigned long refused; /* a request; 0: none */
    int error_number;
    uint32_t refused_count;
    unsigned long shortened; /* a request; 0: none */
    uint64_t page_bytes;
    unsigned long held;
    GateSide side;
    GateHold hold;
    uint32_t read_hold_count; /* so many more reads are held */
    uint32_t held_read_count;
    uint64_t collapse_ns;     /* how long collapsing seems to take */
    uint32_t collapse_count;
} gate;

void gate_refuse(unsigned long request, int error_number)
{
    g_mutex_lock(&gate.lock);
    gate.refused = error_number ? request : 0;
    gate.error_number = error_number;
    gate.refused_count = 0;
    g_mutex_unlock(&gate.lock);
}

uint32_t gate_refused_count(void)
{
    uint32_t count;

    g_mutex_lock(&gate.lock);
    count = gate.refused_count;
    g_mutex_unlock(&gate.lock);
    return count;
}

void gate_shorten(unsigned long request, uint64_t page_bytes)
{
    g_mutex_lock(&gate.lock);
    gate.shortened = page_bytes ? request : 0;
    gate.page_bytes = page_bytes;
    g_mutex_unlock(&gate.lock);
}

void gate_hold(unsigned long request, GateSide side)
{
    g_mutex_lock(&gate.lock);
    g_assert_true(gate.hold == GATE_HOLD_NONE);
    gate.held = request;
    gate.side = side;
    gate.hold = GATE_HOLD_NEXT;
    g_mutex_unlock(&gate.lock);
}

void gate_wait_held(void)
{
    g_mutex_lock(&gate.lock);
    while (gate.hold != GATE_HOLD_ONE) {
        g_cond_wait(&gate.cond, &gate.lock);
    }
    g_mutex_unlock(&gate.lock);
}

void gate_open(void)
{
    g_mutex_lock(&gate.lock);
    gate.hold = GATE_HOLD_NONE;
    g_cond_broadcast(&gate.cond);
    g_mutex_unlock(&gate.lock);
}

void gate_hold_reads(uint32_t count)
{
    g_mutex_lock(&gate.lock);
    gate.read_hold_count = count;
    g_mutex_unlock(&gate.lock);
}

uint32_t gate_held_read_count(void)
{
    uint32_t count;

    g_mutex_lock(&gate.lock);
    count = gate.held_read_count;
    g_mutex_unlock(&gate.lock);
    return count;
}

void gate_open_reads(void)
{
    g_mutex_lock(&gate.lock);
    gate.read_hold_count = gate.held_read_count = 0;
    g_cond_broadcast(&gate.cond);
    g_mutex_unlock(&gate.lock);
}

void gate_slow_collapse(uint64_t ns)
{
    g_mutex_lock(&gate.lock);
    gate.collapse_ns = ns;
    gate.collapse_count = 0;
    g_mutex_unlock(&gate.lock);
}

uint32_t gate_collapse_count(void)
{
    uint32_t count;

    g_mutex_lock(&gate.lock);
    count = gate.collapse_count;
    g_mutex_unlock(&gate.lock);
    return count;
}

/* As a thread that waits for a processor. */
static void gate_pass_collapse(void)
{
    uint64_t ns;

    g_mutex_lock(&gate.lock);
    ns = gate.collapse_ns;
    gate.collapse_count++;
    g_mutex_unlock(&gate.lock);
    if (ns) {
        test_clock_skip(ns);
    }
}

/* As storage that hangs. */
static void gate_pass_read(void)
{
    g_mutex_lock(&gate.lock);
    if (gate.read_hold_count) {
        gate.read_hold_count--;
        gate.held_read_count++;
        while (gate.held_read_count) {
            g_cond_wait(&gate.cond, &gate.lock);
        }
    }
    g_mutex_unlock(&gate.lock);
}

static bool gate_refuses(unsigned long request, int *ret_error_number)
{
    bool is_refused;

    g_mutex_lock(&gate.lock);
    is_refused = gate.refused && gate.refused == request;
    gate.refused_count += is_refused;
    *ret_error_number = gate.error_number;
    g_mutex_unlock(&gate.lock);
    return is_refused;
}

static void gate_pass(unsigned long request, GateSide side)
{
    g_mutex_lock(&gate.lock);
    if (gate.hold == GATE_HOLD_NEXT && gate.held == request &&
        gate.side == side) {
        gate.hold = GATE_HOLD_ONE;
        g_cond_broadcast(&gate.cond);
        while (gate.hold == GATE_HOLD_ONE) {
            g_cond_wait(&gate.cond, &gate.lock);
        }
    }
    g_mutex_unlock(&gate.lock);
}

/* Calls the kernel, for all bytes or for as many as it may place. */
static int gate_call(int fd, unsigned long request, void *arg)
{
    struct uffdio_copy *copy = arg;
    uint64_t page_bytes, len_bytes;
    int ret;

    g_mutex_lock(&gate.lock);
    page_bytes = gate.shortened && gate.shortened == request
        ? gate.page_bytes : 0;
    g_mutex_unlock(&gate.lock);
    if (!page_bytes || copy->len <= page_bytes) {
        return syscall(SYS_ioctl, fd, request, arg);
    }
    len_bytes = copy->len;
    copy->len = page_bytes;
    ret = syscall(SYS_ioctl, fd, request, arg);
    copy->len = len_bytes;
    if (ret == 0) {
        errno = EAGAIN;
    }
    return -1;
}

/* In the test programs these are found before the C library's functions. */
ssize_t preadv(int fd, const struct iovec *iov, int count, off_t off)
{
    gate_pass_read();
    return syscall(SYS_preadv, fd, iov, count, off, 0);
}

int madvise(void *addr, size_t len_bytes, int advice)
{
    if (advice == MADV_COLLAPSE) {
        gate_pass_collapse();
    }
    return syscall(SYS_madvise, addr, len_bytes, advice);
}

int ioctl(int fd, unsigned long request, ...)
{
    int ret, error_number;
    va_list args;
    void *arg;

    va_start(args, request);
    arg = va_arg(args, void *);
    va_end(args);
    gate_pass(request, GATE_BEFORE);
    if (gate_refuses(request, &error_number)) {
        errno = error_number;
        return -1;
    }
    ret = gate_call(fd, request, arg);
    error_number = errno;
    gate_pass(request, GATE_AFTER);
    errno = error_number;
    return ret;
}
