/*
 * A read backend that behaves as bad storage does, from a seed.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include <poll.h>
#include <sys/uio.h>
#include <time.h>
#include "fastload-sim.h"

/* With requests on hold, look this often whether they still are. */
#define SIM_HOLD_POLL_NS (500 * 1000ll)
/* What comes late comes so many times, so far apart. */
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
    bool is_refused;
    uint32_t open_count;
    uint64_t failed_count;
    uint64_t sleepless_count;
    uint64_t failed_urgent_count;
    uint64_t pending_count;
    uint64_t broken_count;
    GCond late_cond;
    uint32_t late_count; /* threads */
} sim;

/* What was not complete when a backend broke. */
typedef struct SimLate {
    uint32_t count;
    struct iovec targets[];
} SimLate;

struct FastloadIo {
    int fd;
    struct pollfd watch[2];
    GRand *rand;
    uint32_t turn;
    FastloadIoReq *pending; /* again_count: the turn when it goes on */
    FastloadIoReq *done;
    bool is_broken;
};

/* ---- control ---- */

void sim_reset(const SimConfig *config)
{
    g_mutex_lock(&sim.lock);
    while (sim.late_count) {
        g_cond_wait(&sim.late_cond, &sim.lock);
    }
    g_assert_cmpuint(sim.pending_count, ==, 0);
    sim.config = *config;
    sim.broken_count = 0;
    memset(sim.bads, 0, sizeof(sim.bads));
    sim.hold = SIM_HOLD_NONE;
    sim.is_refused = false;
    sim.open_count = 0;
    sim.failed_count = 0;
    sim.sleepless_count = 0;
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

uint64_t sim_sleepless_count(void)
{
    return sim_get(&sim.sleepless_count);
}

uint64_t sim_failed_urgent_count(void)
{
    return sim_get(&sim.failed_urgent_count);
}

uint64_t sim_broken_count(void)
{
    return sim_get(&sim.broken_count);
}

uint64_t sim_pending_count(void)
{
    return sim_get(&sim.pending_count);
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
    io->rand = g_rand_new_with_seed(seed);
    for (i = 0; i < 2; i++) {
        io->watch[i].fd = setup->watch_fds[i];
        io->watch[i].events = POLLIN;
    }
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
static bool sim_step(FastloadIo *io, FastloadIoReq *req)
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
    sim.failed_count += req->error != 0;
    sim.failed_urgent_count += req->error && req->is_urgent;
    g_mutex_unlock(&sim.lock);
    while (*at && g_rand_boolean(io->rand)) {
        at = &(*at)->next;
    }
    req->next = *at;
    *at = req;
}

static bool sim_is_held(const FastloadIoReq *req)
{
    SimHold hold;

    g_mutex_lock(&sim.lock);
    hold = sim.hold;
    g_mutex_unlock(&sim.lock);
    return hold & (req->is_urgent ? SIM_HOLD_URGENT : SIM_HOLD_BACKGROUND);
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
        } else if (sim_step(io, req)) {
            *at = req->next;
            sim_complete(io, req);
        } else {
            req->again_count = sim_some_turns_later(io);
            at = &req->next;
        }
    }
    return is_busy;
}

/* Once only: who breaks is not asked again. */
static bool sim_breaks(FastloadIo *io)
{
    uint32_t break_permille;

    g_mutex_lock(&sim.lock);
    break_permille = sim.config.break_permille;
    g_mutex_unlock(&sim.lock);
    io->is_broken = io->pending &&
                    g_rand_int_range(io->rand, 0, 1000) < break_permille;
    return io->is_broken;
}

static bool sim_poll(FastloadIo *io, int64_t timeout_ns, bool minds_faults)
{
    struct timespec ts;

    if (sim_breaks(io)) {
        return false;
    }
    if (timeout_ns == 0) {
        g_mutex_lock(&sim.lock);
        sim.sleepless_count++;
        g_mutex_unlock(&sim.lock);
    }
    if (sim_turn(io) || io->done || timeout_ns == 0) {
        return true;
    }
    if (io->pending && (timeout_ns < 0 || timeout_ns > SIM_HOLD_POLL_NS)) {
        timeout_ns = SIM_HOLD_POLL_NS;
    }
    ts.tv_sec = timeout_ns / 1000000000;
    ts.tv_nsec = timeout_ns % 1000000000;
    io->watch[FASTLOAD_IO_WATCH_FAULTS].events = minds_faults ? POLLIN : 0;
    ppoll(io->watch, 2, timeout_ns < 0 ? NULL : &ts, NULL);
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
 * As the kernel does: into this process, at whatever is at the address then,
 * if anything is.
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
    uint32_t count = 0;
    SimLate *late;

    for (req = io->pending; req; req = req->next) {
        count++;
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
    sim.broken_count++;
    sim.late_count++;
    g_mutex_unlock(&sim.lock);
    g_thread_unref(g_thread_new("late", sim_late_main, late));
}

static void sim_close(FastloadIo *io)
{
    if (!io) {
        return;
    }
    /* A sound one is left, too, when another worker's is broken. */
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
