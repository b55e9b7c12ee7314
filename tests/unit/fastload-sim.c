/*
 * A read backend that behaves like bad storage, from a seed.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/uio.h>
#include <time.h>
#include "fastload-clock.h"
#include "fastload-sim.h"

/* A worker that polls so often while the test waits for it never sleeps. */
#define SIM_POLL_COUNT_MAX (200 * 1000)
/* After a backend broke, it writes so many times, so far apart. */
#define SIM_LATE_COUNT 3
#define SIM_LATE_US 700

typedef struct SimBad {
    uint64_t file_off;
    uint64_t len_bytes; /* 0: unused */
    int error_number;
    uint32_t fail_count;
} SimBad;

static struct {
    GMutex lock;
    SimConfig config;
    SimBad bads[SIM_BAD_COUNT_MAX];
    SimHold hold;
    uint64_t held_off;
    uint64_t held_bytes;
    bool is_refused;
    uint32_t open_count;
    uint64_t failed_count;
    uint64_t poll_count;
    uint64_t failed_urgent_count;
    uint64_t pending_count;
    uint64_t pending_urgent_count;
    uint64_t broken_count;
    GCond late_cond;
    uint32_t late_count; /* threads */
    FastloadIo *ios;
} sim;

/* Requests that were not complete when a backend broke. */
typedef struct SimLate {
    uint32_t count;
    struct iovec targets[];
} SimLate;

/* What wakes a worker: its two descriptors, and the simulator's own. */
#define SIM_WATCH_COUNT 3
#define SIM_WATCH_OWN 2

struct FastloadIo {
    /* constant after open */
    int fd;
    int watch_fds[SIM_WATCH_COUNT];
    /* worker thread only */
    FastloadFaultBatch *batch; /* the worker's, or NULL */
    GRand *rand;
    uint32_t turn;
    uint32_t pending_turn; /* polls with requests pending */
    FastloadIoReq *pending; /* again_count: the turn when it goes on */
    FastloadIoReq *done;
    /* lock sim.lock */
    FastloadIo *next;
    uint64_t poll_count;
    bool serves_faults;
    bool is_asleep;   /* it has nothing to do, and would go on sleeping */
    uint64_t due_ns;  /* the limit of its sleep; UINT64_MAX: none */
};

/* ---- control ---- */

/* Makes workers that sleep check again whether they have to. */
static void sim_wake_all_locked(void)
{
    const uint64_t one = 1;
    FastloadIo *io;

    for (io = sim.ios; io; io = io->next) {
        io->is_asleep = false;
        g_assert_cmpint(write(io->watch_fds[SIM_WATCH_OWN], &one,
                              sizeof(one)), ==, sizeof(one));
    }
}

static void sim_wait_late_locked(void)
{
    while (sim.late_count) {
        g_cond_wait(&sim.late_cond, &sim.lock);
    }
}

void sim_wait_late(void)
{
    g_mutex_lock(&sim.lock);
    sim_wait_late_locked();
    g_mutex_unlock(&sim.lock);
}

void sim_reset(const SimConfig *config)
{
    g_mutex_lock(&sim.lock);
    sim_wait_late_locked();
    g_assert_cmpuint(sim.pending_count, ==, 0);
    sim.config = *config;
    sim.broken_count = 0;
    memset(sim.bads, 0, sizeof(sim.bads));
    sim.hold = SIM_HOLD_NONE;
    sim.held_bytes = 0;
    sim.is_refused = false;
    sim.open_count = 0;
    sim.failed_count = 0;
    sim.poll_count = 0;
    sim.failed_urgent_count = 0;
    g_mutex_unlock(&sim.lock);
}

void sim_set_rates(uint32_t eio_permille, uint32_t eagain_permille)
{
    g_mutex_lock(&sim.lock);
    sim.config.eio_permille = eio_permille;
    sim.config.eagain_permille = eagain_permille;
    g_mutex_unlock(&sim.lock);
}

void sim_add_bad(uint64_t file_off, uint64_t len_bytes, int error_number,
                 uint32_t fail_count)
{
    uint32_t i = 0;

    g_mutex_lock(&sim.lock);
    while (sim.bads[i].len_bytes) {
        i++;
        g_assert_cmpuint(i, <, SIM_BAD_COUNT_MAX);
    }
    sim.bads[i] = (SimBad) {
        .file_off = file_off,
        .len_bytes = len_bytes,
        .error_number = error_number,
        .fail_count = fail_count,
    };
    g_mutex_unlock(&sim.lock);
}

void sim_heal(uint64_t file_off)
{
    uint32_t i;

    g_mutex_lock(&sim.lock);
    for (i = 0; i < SIM_BAD_COUNT_MAX; i++) {
        if (sim.bads[i].file_off == file_off) {
            sim.bads[i].len_bytes = 0;
        }
    }
    g_mutex_unlock(&sim.lock);
}

void sim_hold(SimHold hold)
{
    g_mutex_lock(&sim.lock);
    sim.hold = hold;
    sim_wake_all_locked();
    g_mutex_unlock(&sim.lock);
}

void sim_hold_range(uint64_t file_off, uint64_t len_bytes)
{
    g_mutex_lock(&sim.lock);
    sim.held_off = file_off;
    sim.held_bytes = len_bytes;
    sim_wake_all_locked();
    g_mutex_unlock(&sim.lock);
}

void sim_refuse(bool is_refused)
{
    g_mutex_lock(&sim.lock);
    sim.is_refused = is_refused;
    g_mutex_unlock(&sim.lock);
}

static uint64_t sim_get(const uint64_t *counter)
{
    uint64_t value;

    g_mutex_lock(&sim.lock);
    value = *counter;
    g_mutex_unlock(&sim.lock);
    return value;
}

uint64_t sim_failed_count(void)
{
    return sim_get(&sim.failed_count);
}

uint64_t sim_poll_count(void)
{
    return sim_get(&sim.poll_count);
}

uint64_t sim_failed_urgent_count(void)
{
    return sim_get(&sim.failed_urgent_count);
}

uint64_t sim_broken_count(void)
{
    return sim_get(&sim.broken_count);
}

uint64_t sim_poll_count_of(const FastloadIo *io)
{
    return sim_get(&io->poll_count);
}

uint64_t sim_pending_count(void)
{
    return sim_get(&sim.pending_count);
}

uint64_t sim_pending_urgent_count(void)
{
    return sim_get(&sim.pending_urgent_count);
}

/* ---- workers that sleep ---- */

/* The worker writes serves_faults, and nobody else. */
static void sim_watch(const FastloadIo *io, struct pollfd *ret_watch)
{
    int i;

    for (i = 0; i < SIM_WATCH_COUNT; i++) {
        bool is_served = i != FASTLOAD_IO_WATCH_FAULTS || io->serves_faults;

        ret_watch[i] = (struct pollfd) {
            .fd = io->watch_fds[i], .events = is_served ? POLLIN : 0,
        };
    }
}

static bool sim_is_asleep_locked(const FastloadIo *io)
{
    struct pollfd watch[SIM_WATCH_COUNT];

    sim_watch(io, watch);
    return io->is_asleep && poll(watch, SIM_WATCH_COUNT, 0) == 0;
}

static bool sim_are_asleep_locked(void)
{
    FastloadIo *io = sim.ios;

    while (io && sim_is_asleep_locked(io)) {
        io = io->next;
    }
    return !io;
}

bool sim_is_asleep(void)
{
    bool are_asleep;

    g_mutex_lock(&sim.lock);
    are_asleep = sim_are_asleep_locked();
    g_mutex_unlock(&sim.lock);
    return are_asleep;
}

void sim_wait_asleep(void)
{
    uint64_t poll_count = sim_poll_count();

    g_mutex_lock(&sim.lock);
    while (!sim_are_asleep_locked()) {
        g_assert_cmpuint(sim.poll_count - poll_count, <, SIM_POLL_COUNT_MAX);
        g_mutex_unlock(&sim.lock);
        g_usleep(20);
        g_mutex_lock(&sim.lock);
    }
    g_mutex_unlock(&sim.lock);
}

void sim_skip(uint64_t ns)
{
    g_mutex_lock(&sim.lock);
    test_clock_skip(ns);
    sim_wake_all_locked();
    g_mutex_unlock(&sim.lock);
}

bool sim_step(void)
{
    uint64_t due_ns = UINT64_MAX;
    FastloadIo *io;

    g_assert_true(test_clock_is_stopped());
    sim_wait_asleep();
    g_mutex_lock(&sim.lock);
    for (io = sim.ios; io; io = io->next) {
        due_ns = MIN(due_ns, io->due_ns);
    }
    g_mutex_unlock(&sim.lock);
    if (due_ns == UINT64_MAX) {
        return false;
    }
    sim_skip(due_ns - MIN(due_ns, fastload_stats_now_ns()));
    return true;
}

/* ---- the backend ---- */

static FastloadIo *sim_open(const FastloadIoSetup *setup,
                            const char **ret_refusal)
{
    FastloadIo *io;
    uint32_t seed;
    int i;

    g_mutex_lock(&sim.lock);
    seed = sim.config.seed * 64 + sim.open_count++;
    if (sim.is_refused) {
        g_mutex_unlock(&sim.lock);
        *ret_refusal = "told to refuse";
        return NULL;
    }
    g_mutex_unlock(&sim.lock);
    io = g_new0(FastloadIo, 1);
    io->fd = setup->fd;
    io->batch = setup->batch;
    io->rand = g_rand_new_with_seed(seed);
    for (i = 0; i < SIM_WATCH_COUNT; i++) {
        io->watch_fds[i] = i == SIM_WATCH_OWN
            ? eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK) : setup->watch_fds[i];
    }
    g_assert_cmpint(io->watch_fds[SIM_WATCH_OWN], >=, 0);
    g_mutex_lock(&sim.lock);
    io->next = sim.ios;
    sim.ios = io;
    g_mutex_unlock(&sim.lock);
    return io;
}

static uint32_t sim_some_turns_later(FastloadIo *io)
{
    uint32_t delay_turns_max;

    g_mutex_lock(&sim.lock);
    delay_turns_max = sim.config.delay_turns_max;
    g_mutex_unlock(&sim.lock);
    return io->turn + g_rand_int_range(io->rand, 0, delay_turns_max + 1);
}

static void sim_queue(FastloadIo *io, FastloadIoReq *req)
{
    req->done_bytes = 0;
    req->error = 0;
    req->again_count = sim_some_turns_later(io);
    req->next = io->pending;
    io->pending = req;
    g_mutex_lock(&sim.lock);
    sim.pending_count++;
    sim.pending_urgent_count += req->is_urgent;
    g_mutex_unlock(&sim.lock);
}

/* Cuts the piece at the first bad byte; returns an errno if that is at 0. */
static int sim_meet_bad_locked(uint64_t file_off, uint32_t *piece_bytes)
{
    uint32_t i;
    int error_number = 0;

    for (i = 0; i < SIM_BAD_COUNT_MAX; i++) {
        SimBad *bad = &sim.bads[i];

        if (!bad->len_bytes || file_off + *piece_bytes <= bad->file_off ||
            bad->file_off + bad->len_bytes <= file_off) {
            continue;
        }
        if (file_off < bad->file_off) {
            *piece_bytes = bad->file_off - file_off;
            continue;
        }
        error_number = bad->error_number;
        if (bad->fail_count && --bad->fail_count == 0) {
            bad->len_bytes = 0;
        }
        break;
    }
    return error_number;
}

static int sim_roll(FastloadIo *io, uint64_t file_off, uint32_t *piece_bytes)
{
    uint32_t dice = g_rand_int_range(io->rand, 0, 1000);
    int error_number;

    g_mutex_lock(&sim.lock);
    error_number = sim_meet_bad_locked(file_off, piece_bytes);
    if (!error_number && dice < sim.config.eio_permille) {
        error_number = EIO;
    } else if (!error_number && dice < sim.config.eio_permille +
               sim.config.eagain_permille) {
        error_number = EAGAIN;
    }
    g_mutex_unlock(&sim.lock);
    return error_number;
}

/* Reads one piece; returns whether the request is complete. */
static bool sim_read_piece(FastloadIo *io, FastloadIoReq *req)
{
    uint32_t piece_bytes = req->len_bytes - req->done_bytes;
    uint64_t file_off = req->file_off + req->done_bytes;
    int error_number;
    ssize_t got;

    if (piece_bytes > 1 && g_rand_int_range(io->rand, 0, 3) == 0) {
        piece_bytes = g_rand_int_range(io->rand, 1, piece_bytes);
    }
    error_number = sim_roll(io, file_off, &piece_bytes);
    if (!error_number) {
        got = pread(io->fd, req->buf + req->done_bytes, piece_bytes,
                    file_off);
        if (got > 0) {
            req->done_bytes += got;
            return req->done_bytes == req->len_bytes;
        }
        error_number = got < 0 ? errno : ENODATA;
    }
    req->error = -error_number;
    return true;
}

static void sim_complete(FastloadIo *io, FastloadIoReq *req)
{
    FastloadIoReq **at = &io->done;

    g_mutex_lock(&sim.lock);
    sim.pending_count--;
    sim.pending_urgent_count -= req->is_urgent;
    sim.failed_count += req->error != 0;
    sim.failed_urgent_count += req->error && req->is_urgent;
    g_mutex_unlock(&sim.lock);
    while (*at && g_rand_boolean(io->rand)) {
        at = &(*at)->next;
    }
    req->next = *at;
    *at = req;
}

static bool sim_is_held_locked(const FastloadIoReq *req)
{
    return (sim.hold & (req->is_urgent ? SIM_HOLD_URGENT
                                       : SIM_HOLD_BACKGROUND)) ||
           (req->file_off >= sim.held_off &&
            req->file_off < sim.held_off + sim.held_bytes);
}

static bool sim_is_held(const FastloadIoReq *req)
{
    bool is_held;

    g_mutex_lock(&sim.lock);
    is_held = sim_is_held_locked(req);
    g_mutex_unlock(&sim.lock);
    return is_held;
}

/* Returns whether some request goes on by itself. */
static bool sim_turn(FastloadIo *io)
{
    FastloadIoReq **at = &io->pending;
    bool is_busy = false;

    io->turn++;
    while (*at) {
        FastloadIoReq *req = *at;

        if (sim_is_held(req)) {
            at = &req->next;
            continue;
        }
        is_busy = true;
        if ((int32_t)(req->again_count - io->turn) > 0) {
            at = &req->next;
        } else if (sim_read_piece(io, req)) {
            *at = req->next;
            sim_complete(io, req);
        } else {
            req->again_count = sim_some_turns_later(io);
            at = &req->next;
        }
    }
    return is_busy;
}

/* Does the backend break now?  Not called again after that. */
static bool sim_breaks(FastloadIo *io)
{
    uint32_t break_permille, break_turn;

    if (!io->pending) {
        return false;
    }
    g_mutex_lock(&sim.lock);
    break_permille = sim.config.break_permille;
    break_turn = sim.config.break_turn;
    g_mutex_unlock(&sim.lock);
    io->pending_turn++;
    return break_turn ? io->pending_turn == break_turn
                      : g_rand_int_range(io->rand, 0, 1000) < break_permille;
}

/* Does the worker sleep?  If all pending requests are held, and none is due. */
static bool sim_falls_asleep(FastloadIo *io)
{
    FastloadIoReq *req = io->pending;
    bool is_asleep;

    g_mutex_lock(&sim.lock);
    while (req && sim_is_held_locked(req)) {
        req = req->next;
    }
    is_asleep = !req && fastload_stats_now_ns() < io->due_ns;
    io->is_asleep = is_asleep;
    g_mutex_unlock(&sim.lock);
    return is_asleep;
}

static void sim_sleep(FastloadIo *io)
{
    struct pollfd watch[SIM_WATCH_COUNT];
    bool is_woken = false;
    uint64_t count;

    sim_watch(io, watch);
    while (!is_woken && sim_falls_asleep(io)) {
        struct timespec ts = { 0 };
        bool is_endless = io->due_ns == UINT64_MAX || test_clock_is_stopped();

        if (!is_endless) {
            uint64_t now_ns = fastload_stats_now_ns();
            uint64_t sleep_ns = io->due_ns - MIN(io->due_ns, now_ns);

            ts.tv_sec = sleep_ns / 1000000000;
            ts.tv_nsec = sleep_ns % 1000000000;
        }
        if (ppoll(watch, SIM_WATCH_COUNT, is_endless ? NULL : &ts, NULL) > 0) {
            is_woken = watch[0].revents || watch[1].revents;
        }
        if (read(io->watch_fds[SIM_WATCH_OWN], &count, sizeof(count)) < 0) {
            g_assert_cmpint(errno, ==, EAGAIN);
        }
    }
    g_mutex_lock(&sim.lock);
    io->is_asleep = false;
    g_mutex_unlock(&sim.lock);
}

/* Takes messages from the userfaultfd, as a ring that reads them does. */
static void sim_read_faults(FastloadIo *io)
{
    ssize_t got = read(io->watch_fds[FASTLOAD_IO_WATCH_FAULTS],
                       io->batch->words, sizeof(io->batch->words));

    io->batch->len_bytes = MAX(got, 0);
}

/* What a ring has read is lost when it breaks. */
static void sim_lose_faults(FastloadIo *io)
{
    struct pollfd watch = {
        .fd = io->watch_fds[FASTLOAD_IO_WATCH_FAULTS], .events = POLLIN,
    };
    bool waits;

    g_mutex_lock(&sim.lock);
    waits = sim.config.breaks_with_fault;
    g_mutex_unlock(&sim.lock);
    if (waits) {
        g_assert_cmpint(poll(&watch, 1, -1), ==, 1);
    }
    sim_read_faults(io);
    io->batch->len_bytes = 0;
}

static bool sim_poll(FastloadIo *io, int64_t timeout_ns, bool serves_faults)
{
    bool reads_faults = io->batch && serves_faults && !io->batch->len_bytes;

    g_mutex_lock(&sim.lock);
    sim.poll_count++;
    io->poll_count++;
    g_mutex_unlock(&sim.lock);
    if (sim_breaks(io)) {
        if (reads_faults) {
            sim_lose_faults(io);
        }
        return false;
    }
    if (reads_faults && g_rand_boolean(io->rand)) {
        sim_read_faults(io);
    }
    if ((io->batch && io->batch->len_bytes) || sim_turn(io) || io->done ||
        timeout_ns == 0) {
        return true;
    }
    g_mutex_lock(&sim.lock);
    io->serves_faults = serves_faults;
    io->due_ns = timeout_ns < 0 ? UINT64_MAX
                                : fastload_stats_now_ns() + timeout_ns;
    g_mutex_unlock(&sim.lock);
    sim_sleep(io);
    return true;
}

static FastloadIoReq *sim_reap(FastloadIo *io)
{
    FastloadIoReq *req = io->done;

    if (req) {
        io->done = req->next;
    }
    return req;
}

/*
 * Writes late, as the kernel would: to the address of the buffer in this
 * process, whatever is mapped there by then.
 */
static void *sim_late_main(void *opaque)
{
    g_autofree SimLate *late = opaque;
    g_autofree uint8_t *rubbish = g_malloc(FASTLOAD_CHUNK_BYTES);
    uint32_t i, j;

    memset(rubbish, 0xee, FASTLOAD_CHUNK_BYTES);
    for (i = 0; i < SIM_LATE_COUNT; i++) {
        for (j = 0; j < late->count; j++) {
            struct iovec from = { rubbish, late->targets[j].iov_len };

            process_vm_writev(getpid(), &from, 1, &late->targets[j], 1, 0);
        }
        g_usleep(SIM_LATE_US);
    }
    g_mutex_lock(&sim.lock);
    sim.late_count--;
    g_cond_broadcast(&sim.late_cond);
    g_mutex_unlock(&sim.lock);
    return NULL;
}

static void sim_leave_pending(FastloadIo *io)
{
    FastloadIoReq *req;
    uint32_t count = 0, urgent_count = 0;
    SimLate *late;

    for (req = io->pending; req; req = req->next) {
        count++;
        urgent_count += req->is_urgent;
    }
    late = g_malloc(sizeof(*late) + count * sizeof(late->targets[0]));
    late->count = 0;
    for (req = io->pending; req; req = req->next) {
        late->targets[late->count++] = (struct iovec) {
            req->buf, req->len_bytes,
        };
    }
    g_mutex_lock(&sim.lock);
    sim.pending_count -= count;
    sim.pending_urgent_count -= urgent_count;
    sim.broken_count++;
    sim.late_count++;
    g_mutex_unlock(&sim.lock);
    g_thread_unref(g_thread_new("late", sim_late_main, late));
}

static void sim_close(FastloadIo *io)
{
    FastloadIo **at;

    if (!io) {
        return;
    }
    g_mutex_lock(&sim.lock);
    at = &sim.ios;
    while (*at != io) {
        at = &(*at)->next;
    }
    *at = io->next;
    g_mutex_unlock(&sim.lock);
    close(io->watch_fds[SIM_WATCH_OWN]);
    /* A sound backend is closed, too, after another worker's has broken. */
    if (io->pending) {
        sim_leave_pending(io);
    }
    g_assert_true(!io->done || sim_broken_count());
    g_rand_free(io->rand);
    g_free(io);
}

const FastloadIoOps sim_ops = {
    .name = "simulator",
    .open = sim_open,
    .queue = sim_queue,
    .poll = sim_poll,
    .reap = sim_reap,
    .close = sim_close,
};
