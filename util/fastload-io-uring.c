/*
 * fastload io-uring: the read backend on one io_uring ring per worker.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Reads, the worker's eventfd, and the userfaultfd's messages or its readiness
 * arrive on the same ring, so the worker waits in one place.  Kernels know
 * different setup flags: uring_open_ring() tries sets of flags, from those of
 * new kernels to those of old ones.  A ring counts as locked memory of its
 * user, over all processes, so it is as small as it can be; memory is
 * registered, which counts as well, only if no limit binds the process.
 * Short reads are resumed here; other errors become the request's.  While the
 * kernel is short of memory for submissions, poll() waits URING_AGAIN_US before
 * it returns, even with a timeout of 0.
 * When the kernel refuses the ring later, for example because of a seccomp
 * filter installed meanwhile, poll() returns false, and the ring is of no use.
 * io_uring_setup(2), io_uring_enter(2), io_uring_register(2), getrlimit(2).
 */
#include "qemu/osdep.h"
#include <liburing.h>
#include <linux/capability.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include "trace.h"
#include "qemu/fastload_int.h"

/* A watch has its number as user_data, a request its address. */
#define URING_WATCH_COUNT FASTLOAD_IO_WATCH_MAX
/*
 * Messages are read by the ring only where the kernel does so on this thread,
 * in io_uring_enter().  Else a worker that hangs in another call might get
 * messages there, which no other worker sees.
 */
#ifdef IORING_SETUP_DEFER_TASKRUN
#define URING_DEFERS IORING_SETUP_DEFER_TASKRUN
#else
#define URING_DEFERS 0u
#endif
/*
 * Linux 6.18 charges at least two pages of 4096 bytes for a ring: one for the
 * submission entries (64 bytes each), one for the completion entries (16 bytes
 * each, and 4 for each submission entry).  These counts fit into the two pages;
 * 128 and 512 entries took five.
 */
#define URING_SQ_COUNT 64
#define URING_CQ_COUNT_MAX 128
/* For timeouts: on old kernels each takes a completion entry. */
#define URING_SPARE_CQE_COUNT 8
QEMU_BUILD_BUG_ON(FASTLOAD_URGENT_READ_COUNT_MAX + FASTLOAD_AHEAD_COUNT_MAX +
                  URING_WATCH_COUNT + URING_SPARE_CQE_COUNT >
                  URING_CQ_COUNT_MAX);
#define URING_MAPPING_BYTES 4096u
/* How often in a row the kernel may be short of memory for submissions. */
#define URING_AGAIN_MAX 10000
#define URING_AGAIN_US 1000
/* A short read is resumed on this boundary: O_DIRECT wants it. */
#define URING_ALIGN_BYTES 4096u

struct FastloadIo {
    struct io_uring ring;
    int fds[2];              /* the second with O_DIRECT, or -1 */
    int watch_fds[URING_WATCH_COUNT];
    bool is_watched[URING_WATCH_COUNT];
    bool *is_ready;          /* the worker's, or NULL */
    FastloadFaultBatch *batch; /* the worker's; NULL: faults are only watched */
    bool has_fixed_file;
    bool has_fired;          /* a watch has completed since the last poll() */
    uint32_t again_count;    /* submissions refused in a row */
    uint32_t interrupt_count; /* reads of faults interrupted in a row */
    struct iovec fixed_buf;  /* empty: no registered buffer */
    FastloadIoList done;
};

/* Setup flags, from new kernels to old: the first set that is known is used. */
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
            /* All requests and watches may complete before poll() looks. */
            .cq_entries = MAX(req_count_max + URING_WATCH_COUNT +
                              URING_SPARE_CQE_COUNT, URING_SQ_COUNT),
        };

        ret = io_uring_queue_init_params(URING_SQ_COUNT, &io->ring, &params);
        if (ret == 0) {
            trace_fastload_uring_opened(io, params.flags, params.features);
        }
    }
    return ret;
}

/*
 * Does RLIMIT_MEMLOCK bind this thread?  In a user namespace the capability may
 * not count for the kernel; then registering memory fails, and nothing else.
 */
static bool uring_is_charged(void)
{
    struct __user_cap_header_struct header = {
        .version = _LINUX_CAPABILITY_VERSION_3,
    };
    struct __user_cap_data_struct caps[_LINUX_CAPABILITY_U32S_3] = { { 0 } };
    struct rlimit limit;

    if (getrlimit(RLIMIT_MEMLOCK, &limit) == 0 &&
        limit.rlim_cur == RLIM_INFINITY) {
        return false;
    }
    return syscall(SYS_capget, &header, caps) != 0 ||
           !(caps[CAP_TO_INDEX(CAP_IPC_LOCK)].effective &
             CAP_TO_MASK(CAP_IPC_LOCK));
}

/* Are there mappings left for a ring?  It needs two. */
static bool uring_has_mappings(void)
{
    void *maps[2];
    uint32_t i, count = 0;

    for (i = 0; i < G_N_ELEMENTS(maps); i++) {
        maps[i] = mmap(NULL, URING_MAPPING_BYTES, PROT_READ | PROT_WRITE,
                       MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        count += maps[i] != MAP_FAILED;
    }
    for (i = 0; i < G_N_ELEMENTS(maps); i++) {
        if (maps[i] != MAP_FAILED) {
            munmap(maps[i], URING_MAPPING_BYTES);
        }
    }
    return count == G_N_ELEMENTS(maps);
}

static const char *uring_refusal(int error_number)
{
    switch (error_number) {
    case EPERM:
    case EACCES:
        return "io_uring is not permitted here";
    case ENOSYS:
        return "this kernel has no io_uring, or a filter of system calls "
               "hides it";
    case EINVAL:
        return "the io_uring of this kernel is too old";
    case EMFILE:
        return "no file descriptor is left for io_uring (ulimit -n, "
               "RLIMIT_NOFILE)";
    case ENFILE:
        return "no file descriptor is left for io_uring (the sysctl "
               "fs.file-max)";
    case ENOMEM:
        if (!uring_has_mappings()) {
            return "no mapping is left for io_uring (ulimit -v, RLIMIT_AS, "
                   "the sysctl vm.max_map_count)";
        }
        return uring_is_charged()
            ? "no locked memory is left for io_uring (ulimit -l, "
              "RLIMIT_MEMLOCK)"
            : "the kernel has no memory for io_uring";
    }
    return "io_uring cannot be set up here";
}

/*
 * On file systems that cannot read asynchronously, such as FUSE and NFS, a
 * kernel thread blocks in each read.  By default the kernel allows four of them
 * for each processor, fewer than far storage can serve at once, so urgent reads
 * would wait for a thread.  This allows one for each request.  They exist only
 * while there are reads for them.  If it is refused (before Linux 5.15), the
 * default stays.
 */
static void uring_allow_threads(FastloadIo *io, uint32_t req_count_max)
{
    unsigned int counts[2] = { req_count_max, 0 /* for sockets: default */ };
    int ret = io_uring_register_iowq_max_workers(&io->ring, counts);

    trace_fastload_uring_threads(io, req_count_max, -ret);
}

static FastloadIo *uring_open(const FastloadIoSetup *setup,
                              const char **ret_refusal)
{
    FastloadIo *io = g_try_new0(FastloadIo, 1);
    int ret = io ? uring_open_ring(io, setup->req_count_max) : -ENOMEM;

    if (ret < 0) {
        *ret_refusal = uring_refusal(-ret);
        trace_fastload_uring_refused(io, -ret);
        g_free(io);
        return NULL;
    }
    io->fds[0] = setup->fd;
    io->fds[1] = setup->direct_fd;
    memcpy(io->watch_fds, setup->watch_fds, sizeof(io->watch_fds));
    io->is_ready = setup->is_ready;
    if (setup->batch && (io->ring.flags & URING_DEFERS)) {
        io->batch = setup->batch;
        io->batch->is_used = true;
    }
    /* Registering the files saves a lookup in each read. */
    io->has_fixed_file =
        io_uring_register_files(&io->ring, io->fds, 2) == 0;
    io->fixed_buf.iov_base = setup->staging;
    io->fixed_buf.iov_len = setup->fixed_bytes;
    /*
     * Registered memory saves 0.7 us of an O_DIRECT read of 44 us, but counts
     * as eight times as much locked memory as the ring, which the user's other
     * processes could not have then.
     */
    if (!setup->fixed_bytes || uring_is_charged() ||
        io_uring_register_buffers(&io->ring, &io->fixed_buf, 1) < 0) {
        io->fixed_buf.iov_len = 0;
    }
    uring_allow_threads(io, setup->req_count_max);
    trace_fastload_uring_registered(io, io->has_fixed_file,
                                    io->fixed_buf.iov_len);
    return io;
}

/* NULL only while the kernel takes no submissions. */
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
    fastload_io_list_append(&io->done, req);
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
    if (req->may_block) {
        /*
         * A kernel thread makes the read.  Linux 6.13 (commit f7c913438533)
         * would begin it in io_uring_enter(), and FUSE waits there for the
         * file's server: for the file's attributes, or for one of
         * max_background (12) requests to return.  Where that server hangs, the
         * worker would hang with it, and nobody would answer faults.
         */
        sqe->flags |= IOSQE_ASYNC;
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

/*
 * Watches are one-shot polls, and are armed again by the io_uring_enter() that
 * sleeps, so they cost no system call of their own.  No readiness is lost:
 * whenever the worker sleeps, each descriptor that it serves has an armed
 * watch, and a poll checks readiness when it is armed.  So data that the worker
 * has not read completes the watch at once, and data that arrives later
 * completes it then.  False: the ring has no room for a watch now, or the
 * worker has messages to take, so it must not sleep.
 *
 * With a batch, the watch of the userfaultfd is a read into it, which saves the
 * worker the read.  If that fails, because a kernel cannot wait in such a read,
 * polls go on.  EINTR is no such failure: userfaultfd gives it, and takes no
 * message, while the kernel has work for this thread, such as to start another
 * thread for reads of a file that cannot be read asynchronously.  A read that
 * is still armed when the ring is closed fails, too: it would be carried out on
 * this thread.
 */
static bool uring_watch(FastloadIo *io, bool serves_faults)
{
    bool is_armed = true;
    uintptr_t i;

    for (i = 0; i < URING_WATCH_COUNT; i++) {
        bool reads = i == FASTLOAD_IO_WATCH_FAULTS && io->batch;
        struct io_uring_sqe *sqe;

        if (io->is_watched[i] || io->watch_fds[i] < 0 ||
            (i == FASTLOAD_IO_WATCH_FAULTS && !serves_faults)) {
            continue;
        }
        sqe = reads && io->batch->len_bytes ? NULL : uring_get_sqe(io);
        if (!sqe) {
            is_armed = false;
            continue;
        }
        if (reads) {
            io_uring_prep_read(sqe, io->watch_fds[i], io->batch->words,
                               sizeof(io->batch->words), 0);
        } else {
            io_uring_prep_poll_add(sqe, io->watch_fds[i], POLLIN);
        }
        io_uring_sqe_set_data64(sqe, i);
        io->is_watched[i] = true;
    }
    return is_armed;
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
        /* Not even a block: the file ends here. */
        uring_complete(io, req, -ENODATA);
        return;
    }
    uring_start(io, req);
}

static void uring_watch_fired(FastloadIo *io, uint64_t watch, int res)
{
    io->is_watched[watch] = false;
    io->has_fired = true;
    if (io->batch && watch == FASTLOAD_IO_WATCH_FAULTS) {
        if (res == -EINTR && ++io->interrupt_count < FASTLOAD_IO_AGAIN_MAX) {
            return; /* the next poll() arms it again */
        }
        io->interrupt_count = 0;
        if (res > 0) {
            io->batch->len_bytes = res;
        } else {
            /* From now on, a poll tells; the next one is armed at once. */
            trace_fastload_uring_polls_faults(io, -res);
            io->batch->is_used = false;
            io->batch = NULL;
        }
    }
    if (io->is_ready) {
        io->is_ready[watch] = true;
    }
}

static void uring_collect(FastloadIo *io)
{
    struct io_uring_cqe *cqe;
    unsigned int head, count = 0;

    io_uring_for_each_cqe(&io->ring, head, cqe) {
        uint64_t data = io_uring_cqe_get_data64(cqe);

        count++;
        if (data < URING_WATCH_COUNT) {
            uring_watch_fired(io, data, cqe->res);
        } else if (data != LIBURING_UDATA_TIMEOUT) {
            uring_read_completed(io, (FastloadIoReq *)(uintptr_t)data,
                                 cqe->res);
        }
    }
    io_uring_cq_advance(&io->ring, count);
}

/* Does the ring still work after io_uring_enter() has returned @ret? */
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

static bool uring_poll(FastloadIo *io, int64_t timeout_ns, bool serves_faults)
{
    struct __kernel_timespec ts = {
        .tv_sec = timeout_ns / 1000000000,
        .tv_nsec = timeout_ns % 1000000000,
    };
    struct io_uring_cqe *cqe;
    bool is_armed = uring_watch(io, serves_faults);
    int ret;

    uring_collect(io);
    if (timeout_ns == 0 || !is_armed || io->done.head || io->has_fired) {
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
    return fastload_io_list_take(&io->done);
}

static void uring_reopen(FastloadIo *io)
{
    if (io->has_fixed_file &&
        io_uring_register_files_update(&io->ring, 0, io->fds, 2) != 2) {
        io->has_fixed_file = false; /* the fd numbers work as well */
    }
}

static void uring_close(FastloadIo *io)
{
    if (!io) {
        return;
    }
    io_uring_queue_exit(&io->ring);
    if (io->batch) {
        io->batch->is_used = false;
    }
    g_free(io);
}

const FastloadIoOps fastload_io_uring_ops = {
    .name = "io_uring",
    .tells_ready = true,
    .open = uring_open,
    .queue = uring_queue,
    .poll = uring_poll,
    .reap = uring_reap,
    .reopen = uring_reopen,
    .close = uring_close,
};
