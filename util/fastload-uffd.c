/*
 * fastload uffd: userfaultfd calls with errno and progress.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Thin: each function is one system call, with the few retries that its
 * interface demands and without a pause; only opening has two ways to try.
 * Knows no regions, keeps no state, logs nothing.  ioctl_userfaultfd(2) has the
 * kernel's rules.  What matters here: UFFDIO_COPY, UFFDIO_MOVE and
 * UFFDIO_ZEROPAGE fail with EAGAIN after a part was done.  A signed field then
 * has the bytes that were done, or a negative errno if nothing was done.
 */
#include "qemu/osdep.h"
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <linux/userfaultfd.h>
#include "qemu/fastload_int.h"

#ifndef USERFAULTFD_IOC_NEW
#define USERFAULTFD_IOC_NEW _IO(0xAA, 0x00)
#endif

/* UFFDIO_MOVE(2const), which headers older than Linux 6.8 lack. */
#define UFFD_MOVE_FEATURE (1ull << 16)

/* struct uffdio_copy and struct uffdio_move, which have the same layout. */
typedef struct UffdTransfer {
    uint64_t dst;
    uint64_t src;
    uint64_t len;
    uint64_t mode;
    int64_t done; /* bytes, or -errno */
} UffdTransfer;
QEMU_BUILD_BUG_ON(sizeof(UffdTransfer) != sizeof(struct uffdio_copy));

#define UFFD_MOVE _IOWR(UFFDIO, 0x05, UffdTransfer)

/* The handshake, with as many features as the kernel has. */
static int uffd_shake_hands(int uffd, bool *ret_has_move)
{
    static const uint64_t wishes[] = {
        UFFD_MOVE_FEATURE | UFFD_FEATURE_THREAD_ID, UFFD_FEATURE_THREAD_ID, 0,
    };
    uint32_t i;

    for (i = 0; i < G_N_ELEMENTS(wishes); i++) {
        struct uffdio_api api = { .api = UFFD_API, .features = wishes[i] };

        if (ioctl(uffd, UFFDIO_API, &api) == 0) {
            *ret_has_move = wishes[i] & UFFD_MOVE_FEATURE;
            return 0;
        }
    }
    return -errno;
}

/* Since Linux 6.1; permission to open the device is enough. */
static int uffd_from_device(int flags)
{
    int dev_fd = open(FASTLOAD_UFFD_DEVICE, O_RDWR | O_CLOEXEC);
    int uffd, ret;

    if (dev_fd < 0) {
        return -errno;
    }
    uffd = ioctl(dev_fd, USERFAULTFD_IOC_NEW, flags);
    ret = uffd < 0 ? -errno : uffd;
    close(dev_fd);
    return ret;
}

/* @uffd may be -errno.  Returns it after the handshake; or -errno: closed. */
static int uffd_check(int uffd, bool *ret_has_move)
{
    int ret;

    if (uffd < 0) {
        return uffd;
    }
    ret = uffd_shake_hands(uffd, ret_has_move);
    if (ret) {
        close(uffd);
        return ret;
    }
    return uffd;
}

bool fastload_uffd_open(int *ret_uffd, bool *ret_has_move,
                        FastloadUffdRefusal *ret_refusal)
{
    int flags = O_CLOEXEC | O_NONBLOCK;
    int uffd = syscall(SYS_userfaultfd, flags);
    int call_ret = uffd_check(uffd < 0 ? -errno : uffd, ret_has_move);
    int device_ret;

    if (call_ret >= 0) {
        *ret_uffd = call_ret;
        return true;
    }
    /*
     * Tried after any error: the sysctl causes EPERM, a security module EACCES,
     * and a seccomp filter whatever its author chose.
     */
    device_ret = uffd_check(uffd_from_device(flags), ret_has_move);
    if (device_ret >= 0) {
        *ret_uffd = device_ret;
        return true;
    }
    ret_refusal->call_error_number = -call_ret;
    ret_refusal->device_error_number = -device_ret;
    return false;
}

int fastload_uffd_register(int uffd, void *hva, uint64_t len_bytes,
                           bool *ret_has_zeropage)
{
    struct uffdio_register reg = {
        .range = { .start = (uintptr_t)hva, .len = len_bytes },
        .mode = UFFDIO_REGISTER_MODE_MISSING,
    };

    if (ioctl(uffd, UFFDIO_REGISTER, &reg) < 0) {
        return -errno;
    }
    if (!(reg.ioctls & (1ull << _UFFDIO_COPY))) {
        fastload_uffd_unregister(uffd, hva, len_bytes);
        return -EINVAL;
    }
    *ret_has_zeropage = reg.ioctls & (1ull << _UFFDIO_ZEROPAGE);
    return 0;
}

int fastload_uffd_unregister(int uffd, void *hva, uint64_t len_bytes)
{
    struct uffdio_range range = {
        .start = (uintptr_t)hva, .len = len_bytes,
    };

    return ioctl(uffd, UFFDIO_UNREGISTER, &range) < 0 ? -errno : 0;
}

int fastload_uffd_wake(int uffd, void *hva, uint64_t len_bytes)
{
    struct uffdio_range range = {
        .start = (uintptr_t)hva, .len = len_bytes,
    };

    return ioctl(uffd, UFFDIO_WAKE, &range) < 0 ? -errno : 0;
}

/* One ioctl() of copy, move or zero: the bytes that were done, or -errno. */
static int64_t uffd_step(int uffd, unsigned long request, uint64_t dst,
                         uint64_t src, uint64_t len_bytes)
{
    UffdTransfer transfer = { .dst = dst, .src = src, .len = len_bytes };
    struct uffdio_zeropage zero = { .range = { dst, len_bytes } };
    bool is_zero = request == UFFDIO_ZEROPAGE;
    int64_t done_bytes;

    if (ioctl(uffd, request, is_zero ? (void *)&zero : &transfer) == 0) {
        return len_bytes;
    }
    done_bytes = is_zero ? zero.zeropage : transfer.done;
    return done_bytes > 0 ? done_bytes : -errno;
}

static int uffd_place(int uffd, unsigned long request, void *hva,
                      const void *src, uint64_t len_bytes,
                      uint64_t *ret_done_bytes)
{
    uint64_t at = 0;
    uint32_t tries = 0;

    while (at < len_bytes) {
        int64_t ret = uffd_step(uffd, request, (uintptr_t)hva + at,
                                (uintptr_t)src + at, len_bytes - at);

        if (ret < 0 &&
            (ret != -EAGAIN || ++tries == FASTLOAD_PLACE_TRIES_MAX)) {
            *ret_done_bytes = at;
            return ret;
        }
        at += MAX(ret, 0);
    }
    *ret_done_bytes = at;
    return 0;
}

int fastload_uffd_copy(int uffd, void *hva, const void *src,
                       uint64_t len_bytes, uint64_t *ret_done_bytes)
{
    return uffd_place(uffd, UFFDIO_COPY, hva, src, len_bytes, ret_done_bytes);
}

int fastload_uffd_move(int uffd, void *hva, void *src, uint64_t len_bytes,
                       uint64_t *ret_done_bytes)
{
    return uffd_place(uffd, UFFD_MOVE, hva, src, len_bytes, ret_done_bytes);
}

int fastload_uffd_zero(int uffd, void *hva, uint64_t len_bytes,
                       uint64_t *ret_done_bytes)
{
    return uffd_place(uffd, UFFDIO_ZEROPAGE, hva, NULL, len_bytes,
                      ret_done_bytes);
}

QEMU_BUILD_BUG_ON(sizeof(struct uffd_msg) != FASTLOAD_FAULT_MSG_BYTES);

/* The page faults among the messages. */
static int uffd_parse(const struct uffd_msg *msgs, size_t msg_count,
                      FastloadUffdFault *ret_faults)
{
    uint32_t count = 0;
    size_t i;

    for (i = 0; i < msg_count; i++) {
        if (msgs[i].event == UFFD_EVENT_PAGEFAULT) {
            ret_faults[count++] = (FastloadUffdFault) {
                .hva = msgs[i].arg.pagefault.address,
                .tid = msgs[i].arg.pagefault.feat.ptid,
                .is_write = msgs[i].arg.pagefault.flags &
                            UFFD_PAGEFAULT_FLAG_WRITE,
            };
        }
    }
    return count;
}

int fastload_uffd_read(int uffd, FastloadUffdFault *ret_faults,
                       uint32_t count_max)
{
    struct uffd_msg msgs[FASTLOAD_FAULT_BATCH_MAX];
    ssize_t got;

    assert(count_max <= FASTLOAD_FAULT_BATCH_MAX);
    got = read(uffd, msgs, count_max * sizeof(msgs[0]));
    if (got < 0) {
        return errno == EAGAIN || errno == EINTR ? 0 : -errno;
    }
    return uffd_parse(msgs, got / sizeof(msgs[0]), ret_faults);
}

int fastload_uffd_take(FastloadFaultBatch *batch,
                       FastloadUffdFault *ret_faults)
{
    int count = uffd_parse((const struct uffd_msg *)batch->words,
                           batch->len_bytes / sizeof(struct uffd_msg),
                           ret_faults);

    batch->len_bytes = 0;
    return count;
}
