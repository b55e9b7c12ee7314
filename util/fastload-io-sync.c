/*
 * fastload io-sync: the read backend without io_uring.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * preadv() on the worker's own thread: urgent requests first, one call in each
 * poll(), and none longer than FASTLOAD_PIECE_BYTES, so that the worker can
 * look for faults in between.  It is the fallback where io_uring is refused or
 * has no memory for a single read, and the reference for what a backend does.
 * Errors become the request's.
 */
#include "qemu/osdep.h"
#include <poll.h>
#include <time.h>
#include "qemu/fastload_int.h"

struct FastloadIo {
    int fd;
    int direct_fd;
    struct pollfd watch[FASTLOAD_IO_WATCH_MAX];
    bool *is_ready; /* the worker's, or NULL */
    FastloadIoList urgent;
    FastloadIoList background;
    FastloadIoList done;
};

static FastloadIo *sync_open(const FastloadIoSetup *setup,
                             const char **ret_refusal)
{
    FastloadIo *io = g_try_new0(FastloadIo, 1);
    int i;

    if (!io) {
        *ret_refusal = "there is no memory to read with preadv";
        return NULL;
    }
    io->fd = setup->fd;
    io->direct_fd = setup->direct_fd;
    io->is_ready = setup->is_ready;
    for (i = 0; i < FASTLOAD_IO_WATCH_MAX; i++) {
        io->watch[i].fd = setup->watch_fds[i];
        io->watch[i].events = POLLIN;
    }
    return io;
}

static void sync_queue(FastloadIo *io, FastloadIoReq *req)
{
    req->done_bytes = 0;
    req->error = 0;
    req->again_count = 0;
    fastload_io_list_append(req->is_urgent ? &io->urgent : &io->background,
                            req);
}

/* One preadv(); returns whether the request is complete. */
static bool sync_step(int fd, FastloadIoReq *req)
{
    struct iovec iov = {
        .iov_base = req->buf + req->done_bytes,
        .iov_len = MIN(req->len_bytes - req->done_bytes,
                       FASTLOAD_PIECE_BYTES),
    };
    ssize_t got = preadv(fd, &iov, 1, req->file_off + req->done_bytes);

    if (got < 0 && (errno == EINTR || errno == EAGAIN) &&
        ++req->again_count < FASTLOAD_IO_AGAIN_MAX) {
        return false; /* it stays queued, and the next poll() tries again */
    }
    if (got <= 0) {
        req->error = got < 0 ? -errno : -ENODATA;
        return true;
    }
    req->done_bytes += got;
    return req->done_bytes == req->len_bytes;
}

void fastload_io_sync_read(int fd, FastloadIoReq *req)
{
    /* O_DIRECT can only resume at the start of a block. */
    req->done_bytes -= req->done_bytes % FASTLOAD_PAGE_BYTES_MIN;
    req->error = 0;
    req->again_count = 0;
    while (!sync_step(fd, req)) {
        continue; /* ends: each step reads some bytes or counts a retry */
    }
}

int64_t fastload_io_sync_read_to_end(int fd, uint8_t *buf, uint64_t len_bytes,
                                     uint64_t off)
{
    uint64_t at = 0;
    uint32_t agains = 0;

    while (at < len_bytes) {
        ssize_t got = pread(fd, buf + at, len_bytes - at, off + at);

        if (got > 0) {
            at += got;
        } else if (got == 0) {
            break;
        } else if (errno != EINTR || ++agains == FASTLOAD_IO_AGAIN_MAX) {
            return -errno;
        }
    }
    return at;
}

static void sync_tell(FastloadIo *io, FastloadIoWatch watch)
{
    if (io->is_ready) {
        io->is_ready[watch] = true;
    }
}

static void sync_sleep(FastloadIo *io, int64_t timeout_ns, bool serves_faults)
{
    struct timespec ts = {
        .tv_sec = timeout_ns / 1000000000,
        .tv_nsec = timeout_ns % 1000000000,
    };
    int i;

    io->watch[FASTLOAD_IO_WATCH_FAULTS].events = serves_faults ? POLLIN : 0;
    if (ppoll(io->watch, FASTLOAD_IO_WATCH_MAX, timeout_ns < 0 ? NULL : &ts,
              NULL) > 0) {
        for (i = 0; i < FASTLOAD_IO_WATCH_MAX; i++) {
            if (io->watch[i].revents) {
                sync_tell(io, i);
            }
        }
    }
}

static bool sync_poll(FastloadIo *io, int64_t timeout_ns, bool serves_faults)
{
    FastloadIoList *list = io->urgent.head ? &io->urgent : &io->background;

    if (list->head) {
        int fd = list->head->is_direct ? io->direct_fd : io->fd;

        if (sync_step(fd, list->head)) {
            fastload_io_list_append(&io->done, fastload_io_list_take(list));
        }
    } else if (timeout_ns && !io->done.head) {
        sync_sleep(io, timeout_ns, serves_faults);
        return true;
    }
    /* Did not look for faults, which are urgent; kicks can wait for a sleep. */
    sync_tell(io, FASTLOAD_IO_WATCH_FAULTS);
    return true;
}

static FastloadIoReq *sync_reap(FastloadIo *io)
{
    return fastload_io_list_take(&io->done);
}

static void sync_close(FastloadIo *io)
{
    g_free(io); /* no queued request has begun */
}

const FastloadIoOps fastload_io_sync_ops = {
    .name = "preadv",
    .is_blocking = true,
    .tells_ready = true,
    .open = sync_open,
    .queue = sync_queue,
    .poll = sync_poll,
    .reap = sync_reap,
    .close = sync_close,
};
