/*
 * eager-multi: N channels, each with a descriptor of its own, read pieces of 1
 * MiB at most; a thread deals the pieces out and spins while all channels are
 * busy.
 * Source: QEMU 10.2 migration/multifd.c multifd_recv(), migration/file.c.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * As in the source: pieces go round robin to the next idle channel; the thread
 * that deals does not sleep, which costs a core; each channel waits on a
 * semaphore and reads into guest memory; one sync of all channels ends the
 * load.  With direct I/O the channels bypass the page cache.
 */
#include "bench.h"
#include <semaphore.h>

#define EAGER_MULTI_PIECE_BYTES (1u << 20)

typedef struct EagerMulti EagerMulti;

typedef struct EagerChannel {
    /* constant after start */
    EagerMulti *load;
    int fd;
    GThread *thread;
    /* the dealer while !is_pending, else the channel */
    uint64_t guest_off;
    uint64_t len_bytes;
    uint64_t file_off;
    /* atomic */
    int is_pending;
    sem_t wanted;            /* a piece, a sync or the end */
} EagerChannel;

struct EagerMulti {
    /* constant after start */
    LoaderRun *run;
    EagerChannel *channels;
    uint32_t channel_count;
    /* the dealer */
    uint32_t next_channel;
    /* atomic */
    int is_exiting;
    int is_failed;           /* set with release after failure */
    /* written by the thread that sets failure_taken */
    int failure_taken;
    int failure_ret;
    uint64_t failure_file_off;
    sem_t synced;
};

static void eager_multi_fail(EagerMulti *load, int ret, uint64_t file_off)
{
    /* The first failure is reported. */
    if (!__atomic_exchange_n(&load->failure_taken, 1, __ATOMIC_RELAXED)) {
        load->failure_ret = ret;
        load->failure_file_off = file_off;
        /* pairs with the acquire in eager_multi_has_failed() */
        __atomic_store_n(&load->is_failed, 1, __ATOMIC_RELEASE);
    }
}

static bool eager_multi_has_failed(EagerMulti *load)
{
    return __atomic_load_n(&load->is_failed, __ATOMIC_ACQUIRE);
}

static void eager_channel_wait(sem_t *sem)
{
    while (sem_wait(sem) < 0) {
        assert(errno == EINTR);
    }
}

static void *eager_channel_main(void *opaque)
{
    EagerChannel *c = opaque;
    EagerMulti *load = c->load;

    while (true) {
        int ret;

        eager_channel_wait(&c->wanted);
        if (__atomic_load_n(&load->is_exiting, __ATOMIC_RELAXED)) {
            return NULL;
        }
        /* pairs with the release in eager_multi_deal() */
        if (!__atomic_load_n(&c->is_pending, __ATOMIC_ACQUIRE)) {
            sem_post(&load->synced);
            continue;
        }
        ret = loader_read(c->fd, load->run->hva + c->guest_off, c->len_bytes,
                          c->file_off);
        if (ret < 0) {
            eager_multi_fail(load, ret, c->file_off);
        } else {
            loader_note(load->run, c->guest_off, c->len_bytes, ARRIVAL_BEFORE,
                        true);
        }
        /* pairs with the acquire in eager_multi_deal() */
        __atomic_store_n(&c->is_pending, 0, __ATOMIC_RELEASE);
    }
}

/* Hands a piece to the next idle channel; false after a failure. */
static bool eager_multi_deal(EagerMulti *load, uint64_t guest_off,
                             uint64_t len_bytes, uint64_t file_off)
{
    uint32_t i = load->next_channel;
    EagerChannel *c;

    /* Bounded by the reads under way: QEMU's dealer spins here as well. */
    while (true) {
        if (eager_multi_has_failed(load)) {
            return false;
        }
        c = &load->channels[i];
        i = (i + 1) % load->channel_count;
        /* pairs with the release in eager_channel_main() */
        if (!__atomic_load_n(&c->is_pending, __ATOMIC_ACQUIRE)) {
            break;
        }
    }
    load->next_channel = i;
    c->guest_off = guest_off;
    c->len_bytes = len_bytes;
    c->file_off = file_off;
    /* pairs with the acquire in eager_channel_main() */
    __atomic_store_n(&c->is_pending, 1, __ATOMIC_RELEASE);
    sem_post(&c->wanted);
    return true;
}

static bool eager_multi_load_block(EagerMulti *load,
                                   const SnapshotBlock *block)
{
    uint64_t page = block->guest_off >> BENCH_PAGE_SHIFT;
    uint64_t end = page + (block->len_bytes >> BENCH_PAGE_SHIFT);

    while (page < end) {
        uint64_t count, file_off, done_bytes = 0;
        bool has_data = snapshot_run(load->run->snapshot, block, page, &count,
                                     &file_off);
        uint64_t len_bytes = has_data ? count << BENCH_PAGE_SHIFT : 0;

        while (done_bytes < len_bytes) {
            uint64_t n = MIN(len_bytes - done_bytes, EAGER_MULTI_PIECE_BYTES);

            if (!eager_multi_deal(load,
                                  (page << BENCH_PAGE_SHIFT) + done_bytes, n,
                                  file_off + done_bytes)) {
                return false;
            }
            done_bytes += n;
        }
        page += count;
    }
    return true;
}

/* Waits until each channel has done its last piece. */
static void eager_multi_sync(EagerMulti *load)
{
    uint32_t i;

    for (i = 0; i < load->channel_count; i++) {
        sem_post(&load->channels[i].wanted);
    }
    for (i = 0; i < load->channel_count; i++) {
        eager_channel_wait(&load->synced);
    }
}

static bool eager_multi_open(EagerMulti *load, GError **error)
{
    uint32_t i;

    for (i = 0; i < load->channel_count; i++) {
        EagerChannel *c = &load->channels[i];

        c->load = load;
        c->fd = loader_open(load->run, error);
        if (c->fd < 0) {
            return false;
        }
        sem_init(&c->wanted, 0, 0);
        c->thread = g_thread_try_new("channel", eager_channel_main, c, NULL);
        if (!c->thread) {
            g_set_error(error, BENCH_ERROR, BENCH_ERROR_FAILED,
                        "eager-multi: cannot start channel %u of %u; raise "
                        "the limit of processes (ulimit -u) or use fewer "
                        "threads", i + 1, load->channel_count);
            sem_destroy(&c->wanted);
            close(c->fd);
            return false;
        }
    }
    return true;
}

static void eager_multi_close(EagerMulti *load)
{
    uint32_t i;

    __atomic_store_n(&load->is_exiting, 1, __ATOMIC_RELAXED);
    for (i = 0; i < load->channel_count; i++) {
        EagerChannel *c = &load->channels[i];

        if (c->thread) {
            sem_post(&c->wanted);
            g_thread_join(c->thread);
            sem_destroy(&c->wanted);
            close(c->fd);
        }
    }
}

static bool loader_eager_multi_start(LoaderRun *run, GError **error)
{
    const Snapshot *snapshot = run->snapshot;
    EagerMulti load = {
        .run = run,
        .channel_count = CLAMP(run->variant->thread_count, 1,
                               BENCH_THREAD_COUNT_MAX),
    };
    bool is_ok;
    uint32_t b;

    load.channels = g_new0(EagerChannel, load.channel_count);
    sem_init(&load.synced, 0, 0);
    is_ok = eager_multi_open(&load, error);
    if (is_ok) {
        for (b = 0; is_ok && b < snapshot->block_count; b++) {
            is_ok = eager_multi_load_block(&load, &snapshot->blocks[b]);
        }
        eager_multi_sync(&load);
        if (eager_multi_has_failed(&load)) {
            is_ok = false;
            g_set_error(error, BENCH_ERROR, BENCH_ERROR_FAILED,
                        "eager-multi: reading at %#" PRIx64
                        " of %s failed: %s", load.failure_file_off,
                        snapshot->label, g_strerror(-load.failure_ret));
        }
    }
    eager_multi_close(&load);
    sem_destroy(&load.synced);
    g_free(load.channels);
    return is_ok;
}

static void loader_eager_multi_stop(LoaderRun *run)
{
}

const BenchLoader loader_eager_multi = {
    .name = "eager-multi",
    .summary = "QEMU's mapped-ram with multifd: N threads read all first",
    .knobs = LOADER_HAS_THREADS | LOADER_HAS_DIRECT,
    .is_lazy = false,
    .has_end = true,
    .start = loader_eager_multi_start,
    .stop = loader_eager_multi_stop,
};
