/*
 * The read backends, without a load: the same list on each of them.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include <dlfcn.h>
#include <liburing.h>
#include <sys/eventfd.h>
#include "qemu/fastload_int.h"
#include "fastload-fixture.h"

#define PAGE FASTLOAD_PAGE_BYTES_MIN
#define FILE_PAGE_COUNT 2048u
/* A multiple of what the submission ring of io_uring holds. */
#define REQ_COUNT 600u
#define REQ_PAGE_COUNT 3u
/* As many as that. */
#define RING_COUNT 64u

/* The program's own: the kernel may be short of memory for submissions. */
static bool is_to_refuse;

int io_uring_submit(struct io_uring *ring)
{
    static int (*real)(struct io_uring *ring);

    if (!real) {
        *(void **)&real = dlsym(RTLD_NEXT, "io_uring_submit");
    }
    return is_to_refuse ? -EAGAIN : real(ring);
}

/* Its own as well: the kernel may interrupt the read of a fault. */
static bool is_to_interrupt;
static uint32_t interrupted_count;

int io_uring_submit_and_get_events(struct io_uring *ring)
{
    static int (*real)(struct io_uring *ring);
    struct io_uring_sqe *sqe = is_to_interrupt ? io_uring_get_sqe(ring) : NULL;
    struct io_uring_cqe *cqe;
    unsigned int head;
    int ret;

    if (!real) {
        *(void **)&real = dlsym(RTLD_NEXT, "io_uring_submit_and_get_events");
    }
    if (sqe) {
        io_uring_prep_cancel64(sqe, FASTLOAD_IO_WATCH_FAULTS, 0);
        io_uring_sqe_set_data64(sqe, LIBURING_UDATA_TIMEOUT);
    }
    ret = real(ring);
    io_uring_for_each_cqe(ring, head, cqe) {
        if (is_to_interrupt && cqe->res == -ECANCELED &&
            io_uring_cqe_get_data64(cqe) == FASTLOAD_IO_WATCH_FAULTS) {
            cqe->res = -EINTR;
            interrupted_count++;
        }
    }
    return ret;
}

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define IO_IS_SANITIZED true
#else
#define IO_IS_SANITIZED false
#endif

typedef struct IoTest {
    const FastloadIoOps *ops;
    Fixture *f;
    FastloadIoSetup setup;
    FastloadIo *io;
    bool is_ready[FASTLOAD_IO_WATCH_MAX];
    FastloadFaultBatch batch;
    uint8_t *staging;
    size_t staging_bytes;
    FastloadIoReq reqs[REQ_COUNT];
    uint32_t queued_count;
} IoTest;

/* @fd -1: the snapshot.  @fixed_bytes: how much staging is registered. */
static IoTest *io_test_new(const FastloadIoOps *ops, int fd,
                           size_t fixed_bytes)
{
    IoTest *t = g_new0(IoTest, 1);
    const char *refusal = NULL;
    int i;

    t->ops = ops;
    t->f = fixture_new(FIXTURE_ANON, FILE_PAGE_COUNT, fixture_all_data);
    t->staging_bytes = (size_t)FILE_PAGE_COUNT * PAGE;
    t->staging = mmap(NULL, t->staging_bytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    g_assert_true(t->staging != MAP_FAILED);
    t->setup = (FastloadIoSetup) {
        .fd = fd < 0 ? t->f->fd : fd,
        .is_ready = t->is_ready,
        .staging = t->staging,
        .fixed_bytes = fixed_bytes,
        .req_count_max = REQ_COUNT,
    };
    for (i = 0; i < 2; i++) {
        t->setup.watch_fds[i] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        g_assert_cmpint(t->setup.watch_fds[i], >=, 0);
    }
    t->io = ops->open(&t->setup, &refusal);
    g_assert_cmpstr(refusal, ==, NULL);
    g_assert_nonnull(t->io);
    return t;
}

static void io_test_free(IoTest *t)
{
    t->ops->close(t->io);
    close(t->setup.watch_fds[0]);
    close(t->setup.watch_fds[1]);
    munmap(t->staging, t->staging_bytes);
    fixture_free(t->f);
    g_free(t);
}

/* Queues a read of the snapshot's pages to the same place in staging. */
static FastloadIoReq *io_test_queue(IoTest *t, uint64_t page_idx,
                                    uint64_t page_count, bool is_urgent)
{
    FastloadIoReq *req = &t->reqs[t->queued_count++];

    g_assert_cmpuint(t->queued_count, <=, REQ_COUNT);
    req->buf = t->staging + page_idx * PAGE;
    req->file_off = t->f->file_off + page_idx * PAGE;
    req->len_bytes = page_count * PAGE;
    req->is_urgent = is_urgent;
    t->ops->queue(t->io, req);
    return req;
}

static FastloadIoReq *io_test_reap(IoTest *t)
{
    FastloadIoReq *req;

    while (!(req = t->ops->reap(t->io))) {
        t->ops->poll(t->io, -1, true);
    }
    return req;
}

static void io_test_assert_right(const IoTest *t, const FastloadIoReq *req)
{
    uint64_t first = (req->file_off - t->f->file_off) / PAGE;
    uint64_t i, w;

    g_assert_cmpint(req->error, ==, 0);
    g_assert_cmpuint(req->done_bytes, ==, req->len_bytes);
    for (i = 0; i < req->len_bytes / PAGE; i++) {
        const uint64_t *page = (uint64_t *)(req->buf + i * PAGE);

        for (w = 0; w < PAGE / sizeof(*page); w++) {
            g_assert_cmpuint(page[w], ==, fixture_word(t->f, first + i, w));
        }
    }
}

static void test_reads_the_right_bytes(const void *ops)
{
    /* One request of 1 MiB comes back whole and right. */
    IoTest *t = io_test_new(ops, -1, 0);
    FastloadIoReq *req = io_test_queue(t, 17, 256, false);

    g_assert_true(io_test_reap(t) == req);
    io_test_assert_right(t, req);
    g_assert_null(t->ops->reap(t->io));
    io_test_free(t);
}

static void test_registered_memory_is_read_to(const void *ops)
{
    /* Reads inside, across and outside of registered staging are right. */
    IoTest *t = io_test_new(ops, -1, 64 * PAGE);
    uint32_t i;

    io_test_queue(t, 0, 64, true);
    io_test_queue(t, 100, 2, false);
    for (i = 0; i < 2; i++) {
        io_test_assert_right(t, io_test_reap(t));
    }
    io_test_queue(t, 60, 8, true);
    io_test_assert_right(t, io_test_reap(t));
    io_test_free(t);
}

static void test_many_are_in_flight(const void *ops)
{
    /* Requests of all sizes, queued at once, each come back once. */
    IoTest *t = io_test_new(ops, -1, 0);
    uint32_t count = 60, i;
    uint64_t page = 0;

    for (i = 0; i < count; i++) {
        io_test_queue(t, page, i + 1, i % 3 == 0);
        page += i + 1;
    }
    for (i = 0; i < count; i++) {
        FastloadIoReq *req = io_test_reap(t);

        io_test_assert_right(t, req);
        g_assert_cmpuint(req->len_bytes, >, 0);
        req->len_bytes = 0; /* once */
    }
    g_assert_null(t->ops->reap(t->io));
    io_test_free(t);
}

static void test_more_than_the_ring_holds(const void *ops)
{
    /* More requests than the ring has entries can be in flight. */
    IoTest *t = io_test_new(ops, -1, 0);
    uint32_t i;

    for (i = 0; i < REQ_COUNT; i++) {
        io_test_queue(t, i * REQ_PAGE_COUNT, REQ_PAGE_COUNT, i % 2);
    }
    for (i = 0; i < REQ_COUNT; i++) {
        io_test_assert_right(t, io_test_reap(t));
    }
    g_assert_null(t->ops->reap(t->io));
    io_test_free(t);
}

static void test_end_of_file_is_an_error(const void *ops)
{
    /* What the file does not have is -ENODATA, at the first byte missing. */
    IoTest *t = io_test_new(ops, -1, 0);
    FastloadIoReq *req;

    g_assert_cmpint(ftruncate(t->f->fd, t->f->file_off + 100 * PAGE), ==, 0);
    req = io_test_queue(t, 90, 20, false);
    g_assert_true(io_test_reap(t) == req);
    g_assert_cmpint(req->error, ==, -ENODATA);
    g_assert_cmpuint(req->done_bytes, ==, 10 * PAGE);

    req = io_test_queue(t, 500, 1, true);
    g_assert_true(io_test_reap(t) == req);
    g_assert_cmpint(req->error, ==, -ENODATA);
    g_assert_cmpuint(req->done_bytes, ==, 0);

    req = io_test_queue(t, 99, 1, true);
    io_test_assert_right(t, io_test_reap(t));
    io_test_free(t);
}

static void test_half_a_page_is_an_error(const void *ops)
{
    /* A file that ends inside a page has not got that page. */
    IoTest *t = io_test_new(ops, -1, 0);
    FastloadIoReq *req;

    g_assert_cmpint(ftruncate(t->f->fd, t->f->file_off + 10 * PAGE + 100),
                    ==, 0);
    req = io_test_queue(t, 8, 3, false);
    g_assert_true(io_test_reap(t) == req);
    g_assert_cmpint(req->error, ==, -ENODATA);
    g_assert_cmpuint(req->done_bytes, >=, 2 * PAGE);
    g_assert_cmpuint(req->done_bytes, <=, 2 * PAGE + 100);

    req = io_test_queue(t, 10, 1, true);
    g_assert_true(io_test_reap(t) == req);
    g_assert_cmpint(req->error, ==, -ENODATA);
    g_assert_cmpuint(req->done_bytes, <=, 100);
    io_test_free(t);
}

static void test_failed_request_can_be_queued_again(const void *ops)
{
    /* A request that failed succeeds when the file is whole again. */
    IoTest *t = io_test_new(ops, -1, 0);
    FastloadIoReq *req;

    g_assert_cmpint(ftruncate(t->f->fd, t->f->file_off + 100 * PAGE), ==, 0);
    req = io_test_queue(t, 90, 20, false);
    g_assert_true(io_test_reap(t) == req);
    g_assert_cmpint(req->error, ==, -ENODATA);

    fixture_write_file(t->f);
    t->ops->queue(t->io, req);
    g_assert_true(io_test_reap(t) == req);
    io_test_assert_right(t, req);
    io_test_free(t);
}

static void test_errors_have_their_errno(const void *ops)
{
    /* A descriptor that cannot be read fails each request with EBADF. */
    int fd = open("/dev/null", O_WRONLY | O_CLOEXEC);
    IoTest *t = io_test_new(ops, fd, 0);
    FastloadIoReq *req = io_test_queue(t, 0, 4, false);

    g_assert_true(io_test_reap(t) == req);
    g_assert_cmpint(req->error, ==, -EBADF);
    g_assert_cmpuint(req->done_bytes, ==, 0);
    io_test_free(t);
    close(fd);
}

static void test_direct_io(const void *ops)
{
    /* A descriptor with O_DIRECT reads the same bytes. */
    IoTest *t = io_test_new(ops, -1, 8 * PAGE);
    FastloadIoReq *req;

    if (fcntl(t->f->fd, F_SETFL, O_DIRECT) < 0) {
        g_test_skip("the file system of TMPDIR has no O_DIRECT");
        io_test_free(t);
        return;
    }
    io_test_queue(t, 3, 1, true);
    io_test_queue(t, 64, 512, false);
    io_test_assert_right(t, io_test_reap(t));
    io_test_assert_right(t, io_test_reap(t));

    g_assert_cmpint(ftruncate(t->f->fd, t->f->file_off + 100 * PAGE), ==, 0);
    req = io_test_queue(t, 90, 20, false);
    g_assert_true(io_test_reap(t) == req);
    g_assert_cmpint(req->error, ==, -ENODATA);
    io_test_free(t);
}

static uint64_t io_test_poll_ns(IoTest *t, int64_t timeout_ns)
{
    uint64_t begin_ns = fastload_stats_now_ns();

    t->ops->poll(t->io, timeout_ns, true);
    return fastload_stats_now_ns() - begin_ns;
}

static void io_test_signal(int fd)
{
    uint64_t one = 1;

    g_assert_cmpint(write(fd, &one, sizeof(one)), ==, sizeof(one));
}

static void test_readable_watch_ends_the_wait(const void *ops)
{
    /* Each watched descriptor, readable already, wakes again and again. */
    IoTest *t = io_test_new(ops, -1, 0);
    uint64_t value;
    int i, round;

    for (i = 0; i < 2; i++) {
        io_test_signal(t->setup.watch_fds[i]);
        for (round = 0; round < 5; round++) {
            /* Returns: else the deadline ends it. */
            t->ops->poll(t->io, -1, true);
            g_assert_null(t->ops->reap(t->io));
        }
        g_assert_cmpint(read(t->setup.watch_fds[i], &value, sizeof(value)),
                        ==, sizeof(value));
    }
    io_test_free(t);
}

static void test_readable_watch_is_told(const void *ops)
{
    /* A poll tells which descriptor ended the wait, and no other. */
    IoTest *t = io_test_new(ops, -1, 0);
    uint64_t value;
    int i;

    g_assert_true(t->ops->tells_ready);
    for (i = 0; i < FASTLOAD_IO_WATCH_MAX; i++) {
        memset(t->is_ready, false, sizeof(t->is_ready));
        io_test_signal(t->setup.watch_fds[i]);
        t->ops->poll(t->io, -1, true);
        g_assert_true(t->is_ready[i]);
        g_assert_false(t->is_ready[!i]);
        g_assert_cmpint(read(t->setup.watch_fds[i], &value, sizeof(value)),
                        ==, sizeof(value));
    }
    io_test_free(t);
}

static void test_what_was_left_is_told_again(const void *ops)
{
    /* A descriptor that stays readable, or becomes so again, is told again. */
    IoTest *t = io_test_new(ops, -1, 0);
    uint64_t value;
    int i, round;

    for (i = 0; i < FASTLOAD_IO_WATCH_MAX; i++) {
        for (round = 0; round < 10; round++) {
            io_test_signal(t->setup.watch_fds[i]);
            if (round % 3 == 0) {
                g_assert_cmpint(read(t->setup.watch_fds[i], &value,
                                     sizeof(value)), ==, sizeof(value));
                io_test_signal(t->setup.watch_fds[i]);
            }
            while (!t->is_ready[i]) {
                t->ops->poll(t->io, -1, true); /* the deadline is the limit */
            }
            t->is_ready[i] = false;
        }
        g_assert_cmpint(read(t->setup.watch_fds[i], &value, sizeof(value)),
                        ==, sizeof(value));
    }
    io_test_free(t);
}

static void test_faults_are_told_when_served(const void *ops)
{
    /* A readable fault descriptor is told once the worker serves faults. */
    IoTest *t = io_test_new(ops, -1, 0);

    io_test_signal(t->setup.watch_fds[FASTLOAD_IO_WATCH_FAULTS]);
    io_test_signal(t->setup.watch_fds[FASTLOAD_IO_WATCH_KICKS]);
    t->ops->poll(t->io, -1, false);
    g_assert_true(t->is_ready[FASTLOAD_IO_WATCH_KICKS]);
    g_assert_false(t->is_ready[FASTLOAD_IO_WATCH_FAULTS]);
    while (!t->is_ready[FASTLOAD_IO_WATCH_FAULTS]) {
        t->ops->poll(t->io, -1, true);
    }
    io_test_free(t);
}

static void test_readable_watch_is_told_among_reads(const void *ops)
{
    /* A descriptor is told, though reads keep the worker awake. */
    IoTest *t = io_test_new(ops, -1, 0);
    uint32_t i;

    io_test_signal(t->setup.watch_fds[FASTLOAD_IO_WATCH_FAULTS]);
    for (i = 0; !t->is_ready[FASTLOAD_IO_WATCH_FAULTS] && i < 50; i++) {
        io_test_queue(t, i, 1, false);
        io_test_assert_right(t, io_test_reap(t));
    }
    g_assert_true(t->is_ready[FASTLOAD_IO_WATCH_FAULTS]);
    io_test_free(t);
}

static void *io_waker_main(void *opaque)
{
    IoTest *t = opaque;
    int round;

    for (round = 0; round < 200; round++) {
        uint64_t value;

        io_test_signal(t->setup.watch_fds[1]);
        /* The poller answers each signal before the next one. */
        while (read(t->setup.watch_fds[0], &value, sizeof(value)) < 0) {
            g_thread_yield();
        }
    }
    return NULL;
}

static void test_watch_wakes_a_sleeper(const void *ops)
{
    /* A descriptor that becomes readable during the wait ends it. */
    IoTest *t = io_test_new(ops, -1, 0);
    GThread *waker = g_thread_new("waker", io_waker_main, t);
    uint32_t seen = 0;

    while (seen < 200) {
        uint64_t value;

        t->ops->poll(t->io, -1, true);
        if (read(t->setup.watch_fds[1], &value, sizeof(value)) > 0) {
            seen++;
            io_test_signal(t->setup.watch_fds[0]);
        }
    }
    g_thread_join(waker);
    io_test_free(t);
}

static void test_watch_wakes_between_reads(const void *ops)
{
    /* Reads and a descriptor that stays readable do not starve each other. */
    IoTest *t = io_test_new(ops, -1, 0);
    uint32_t i;

    io_test_signal(t->setup.watch_fds[1]);
    for (i = 0; i < 50; i++) {
        io_test_queue(t, i, 1, false);
        io_test_assert_right(t, io_test_reap(t));
    }
    io_test_free(t);
}

static void test_timeout_is_honoured(const void *ops)
{
    /* With nothing to do a wait takes its time; with none it does not wait. */
    IoTest *t = io_test_new(ops, -1, 0);
    uint64_t wait_ns = 20 * 1000 * 1000;
    uint64_t total_ns = 0;
    uint32_t count;

    t->ops->poll(t->io, 0, true); /* returns: else the deadline ends it */
    /* It may return early, now and then, but must not spin. */
    for (count = 0; total_ns < wait_ns && count < 10; count++) {
        total_ns += io_test_poll_ns(t, wait_ns);
    }
    g_assert_cmpuint(total_ns, >=, wait_ns);
    io_test_free(t);
}

static void test_poll_without_wait_makes_progress(const void *ops)
{
    /* Polls that never wait bring a request home all the same. */
    IoTest *t = io_test_new(ops, -1, 0);
    FastloadIoReq *req = io_test_queue(t, 0, 512, false);
    FastloadIoReq *done;

    while (!(done = t->ops->reap(t->io))) {
        t->ops->poll(t->io, 0, true);
    }
    g_assert_true(done == req);
    io_test_assert_right(t, req);
    io_test_free(t);
}

static void test_urgent_comes_first(const void *ops)
{
    /* An urgent request overtakes background ones that were queued before. */
    IoTest *t = io_test_new(ops, -1, 0);
    FastloadIoReq *urgent;
    uint32_t i;

    io_test_queue(t, 0, 512, false);
    io_test_queue(t, 512, 512, false);
    t->ops->poll(t->io, 0, true); /* the first one has begun */
    urgent = io_test_queue(t, 1500, 1, true);
    g_assert_true(io_test_reap(t) == urgent);
    io_test_assert_right(t, urgent);
    for (i = 0; i < 2; i++) {
        io_test_assert_right(t, io_test_reap(t));
    }
    io_test_free(t);
}

static void test_read_goes_on_by_preadv(const void *opaque)
{
    /* What another backend left undone is read, from a block's start on. */
    IoTest *t = io_test_new(&fastload_io_sync_ops, -1, 0);
    FastloadIoReq req = {
        .buf = t->staging,
        .file_off = t->f->file_off,
        .len_bytes = 300 * PAGE,
        .done_bytes = 5 * PAGE + 100,
        .error = -ENOMEM,
    };

    if (fcntl(t->f->fd, F_SETFL, O_DIRECT) < 0) {
        g_test_message("the file system of TMPDIR has no O_DIRECT");
    }
    g_assert_cmpint(pread(t->f->fd, t->staging, 5 * PAGE, t->f->file_off), ==,
                    5 * PAGE);
    fastload_io_sync_read(t->f->fd, &req);
    io_test_assert_right(t, &req);
    io_test_free(t);
}

static void test_failed_preadv_has_its_errno(const void *opaque)
{
    /* What preadv answers replaces the errno of the backend before. */
    int fd = open("/dev/null", O_WRONLY | O_CLOEXEC);
    IoTest *t = io_test_new(&fastload_io_sync_ops, -1, 0);
    FastloadIoReq req = {
        .buf = t->staging,
        .file_off = t->f->file_off,
        .len_bytes = 20 * PAGE,
        .error = -ENOMEM,
    };

    fastload_io_sync_read(fd, &req);
    g_assert_cmpint(req.error, ==, -EBADF);
    g_assert_cmpint(ftruncate(t->f->fd, t->f->file_off + 10 * PAGE), ==, 0);
    fastload_io_sync_read(t->f->fd, &req);
    g_assert_cmpint(req.error, ==, -ENODATA);
    g_assert_cmpuint(req.done_bytes, ==, 10 * PAGE);
    io_test_free(t);
    close(fd);
}

static void test_no_mapping_is_said(const void *opaque)
{
    /* Why a ring cannot be mapped is said: vm.max_map_count. */
    FastloadIoSetup setup = {
        .fd = -1,
        .direct_fd = -1,
        .watch_fds = { -1, -1 },
        .req_count_max = 1,
    };
    const char *refusal = NULL;

    if (IO_IS_SANITIZED) {
        g_test_skip("a sanitizer asks for mappings itself");
        return;
    }
    if (!fixture_may_fill_mappings() || fixture_run_child()) {
        return;
    }
    fixture_fill_mappings(1);
    g_assert_null(fastload_io_uring_ops.open(&setup, &refusal));
    g_assert_nonnull(refusal);
    g_assert_nonnull(strstr(refusal, "vm.max_map_count"));
}

/* A ring that may read faults from @fd, which it owns from here on. */
static void io_test_open_with_batch(IoTest *t, int fd)
{
    const char *refusal = NULL;

    t->ops->close(t->io);
    close(t->setup.watch_fds[FASTLOAD_IO_WATCH_FAULTS]);
    t->setup.watch_fds[FASTLOAD_IO_WATCH_FAULTS] = fd;
    t->setup.batch = &t->batch;
    t->io = t->ops->open(&t->setup, &refusal);
    g_assert_nonnull(t->io);
}

/* An interrupted read is repeated: the ring goes on reading. */
static void io_test_interrupt(IoTest *t)
{
    t->ops->poll(t->io, 0, true);
    t->ops->poll(t->io, 0, true);
    if (!t->batch.is_used) {
        return; /* this kernel cannot wait in such a read */
    }
    is_to_interrupt = true;
    interrupted_count = 0;
    while (!interrupted_count) { /* the deadline is the limit */
        t->ops->poll(t->io, 0, true);
    }
    is_to_interrupt = false;
    g_assert_true(t->batch.is_used);
    t->is_ready[FASTLOAD_IO_WATCH_FAULTS] = false;
}

static void *io_toucher_main(void *map)
{
    return GUINT_TO_POINTER(*(volatile uint8_t *)map);
}

static void test_faults_are_read(const void *opaque)
{
    /*
     * The ring reads faults itself, none while the last ones were not taken;
     * a kernel that cannot do that leaves the batch alone.
     */
    IoTest *t = io_test_new(opaque, -1, 0);
    FastloadUffdFault faults[FASTLOAD_FAULT_BATCH_MAX];
    FastloadUffdRefusal refusal;
    GThread *touchers[2];
    uint64_t done_bytes;
    bool ignored;
    int uffd, i;
    uint8_t *map = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    g_assert_true(fastload_uffd_open(&uffd, &ignored, &refusal));
    g_assert_cmpint(fastload_uffd_register(uffd, map, 2 * PAGE, &ignored), ==,
                    0);
    io_test_open_with_batch(t, uffd);
    t->ops->poll(t->io, 0, false);
    g_assert_cmpuint(t->batch.len_bytes, ==, 0);
    io_test_interrupt(t);
    for (i = 0; i < 2; i++) {
        touchers[i] = g_thread_new("toucher", io_toucher_main, map + i * PAGE);
        while (t->batch.is_used ? !t->batch.len_bytes
                                : !t->is_ready[FASTLOAD_IO_WATCH_FAULTS]) {
            t->ops->poll(t->io, -1, true); /* the deadline is the limit */
        }
        g_assert_true(t->is_ready[FASTLOAD_IO_WATCH_FAULTS]);
        t->is_ready[FASTLOAD_IO_WATCH_FAULTS] = false;
        if (t->batch.is_used) {
            t->ops->poll(t->io, 0, true);
            g_assert_cmpint(fastload_uffd_take(&t->batch, faults), ==, 1);
        } else {
            g_assert_cmpint(fastload_uffd_read(uffd, faults, 2), ==, 1);
        }
        g_assert_cmpuint(faults[0].hva, ==, (uintptr_t)map + i * PAGE);
        g_assert_cmpint(fastload_uffd_zero(uffd, map + i * PAGE, PAGE,
                                           &done_bytes), ==, 0);
        g_assert_cmpuint(GPOINTER_TO_UINT(g_thread_join(touchers[i])), ==, 0);
    }
    g_assert_cmpuint(t->batch.len_bytes, ==, 0);
    io_test_free(t);
    munmap(map, 2 * PAGE);
}

static void test_faults_that_cannot_be_read_are_told(const void *opaque)
{
    /* Where the ring cannot read the descriptor, it polls. */
    IoTest *t = io_test_new(opaque, -1, 0);
    int fds[2];

    g_assert_cmpint(pipe2(fds, O_CLOEXEC), ==, 0);
    io_test_open_with_batch(t, fds[1]);
    while (t->batch.is_used) { /* the deadline is the limit */
        t->ops->poll(t->io, 0, true);
    }
    memset(t->is_ready, false, sizeof(t->is_ready));
    t->ops->poll(t->io, 0, true);
    g_assert_false(t->is_ready[FASTLOAD_IO_WATCH_FAULTS]);
    close(fds[0]); /* POLLERR, which a poll reports */
    while (!t->is_ready[FASTLOAD_IO_WATCH_FAULTS]) {
        t->ops->poll(t->io, -1, true);
    }
    g_assert_cmpuint(t->batch.len_bytes, ==, 0);
    io_test_free(t);
}

/* More than four for each processor of a small machine. */
#define WAITING_COUNT 60u

static void test_many_reads_wait_at_once(const void *opaque)
{
    /*
     * Reads that wait in the file system do not hold up others.  The file
     * system of /proc cannot begin a read and return, and the pages that are
     * read to are missing.
     */
    int proc_fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    IoTest *t = io_test_new(opaque, proc_fd, 0);
    size_t len_bytes = WAITING_COUNT * PAGE;
    FastloadUffdRefusal refusal;
    FastloadUffdFault faults[FASTLOAD_FAULT_BATCH_MAX];
    uint64_t done_bytes;
    uint32_t seen = 0, i;
    bool ignored;
    int uffd;
    uint8_t *map = mmap(NULL, len_bytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    g_assert_true(fastload_uffd_open(&uffd, &ignored, &refusal));
    g_assert_cmpint(fastload_uffd_register(uffd, map, len_bytes, &ignored),
                    ==, 0);
    for (i = 0; i < WAITING_COUNT; i++) {
        t->reqs[i] = (FastloadIoReq) {
            .buf = map + i * PAGE, .len_bytes = PAGE, .file_off = i * PAGE,
        };
        t->ops->queue(t->io, &t->reqs[i]);
    }
    t->ops->poll(t->io, 0, true);
    while (seen < WAITING_COUNT) { /* the deadline is the limit */
        int count = fastload_uffd_read(uffd, faults, G_N_ELEMENTS(faults));

        g_assert_cmpint(count, >=, 0);
        seen += count;
        g_usleep(100);
    }
    g_assert_cmpint(fastload_uffd_zero(uffd, map, len_bytes, &done_bytes), ==,
                    0);
    for (i = 0; i < WAITING_COUNT; i++) {
        g_assert_cmpint(io_test_reap(t)->error, ==, 0);
    }
    close(uffd);
    munmap(map, len_bytes);
    io_test_free(t);
    close(proc_fd);
}

static void test_no_sleep_without_a_watch(const void *ops)
{
    /* If a watch finds no room in the ring, poll() returns all the same. */
    int fds[2];
    IoTest *t;
    uint32_t i;

    g_assert_cmpint(pipe(fds), ==, 0);
    t = io_test_new(ops, fds[0], 0);
    is_to_refuse = true;
    for (i = 0; i < RING_COUNT; i++) {
        io_test_queue(t, i, 1, false);
    }
    /* None of them returns: nobody writes to the pipe. */
    g_assert_cmpint(eventfd_write(t->setup.watch_fds[0], 1), ==, 0);
    while (!t->is_ready[0]) {
        g_assert_true(t->ops->poll(t->io, -1, true));
    }
    is_to_refuse = false;
    g_assert_null(t->ops->reap(t->io));
    io_test_free(t);
    close(fds[0]);
    close(fds[1]);
}

static void io_add(const FastloadIoOps *ops, const char *behaviour,
                   GTestDataFunc func)
{
    g_autofree char *path = g_strdup_printf("/fastload/io/%s/%s", ops->name,
                                            behaviour);

    fixture_add_test(path, ops == &fastload_io_uring_ops ? FIXTURE_NEEDS_URING
                                                         : 0, func, ops);
}

int main(int argc, char **argv)
{
    static const FastloadIoOps *const backends[] = {
        &fastload_io_uring_ops, &fastload_io_sync_ops,
    };
    uint32_t i;

    fixture_init(&argc, &argv);
    for (i = 0; i < G_N_ELEMENTS(backends); i++) {
        const FastloadIoOps *ops = backends[i];

        io_add(ops, "reads-the-right-bytes", test_reads_the_right_bytes);
        io_add(ops, "registered-memory-is-read-to",
               test_registered_memory_is_read_to);
        io_add(ops, "many-are-in-flight", test_many_are_in_flight);
        io_add(ops, "more-than-the-ring-holds", test_more_than_the_ring_holds);
        io_add(ops, "end-of-file-is-an-error", test_end_of_file_is_an_error);
        io_add(ops, "half-a-page-is-an-error", test_half_a_page_is_an_error);
        io_add(ops, "failed-request-can-be-queued-again",
               test_failed_request_can_be_queued_again);
        io_add(ops, "errors-have-their-errno", test_errors_have_their_errno);
        io_add(ops, "direct-io", test_direct_io);
        io_add(ops, "readable-watch-ends-the-wait",
               test_readable_watch_ends_the_wait);
        io_add(ops, "readable-watch-is-told", test_readable_watch_is_told);
        io_add(ops, "what-was-left-is-told-again",
               test_what_was_left_is_told_again);
        io_add(ops, "faults-are-told-when-served",
               test_faults_are_told_when_served);
        io_add(ops, "readable-watch-is-told-among-reads",
               test_readable_watch_is_told_among_reads);
        io_add(ops, "watch-wakes-a-sleeper", test_watch_wakes_a_sleeper);
        io_add(ops, "watch-wakes-between-reads",
               test_watch_wakes_between_reads);
        io_add(ops, "timeout-is-honoured", test_timeout_is_honoured);
        io_add(ops, "poll-without-wait-makes-progress",
               test_poll_without_wait_makes_progress);
    }
    io_add(&fastload_io_uring_ops, "no-mapping-is-said",
           test_no_mapping_is_said);
    fixture_add_test("/fastload/io/io_uring/many-reads-wait-at-once",
                     FIXTURE_NEEDS_URING | FIXTURE_NEEDS_UFFD,
                     test_many_reads_wait_at_once, &fastload_io_uring_ops);
    io_add(&fastload_io_uring_ops, "no-sleep-without-a-watch",
           test_no_sleep_without_a_watch);
    fixture_add_test("/fastload/io/io_uring/faults-are-read",
                     FIXTURE_NEEDS_URING | FIXTURE_NEEDS_UFFD,
                     test_faults_are_read, &fastload_io_uring_ops);
    fixture_add_test("/fastload/io/io_uring/faults-are-told-if-not-read",
                     FIXTURE_NEEDS_URING,
                     test_faults_that_cannot_be_read_are_told,
                     &fastload_io_uring_ops);
    io_add(&fastload_io_sync_ops, "urgent-comes-first",
           test_urgent_comes_first);
    io_add(&fastload_io_sync_ops, "read-goes-on", test_read_goes_on_by_preadv);
    io_add(&fastload_io_sync_ops, "failed-read-has-its-errno",
           test_failed_preadv_has_its_errno);
    return g_test_run();
}
