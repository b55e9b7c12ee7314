/*
 * fastload io-uring: the read backend on one io_uring ring per worker.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Reads, userfaultfd readiness and the worker's eventfd arrive on the same
 * ring, so the worker waits in one place.  What the kernel grants differs:
 * the ring is opened through a ladder of probes that drops one wish at a
 * time.  Short reads are resumed here; other errors become the request's.
 * What the kernel refuses later, a filter installed meanwhile perhaps, ends
 * the ring: poll() says so.
 * io_uring_setup(2), io_uring_enter(2).
 */
#include "qemu/osdep.h"
#include <liburing.h>
#include <poll.h>
#include "trace.h"
#include "qemu/fastload_int.h"

/* user_data of the watches; a request's is its address, never so small */
#define URING_WATCH_COUNT 2
#define URING_SQ_COUNT 128
/* For how long the kernel may be short of memory for requests. */
#define URING_AGAIN_MAX 10000
#define URING_AGAIN_US 1000
/* A short read is resumed on this boundary: O_DIRECT wants it. */
#define URING_ALIGN_BYTES 4096u

struct FastloadIo {
    struct io_uring ring;
    int fds[2];              /* the second with O_DIRECT, or -1 */
    int watch_fds[URING_WATCH_COUNT];
    bool is_watched[URING_WATCH_COUNT];
    bool has_fixed_file;
    bool has_fired;          /* a watch completed since the last poll */
    uint32_t again_count;    /* submissions refused in a row */
    struct iovec fixed_buf;  /* empty: no registered buffer */
    FastloadIoReq *done_head;
    FastloadIoReq *done_tail;
};

/* What to ask for, best first; each rung is a subset of an older kernel. */
static const unsigned int uring_flag_ladder[] = {
#if defined(IORING_SETUP_SINGLE_ISSUER) && defined(IORING_SETUP_DEFER_TASKRUN)
    IORING_SETUP_CLAMP | IORING_SETUP_CQSIZE | IORING_SETUP_SINGLE_ISSUER |
        IORING_SETUP_DEFER_TASKRUN,         /* Linux 6.1 */
#endif
#ifdef IORING_SETUP_COOP_TASKRUN
    IORING_SETUP_CLAMP | IORING_SETUP_CQSIZE | IORING_SETUP_COOP_TASKRUN,
#endif
    IORING_SETUP_CLAMP | IORING_SETUP_CQSIZE,
};

static int uring_open_ring(FastloadIo *io, uint32_t req_count_max)
{
    int ret = -EINVAL;
    size_t i;

    for (i = 0; i < G_N_ELEMENTS(uring_flag_ladder) && ret == -EINVAL; i++) {
        struct io_uring_params params = {
            .flags = uring_flag_ladder[i],
            /* Every request and watch may complete before we look. */
            .cq_entries = 2 * (req_count_max + URING_SQ_COUNT),
        };

        ret = io_uring_queue_init_params(URING_SQ_COUNT, &io->ring, &params);
        if (ret == 0) {
            trace_fastload_uring_opened(io, params.flags, params.features);
        }
    }
    return ret;
}

static FastloadIo *uring_open(const FastloadIoSetup *setup, GError **error)
{
    FastloadIo *io = g_try_new0(FastloadIo, 1);
    int ret = io ? uring_open_ring(io, setup->req_count_max) : -ENOMEM;

    if (ret < 0) {
        if (error) {
            g_set_error(error, FASTLOAD_ERROR, FASTLOAD_ERROR_SYSTEM,
                        "io_uring cannot be set up: %s", g_strerror(-ret));
        }
        g_free(io);
        return NULL;
    }
    io->fds[0] = setup->fd;
    io->fds[1] = setup->direct_fd;
    io->watch_fds[0] = setup->watch_fds[0];
    io->watch_fds[1] = setup->watch_fds[1];
    /* Registration saves a lookup a read; without it reads work as well. */
    io->has_fixed_file =
        io_uring_register_files(&io->ring, io->fds, 2) == 0;
    io->fixed_buf.iov_base = setup->staging;
    io->fixed_buf.iov_len = setup->fixed_bytes;
    if (!setup->fixed_bytes ||
        io_uring_register_buffers(&io->ring, &io->fixed_buf, 1) < 0) {
        io->fixed_buf.iov_len = 0;
    }
    trace_fastload_uring_registered(io, io->has_fixed_file,
                                    io->fixed_buf.iov_len);
    return io;
}

/* NULL only when the kernel does not take submissions just now. */
static struct io_uring_sqe *uring_get_sqe(FastloadIo *io)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(&io->ring);

    if (!sqe) {
        io_uring_submit(&io->ring);
        sqe = io_uring_get_sqe(&io->ring);
    }
    return sqe;
}

static void uring_complete(FastloadIo *io, FastloadIoReq *req, int32_t error)
{
    req->error = error;
    req->next = NULL;
    if (io->done_tail) {
        io->done_tail->next = req;
    } else {
        io->done_head = req;
    }
    io->done_tail = req;
}

static void uring_start(FastloadIo *io, FastloadIoReq *req)
{
    struct io_uring_sqe *sqe = uring_get_sqe(io);
    uint8_t *buf = req->buf + req->done_bytes;
    uint32_t len_bytes = req->len_bytes - req->done_bytes;
    uint64_t file_off = req->file_off + req->done_bytes;
    uint8_t *fixed = io->fixed_buf.iov_base;
    int fd = io->has_fixed_file ? req->is_direct : io->fds[req->is_direct];

    if (!sqe) {
        uring_complete(io, req, -EAGAIN);
        return;
    }
    if (buf >= fixed && buf + len_bytes <= fixed + io->fixed_buf.iov_len) {
        io_uring_prep_read_fixed(sqe, fd, buf, len_bytes, file_off, 0);
    } else {
        io_uring_prep_read(sqe, fd, buf, len_bytes, file_off);
    }
    if (io->has_fixed_file) {
        sqe->flags |= IOSQE_FIXED_FILE;
    }
    io_uring_sqe_set_data(sqe, req);
}

static void uring_queue(FastloadIo *io, FastloadIoReq *req)
{
    req->done_bytes = 0;
    req->error = 0;
    req->again_count = 0;
    uring_start(io, req);
}

static void uring_watch(FastloadIo *io, bool minds_faults)
{
    uintptr_t i;

    for (i = 0; i < URING_WATCH_COUNT; i++) {
        struct io_uring_sqe *sqe;

        if (io->is_watched[i] || io->watch_fds[i] < 0 ||
            (i == FASTLOAD_IO_WATCH_FAULTS && !minds_faults)) {
            continue;
        }
        sqe = uring_get_sqe(io);
        if (sqe) {
            io_uring_prep_poll_add(sqe, io->watch_fds[i], POLLIN);
            io_uring_sqe_set_data64(sqe, i);
            io->is_watched[i] = true;
        }
    }
}

static void uring_read_completed(FastloadIo *io, FastloadIoReq *req, int res)
{
    uint32_t before = req->done_bytes;

    if ((res == -EINTR || res == -EAGAIN) &&
        ++req->again_count < FASTLOAD_IO_AGAIN_MAX) {
        uring_start(io, req);
        return;
    }
    if (res <= 0) {
        uring_complete(io, req, res < 0 ? res : -ENODATA);
        return;
    }
    req->done_bytes += res;
    if (req->done_bytes >= req->len_bytes) {
        uring_complete(io, req, 0);
        return;
    }
    req->done_bytes -= req->done_bytes % URING_ALIGN_BYTES;
    if (req->done_bytes <= before) {
        /* Less than a block and then no more: the file ends here. */
        uring_complete(io, req, -ENODATA);
        return;
    }
    uring_start(io, req);
}

static void uring_collect(FastloadIo *io)
{
    struct io_uring_cqe *cqe;
    unsigned int head, count = 0;

    io_uring_for_each_cqe(&io->ring, head, cqe) {
        uint64_t data = io_uring_cqe_get_data64(cqe);

        count++;
        if (data < URING_WATCH_COUNT) {
            io->is_watched[data] = false;
            io->has_fired = true;
        } else if (data != LIBURING_UDATA_TIMEOUT) {
            uring_read_completed(io, (FastloadIoReq *)(uintptr_t)data,
                                 cqe->res);
        }
    }
    io_uring_cq_advance(&io->ring, count);
}

/* Does the ring still work, after what io_uring_enter(2) has answered? */
static bool uring_is_sound(FastloadIo *io, int ret)
{
    if (ret >= 0 || ret == -EINTR || ret == -ETIME) {
        io->again_count = 0;
        return true;
    }
    if ((ret == -EAGAIN || ret == -EBUSY || ret == -ENOMEM) &&
        ++io->again_count < URING_AGAIN_MAX) {
        g_usleep(URING_AGAIN_US);
        return true;
    }
    trace_fastload_uring_broken(io, -ret);
    return false;
}

static bool uring_poll(FastloadIo *io, int64_t timeout_ns, bool minds_faults)
{
    struct __kernel_timespec ts = {
        .tv_sec = timeout_ns / 1000000000,
        .tv_nsec = timeout_ns % 1000000000,
    };
    struct io_uring_cqe *cqe;
    int ret;

    uring_watch(io, minds_faults);
    uring_collect(io);
    if (timeout_ns == 0 || io->done_head || io->has_fired) {
        ret = io_uring_submit_and_get_events(&io->ring);
    } else if (timeout_ns < 0) {
        ret = io_uring_submit_and_wait(&io->ring, 1);
    } else {
        ret = io_uring_submit_and_wait_timeout(&io->ring, &cqe, 1, &ts, NULL);
    }
    uring_collect(io);
    io->has_fired = false;
    return uring_is_sound(io, ret);
}

static FastloadIoReq *uring_reap(FastloadIo *io)
{
    FastloadIoReq *req = io->done_head;

    if (req) {
        io->done_head = req->next;
        if (!io->done_head) {
            io->done_tail = NULL;
        }
    }
    return req;
}

static void uring_reopen(FastloadIo *io)
{
    if (io->has_fixed_file &&
        io_uring_register_files_update(&io->ring, 0, io->fds, 2) != 2) {
        io->has_fixed_file = false; /* by their numbers, then */
    }
}

static void uring_close(FastloadIo *io)
{
    if (!io) {
        return;
    }
    io_uring_queue_exit(&io->ring);
    g_free(io);
}

const FastloadIoOps fastload_io_uring_ops = {
    .name = "io_uring",
    .open = uring_open,
    .queue = uring_queue,
    .poll = uring_poll,
    .reap = uring_reap,
    .reopen = uring_reopen,
    .close = uring_close,
};
