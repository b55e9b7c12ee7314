/*
 * Tests of util/fastload-window.c: how much is in flight suits the storage.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A storage of given round trip and rate, in a time of its own: a read passes a
 * line that gives so many bytes a nanosecond, one read after the other, and is
 * there a round trip later.  Some reads are lucky, and there at once.
 */
#include "qemu/osdep.h"
#include "fastload-fixture.h"
#include "qemu/fastload_int.h"

#define US 1000ull
#define MS (1000 * US)
#define SECOND (1000 * MS)
#define LUCKY_NS (60 * US)
#define READ_COUNT_MAX 1024

typedef struct Storage {
    uint64_t rtt_ns;
    double rate;            /* bytes a nanosecond; 0: no limit */
    uint64_t jitter_ns;
    uint32_t lucky_every;   /* one in so many; 0: none */
    uint32_t lucky_first;   /* the first so many */
    uint32_t req_bytes;
    uint32_t served_count;  /* at once, as long as the window says; 0: any */
    uint64_t queue_ns;      /* what the caller allows to wait */
} Storage;

typedef struct Pipe {
    const Storage *storage;
    FastloadWindow window;
    FastloadIoReq reqs[READ_COUNT_MAX];
    uint64_t due_ns[READ_COUNT_MAX]; /* 0: not in flight */
    uint32_t count;         /* in flight */
    uint64_t inflight_bytes;
    uint64_t now_ns;
    uint64_t line_ns;       /* the line is free from here on */
    uint64_t free_ns[FASTLOAD_AHEAD_COUNT_MAX]; /* the same of each server */
    uint64_t begun_count;
    uint64_t came_bytes;
    uint64_t most_bytes;    /* in flight */
    GRand *rand;
} Pipe;

/* When the next of the servers that serve one read each is free. */
static uint64_t *pipe_server(Pipe *p)
{
    uint32_t i, first = 0;

    for (i = 1; i < p->storage->served_count; i++) {
        first = p->free_ns[i] < p->free_ns[first] ? i : first;
    }
    return &p->free_ns[first];
}

static uint64_t pipe_serve(Pipe *p, uint32_t len_bytes)
{
    const Storage *s = p->storage;
    uint64_t *free_ns = pipe_server(p);

    *free_ns = MAX(*free_ns, p->now_ns) + s->rtt_ns + len_bytes / s->rate;
    return *free_ns;
}

static uint32_t pipe_req_bytes(const Pipe *p)
{
    const Storage *s = p->storage;

    if (s->served_count) {
        return fastload_window_req_bytes(&p->window, p->now_ns,
            fastload_window_bytes(&p->window, p->now_ns, s->queue_ns));
    }
    return s->req_bytes ? s->req_bytes : FASTLOAD_REQ_BYTES_NEAR;
}

static void pipe_begin(Pipe *p)
{
    const Storage *s = p->storage;
    uint32_t len_bytes = pipe_req_bytes(p);
    uint32_t i = 0;

    while (p->due_ns[i]) {
        i++;
        g_assert_cmpuint(i, <, READ_COUNT_MAX);
    }
    p->reqs[i].len_bytes = len_bytes;
    fastload_window_begin(&p->window, &p->reqs[i], p->now_ns);
    p->begun_count++;
    if (p->begun_count <= s->lucky_first ||
        (s->lucky_every &&
         g_rand_int_range(p->rand, 0, s->lucky_every) == 0)) {
        p->due_ns[i] = p->now_ns + LUCKY_NS;
    } else if (s->served_count) {
        p->due_ns[i] = pipe_serve(p, len_bytes);
    } else {
        p->line_ns = MAX(p->line_ns, p->now_ns) +
                     (s->rate ? (uint64_t)(len_bytes / s->rate) : 0);
        p->due_ns[i] = p->line_ns + s->rtt_ns +
                       (s->jitter_ns ? g_rand_int_range(p->rand, 0,
                                                        s->jitter_ns) : 0);
    }
    p->count++;
    p->inflight_bytes += len_bytes;
    p->most_bytes = MAX(p->most_bytes, p->inflight_bytes);
}

/* The next read comes in, or the window is looked at again. */
static void pipe_step(Pipe *p)
{
    uint64_t next_ns = fastload_window_grows_ns(&p->window, p->now_ns);
    uint32_t i, next = READ_COUNT_MAX;

    while (p->inflight_bytes < fastload_window_bytes(&p->window, p->now_ns,
                                                     p->storage->queue_ns) &&
           (!p->storage->served_count ||
            p->count < FASTLOAD_AHEAD_COUNT_MAX)) {
        pipe_begin(p);
    }
    for (i = 0; i < READ_COUNT_MAX; i++) {
        if (p->due_ns[i] && p->due_ns[i] < next_ns) {
            next_ns = p->due_ns[i];
            next = i;
        }
    }
    p->now_ns = MAX(p->now_ns, next_ns);
    if (next < READ_COUNT_MAX) {
        p->due_ns[next] = 0;
        p->count--;
        p->inflight_bytes -= p->reqs[next].len_bytes;
        p->came_bytes += p->reqs[next].len_bytes;
        fastload_window_end(&p->window, &p->reqs[next], p->now_ns, true);
    }
}

static Pipe *pipe_new(const Storage *storage)
{
    Pipe *p = g_new0(Pipe, 1);

    p->storage = storage;
    p->now_ns = SECOND;
    p->rand = g_rand_new_with_seed(1);
    fastload_window_init(&p->window);
    return p;
}

static void pipe_free(Pipe *p)
{
    fastload_window_clear(&p->window);
    g_rand_free(p->rand);
    g_free(p);
}

/* Bytes a nanosecond over @len_ns. */
static double pipe_run(Pipe *p, uint64_t len_ns)
{
    uint64_t begin_ns = p->now_ns, before_bytes = p->came_bytes;

    p->most_bytes = 0;
    while (p->now_ns < begin_ns + len_ns) {
        pipe_step(p);
    }
    return (double)(p->came_bytes - before_bytes) / (p->now_ns - begin_ns);
}

static void check_between(const char *what, double value, double least,
                          double most)
{
    fixture_note("%s: %g, and not from %g to %g", what, value, least, most);
    g_assert_true(value >= least && value <= most);
    fixture_note_clear();
}

static const Storage far_storages[] = {
    { .rtt_ns = 1 * MS, .rate = 2 },
    { .rtt_ns = 1 * MS, .rate = 2, .jitter_ns = 200 * US },
    { .rtt_ns = 10 * MS, .rate = 1, .req_bytes = 512 << 10 },
    { .rtt_ns = 20 * MS, .rate = 0.4, .req_bytes = 512 << 10 },
    { .rtt_ns = 20 * MS, .rate = 0.2, .jitter_ns = 10 * MS,
      .req_bytes = 512 << 10 },
};

static void check_far(const Storage *s)
{
    Pipe *p = pipe_new(s);
    double needed = s->rate * (s->rtt_ns + s->jitter_ns / 2) +
                    FASTLOAD_REQ_BYTES_MAX;

    /* Forty round trips to find out, then nearly all that there is. */
    pipe_run(p, 40 * s->rtt_ns);
    check_between("the rate, of the storage's",
                  pipe_run(p, SECOND) / s->rate, 0.92, 1.02);
    check_between("in flight, of what is needed",
                  p->most_bytes / needed, 0.9, 2);
    /* And it stays so, over all epochs. */
    check_between("the rate after a while",
                  pipe_run(p, 10 * SECOND) / s->rate, 0.92, 1.02);
    check_between("in flight after a while", p->most_bytes / needed, 0.9, 2);
    pipe_free(p);
}

static void test_far_storage_is_busy(const void *opaque)
{
    /* Far storage gives its rate, with no more in flight than that takes. */
    size_t i;

    for (i = 0; i < G_N_ELEMENTS(far_storages); i++) {
        check_far(&far_storages[i]);
    }
}

static void test_lucky_reads_tell_nothing(const void *opaque)
{
    /* Lucky reads do not change how far storage is used. */
    size_t i;

    for (i = 0; i < G_N_ELEMENTS(far_storages); i++) {
        Storage s = far_storages[i];

        s.lucky_every = 100;
        check_far(&s);
        s.lucky_every = 0;
        s.lucky_first = 1;
        check_far(&s);
        s.lucky_first = 3;
        check_far(&s);
    }
}

static void test_the_start_is_short(const void *opaque)
{
    /* 64 MiB from 10 ms away come within 125 ms; storage needs 77 of them. */
    const Storage s = { .rtt_ns = 10 * MS, .rate = 1, .req_bytes = 512 << 10 };
    Pipe *p = pipe_new(&s);
    uint64_t begin_ns = p->now_ns;

    while (p->came_bytes < 64 << 20) {
        pipe_step(p);
    }
    check_between("ms", (p->now_ns - begin_ns) / 1e6, 77, 125);
    pipe_free(p);
}

static void test_few_servers_bring_long_reads(const void *opaque)
{
    /*
     * Storage 10 ms away that serves ten reads at once, long ones as soon as
     * short ones, soon gives 9 bytes in 10 of what reads of 1 MiB get there.
     */
    const Storage s = { .rtt_ns = 10 * MS, .rate = 0.65, .served_count = 10 };
    double rate = s.served_count * (double)FASTLOAD_REQ_BYTES_MAX /
                  (s.rtt_ns + FASTLOAD_REQ_BYTES_MAX / s.rate);
    Pipe *p = pipe_new(&s);

    pipe_run(p, 100 * MS);
    check_between("the rate, of what there is", pipe_run(p, 100 * MS) / rate,
                  0.9, 1.02);
    pipe_free(p);
}

static void test_near_storage_has_no_queue(const void *opaque)
{
    /* Near storage has so little in flight that reads hardly queue. */
    Storage s = { .rtt_ns = 60 * US, .rate = 3 };
    Pipe *p = pipe_new(&s);

    pipe_run(p, 100 * MS);
    pipe_run(p, SECOND);
    check_between("in flight", p->most_bytes, FASTLOAD_WINDOW_BYTES_MIN,
                  640 << 10);
    pipe_free(p);
    /* The guest does not fault: so much longer, and no more. */
    s.queue_ns = FASTLOAD_CALM_QUEUE_NS;
    p = pipe_new(&s);
    pipe_run(p, 100 * MS);
    pipe_run(p, SECOND);
    check_between("in flight, quiet", p->most_bytes,
                  FASTLOAD_CALM_QUEUE_NS * s.rate,
                  FASTLOAD_CALM_QUEUE_NS * s.rate + (800 << 10));
    pipe_free(p);
}

static void test_slow_storage_has_no_queue(const void *opaque)
{
    /* Slow storage, 100 MB/s and 0.5 ms away, has two or three reads. */
    const Storage s = { .rtt_ns = 500 * US, .rate = 0.1 };
    Pipe *p = pipe_new(&s);

    pipe_run(p, 10 * SECOND);
    pipe_run(p, SECOND);
    check_between("in flight", p->most_bytes, FASTLOAD_WINDOW_BYTES_MIN,
                  2 * FASTLOAD_WINDOW_BYTES_MIN);
    pipe_free(p);
}

static void test_the_window_follows_the_storage(const void *opaque)
{
    /* The window follows storage that gets slower, nearer or farther. */
    Storage s = { .rtt_ns = 5 * MS, .rate = 1 };
    Pipe *p = pipe_new(&s);

    pipe_run(p, SECOND);
    s.rate = 0.2;
    pipe_run(p, 8 * SECOND);
    check_between("slower: rate", pipe_run(p, SECOND) / s.rate, 0.92, 1.02);
    check_between("slower: in flight",
                  p->most_bytes / (s.rate * s.rtt_ns), 1, 2);
    s.rate = 1;
    pipe_run(p, 2 * SECOND);
    check_between("faster: rate", pipe_run(p, SECOND) / s.rate, 0.92, 1.02);
    s.rtt_ns = 1 * MS;
    pipe_run(p, 8 * SECOND);
    check_between("nearer: rate", pipe_run(p, SECOND) / s.rate, 0.92, 1.02);
    check_between("nearer: in flight",
                  p->most_bytes / (s.rate * s.rtt_ns), 1, 2);
    s.rtt_ns = 20 * MS;
    pipe_run(p, 8 * SECOND);
    check_between("farther: rate", pipe_run(p, SECOND) / s.rate, 0.9, 1.02);
    pipe_free(p);
}

static void test_what_is_no_sample(const void *opaque)
{
    /* Reads from the page cache and failed reads change nothing. */
    FastloadWindow w = { 0 };
    FastloadIoReq req = { .len_bytes = FASTLOAD_REQ_BYTES_NEAR };
    int i;

    fastload_window_init(&w);
    for (i = 0; i < 100; i++) {
        fastload_window_begin(&w, &req, i * MS + 1);
        fastload_window_end(&w, &req, i * MS + 10 * US, false);
    }
    g_assert_cmpuint(fastload_window_round_trip_ns(&w), ==, 0);
    g_assert_cmpuint(fastload_window_rate(&w), ==, 0);
    /* Nor does the window grow as if nothing had come back. */
    g_assert_cmpuint(fastload_window_bytes(&w, SECOND, 0), ==,
                     FASTLOAD_WINDOW_BYTES_MIN);
    g_assert_cmpuint(fastload_window_grows_ns(&w, SECOND), ==, UINT64_MAX);
    /* Nor is one that is short, of the round trip. */
    req.len_bytes = FASTLOAD_PAGE_BYTES_MIN;
    for (i = 0; i < 100; i++) {
        fastload_window_begin(&w, &req, SECOND + i * MS);
        fastload_window_end(&w, &req, SECOND + i * MS + 10 * US, true);
    }
    g_assert_cmpuint(fastload_window_round_trip_ns(&w), ==, 0);
    fastload_window_clear(&w);
}

static void test_short_reads_end_the_drain(const void *opaque)
{
    /*
     * The window is not halved while reads are too short to measure: those of
     * memory in stretches below 64 KiB tell no round trip.
     */
    Storage s = { .rtt_ns = 10 * MS, .rate = 1, .req_bytes = 512 << 10 };
    Pipe *p = pipe_new(&s);
    int i;

    pipe_run(p, SECOND);
    s.req_bytes = 48 << 10;
    for (i = 0; i < 10; i++) {
        double rate = pipe_run(p, SECOND);

        if (i > 5) {
            check_between("the rate of short reads", rate / s.rate, 0.85,
                          1.02);
        }
    }
    pipe_free(p);
}

static void test_half_a_millisecond(const void *opaque)
{
    /* Storage that is just "near" (0.45 ms, 4 GB/s) gives its rate. */
    const Storage s = { .rtt_ns = 450 * US, .rate = 4 };
    Pipe *p = pipe_new(&s);

    pipe_run(p, SECOND);
    check_between("the rate, of the storage's",
                  pipe_run(p, SECOND) / s.rate, 0.85, 1.02);
    pipe_free(p);
}

static void test_far_reads_are_long(const void *opaque)
{
    /* The farther the storage, the longer a read, if several are in flight. */
    FastloadWindow w = { 0 };

    fastload_window_init(&w);
    g_assert_cmpuint(fastload_window_req_bytes(&w, SECOND, 8 << 20), ==,
                     512 << 10);
    g_assert_cmpuint(fastload_window_req_bytes(&w, SECOND, 1 << 20), ==,
                     FASTLOAD_REQ_BYTES_NEAR);
    w.round_trip_ns = 1 * MS;
    g_assert_cmpuint(fastload_window_req_bytes(&w, SECOND, 1 << 20), ==,
                     FASTLOAD_REQ_BYTES_NEAR);
    w.round_trip_ns = 5 * MS;
    g_assert_cmpuint(fastload_window_req_bytes(&w, SECOND, 4 << 20), ==,
                     448 << 10); /* 100 MB/s are 500000 bytes */
    w.round_trip_ns = 10 * MS;
    g_assert_cmpuint(fastload_window_req_bytes(&w, SECOND, 2 << 20), ==,
                     256 << 10);
    w.round_trip_ns = SECOND;
    g_assert_cmpuint(fastload_window_req_bytes(&w, SECOND,
                                               FASTLOAD_WINDOW_BYTES_MAX), ==,
                     FASTLOAD_REQ_BYTES_MAX);
    fastload_window_clear(&w);
}

static void test_holes_cost_less_than_requests(const void *opaque)
{
    /* A hole may be as long as suits the storage, and more if it is dear. */
    FastloadWindow w = { 0 };

    fastload_window_init(&w);
    g_assert_cmpuint(fastload_window_hole_bytes(&w, SECOND), ==,
                     FASTLOAD_GAP_BYTES_MAX);
    w.round_trip_ns = 10 * MS;
    w.rate_bytes_per_s = 1000 * 1000 * 1000;
    check_between("of 10 MB in flight", fastload_window_hole_bytes(&w, SECOND),
                  156250, 156250);
    w.pace.is_dear = 1;
    w.pace.req_ns = 10 * MS; /* 10 MB */
    g_assert_cmpuint(fastload_window_hole_bytes(&w, SECOND), ==,
                     FASTLOAD_HOLE_BYTES_MAX);
    fastload_window_clear(&w);
}

static void test_an_earlier_read_counts(const void *opaque)
{
    /* A read before the load tells how far away the storage is. */
    FastloadWindow w = { 0 };
    FastloadIoReq req = { .len_bytes = FIXTURE_PAGE_BYTES };

    fastload_window_init(&w);
    /* It was near, or lucky: the first read still has to tell. */
    fastload_window_expect(&w, LUCKY_NS, SECOND);
    fastload_window_begin(&w, &req, SECOND);
    g_assert_cmpuint(fastload_window_grows_ns(&w, SECOND), <, UINT64_MAX);
    fastload_window_clear(&w);
    w = (FastloadWindow) { 0 };
    fastload_window_init(&w);
    fastload_window_expect(&w, 10 * MS, SECOND);
    check_between("the first window", fastload_window_bytes(&w, SECOND, 0),
                  2500000, 2500000);
    g_assert_cmpuint(fastload_window_grows_ns(&w, SECOND), ==, UINT64_MAX);
    check_between("a first read",
                  fastload_window_req_bytes(&w, SECOND, 2500000),
                  256 << 10, 512 << 10);
    fastload_window_clear(&w);
}

/* Storage that serves so many requests at once, each in a round trip. */
typedef struct Server {
    uint64_t rtt_ns;
    uint32_t served_count;
    uint32_t lucky_every;   /* one in so many is there at once; 0: none */
    uint64_t late_ns;       /* so much later it is seen, for 16 reads in 32 */
} Server;

/* The first read of a load has taken @first_ns. */
static void server_first(FastloadWindow *w, uint64_t first_ns)
{
    FastloadIoReq req = { .len_bytes = FIXTURE_PAGE_BYTES };

    fastload_window_begin(w, &req, SECOND);
    fastload_window_end(w, &req, SECOND + first_ns, false);
}

/* So many short reads of a working set, as many at once as the window says. */
static void server_run(FastloadWindow *w, const Server *s, uint32_t read_count)
{
    uint32_t i, count;

    for (i = 1; i <= read_count; i++) {
        count = fastload_window_hint_count(w);
        fastload_window_hint_end(w, s->lucky_every && i % s->lucky_every == 0
                                 ? LUCKY_NS : s->rtt_ns *
                                 MAX(count, s->served_count) /
                                 s->served_count +
                                 (i / 16 % 2 ? s->late_ns : 0));
    }
}

/* How many reads are in flight after @read_count, and is one dear then? */
static uint32_t server_count(const Server *s, uint32_t read_count,
                             bool *ret_is_dear)
{
    FastloadWindow w = { 0 };
    uint32_t count;

    fastload_window_init(&w);
    server_first(&w, s->rtt_ns);
    server_run(&w, s, read_count);
    count = fastload_window_hint_count(&w);
    *ret_is_dear = fastload_window_hint_cost(&w);
    fastload_window_clear(&w);
    return count;
}

static void test_hints_fit_the_server(const void *opaque)
{
    /* About as many short reads are in flight as the storage serves at once. */
    Server s = { .rtt_ns = 10 * MS };
    bool is_dear;
    uint32_t i;

    for (s.served_count = 4; s.served_count <= 32; s.served_count++) {
        check_between("in flight, of what is served",
                      (double)server_count(&s, 1000, &is_dear) /
                      MAX(s.served_count, FASTLOAD_HINT_COUNT_MIN), 1, 2);
        g_assert_true(is_dear);
    }
    /* A few lucky ones tell nothing. */
    s.served_count = 16;
    s.lucky_every = FASTLOAD_WINDOW_GROUP + 1;
    for (i = 100; i < 1000; i += 10) {
        check_between("in flight, some are lucky",
                      server_count(&s, i, &is_dear), 16, 32);
        g_assert_true(is_dear);
    }
}

/*
 * The first @read_count short reads, begun as the window says, and served one
 * after the other by a storage with @served_count servers.
 */
static void burst_run(FastloadWindow *w, uint64_t rtt_ns,
                      uint32_t served_count, uint32_t read_count)
{
    uint64_t free_ns[FASTLOAD_HINT_COUNT_MAX] = { 0 };
    uint64_t begin_ns[READ_COUNT_MAX], end_ns[READ_COUNT_MAX];
    uint64_t now_ns = SECOND;
    uint32_t begun = 0, ended;

    for (ended = 0; ended < read_count; ended++) {
        while (begun < ended + fastload_window_hint_count(w)) {
            uint64_t *server = &free_ns[begun % served_count];

            begin_ns[begun] = now_ns;
            *server = MAX(*server, now_ns) + rtt_ns;
            end_ns[begun++] = *server;
        }
        now_ns = end_ns[ended];
        fastload_window_hint_end(w, now_ns - begin_ns[ended]);
    }
}

static void test_the_first_burst_tells(const void *opaque)
{
    /* As soon as the first short reads are back, it shows what is served. */
    uint32_t served_count;

    for (served_count = 6; served_count <= 64; served_count++) {
        bool is_dear = served_count <= 12;
        FastloadWindow w = { 0 };

        fastload_window_init(&w);
        server_first(&w, 10 * MS);
        burst_run(&w, 10 * MS, served_count, FASTLOAD_HINT_COUNT_BEGIN);
        fixture_note("%u are served", served_count);
        g_assert_true(!!fastload_window_hint_cost(&w) == is_dear);
        if (is_dear) {
            g_assert_cmpuint(fastload_window_hint_count(&w), <=,
                             FASTLOAD_HINT_COUNT_BEGIN);
        } else {
            g_assert_cmpuint(fastload_window_hint_count(&w), >,
                             FASTLOAD_HINT_COUNT_BEGIN);
        }
        fixture_note_clear();
        fastload_window_clear(&w);
    }
}

static void test_dear_until_all_are_served(const void *opaque)
{
    /* Few reads in flight do not queue, but requests stay dear. */
    const Server few = { .rtt_ns = 10 * MS, .served_count = 16 };
    const Server all = { .rtt_ns = 10 * MS, .served_count = 64 };
    FastloadWindow w = { 0 };
    uint32_t i;

    fastload_window_init(&w);
    server_first(&w, 10 * MS);
    server_run(&w, &few, 100);
    g_assert_cmpuint(fastload_window_hint_cost(&w), >, 0);
    for (i = 0; fastload_window_hint_count(&w) < FASTLOAD_HINT_COUNT_MAX; i++) {
        g_assert_cmpuint(fastload_window_hint_cost(&w), >, 0);
        server_run(&w, &all, 1); /* as when chunks are in flight instead */
    }
    g_assert_cmpuint(i, >, 2 * FASTLOAD_WINDOW_GROUP);
    g_assert_cmpuint(fastload_window_hint_cost(&w), ==, 0);
    fastload_window_clear(&w);
}

static void test_hints_use_what_is_served(const void *opaque)
{
    /* Storage that serves all of them gets all of them, soon. */
    const Server far = { .rtt_ns = 10 * MS, .served_count = 64 };
    const Server near = { .rtt_ns = 100 * US, .served_count = 16 };
    const Server late = { .rtt_ns = 10 * MS, .served_count = 64,
                          .late_ns = 4 * MS };
    bool is_dear;
    uint32_t i;

    g_assert_cmpuint(server_count(&far, 0, &is_dear), ==,
                     FASTLOAD_HINT_COUNT_BEGIN);
    g_assert_cmpuint(server_count(&far, 150, &is_dear), ==,
                     FASTLOAD_HINT_COUNT_MAX);
    g_assert_false(is_dear);
    /* A worker that is sometimes late makes no request dear. */
    for (i = 8; i < 300; i += 8) {
        server_count(&late, i, &is_dear);
        g_assert_false(is_dear);
    }
    /* Near storage answers before a queue matters. */
    g_assert_cmpuint(server_count(&near, 8, &is_dear), ==,
                     FASTLOAD_HINT_COUNT_MAX);
    g_assert_cmpuint(server_count(&near, 1000, &is_dear), ==,
                     FASTLOAD_HINT_COUNT_MAX);
    g_assert_false(is_dear);
}

static void test_hints_that_were_lucky(const void *opaque)
{
    /* Where some of the first reads were lucky, that is forgotten soon. */
    const Server s = { .rtt_ns = 10 * MS, .served_count = 64 };
    FastloadWindow w = { 0 };

    fastload_window_init(&w);
    server_first(&w, s.rtt_ns);
    fastload_window_hint_end(&w, LUCKY_NS);
    fastload_window_hint_end(&w, LUCKY_NS);
    server_run(&w, &s, 350);
    g_assert_cmpuint(fastload_window_hint_count(&w), ==,
                     FASTLOAD_HINT_COUNT_MAX);
    g_assert_cmpuint(fastload_window_hint_cost(&w), ==, 0);
    fastload_window_clear(&w);
}

static void test_hints_follow_the_server(const void *opaque)
{
    /* When storage becomes slower but serves as many, all are in flight. */
    Server s = { .rtt_ns = 10 * MS, .served_count = 64 };
    FastloadWindow w = { 0 };

    fastload_window_init(&w);
    server_first(&w, LUCKY_NS);
    server_run(&w, &s, 300);
    g_assert_cmpuint(fastload_window_hint_count(&w), ==,
                     FASTLOAD_HINT_COUNT_MAX);
    s.rtt_ns *= 3;
    server_run(&w, &s, 150);
    g_assert_cmpuint(fastload_window_hint_count(&w), <,
                     FASTLOAD_HINT_COUNT_MAX);
    g_assert_cmpuint(fastload_window_hint_cost(&w), >, 0);
    server_run(&w, &s, 1000);
    g_assert_cmpuint(fastload_window_hint_count(&w), ==,
                     FASTLOAD_HINT_COUNT_MAX);
    g_assert_cmpuint(fastload_window_hint_cost(&w), ==, 0);
    /* It serves fewer from now on. */
    s.served_count = 8;
    server_run(&w, &s, 1000);
    check_between("in flight", fastload_window_hint_count(&w), 8, 16);
    fastload_window_clear(&w);
}

static void test_hints_cost_what_could_be_read(const void *opaque)
{
    /* A request costs the bytes that the storage brings in its time. */
    const Server s = { .rtt_ns = 10 * MS, .served_count = 8 };
    FastloadWindow w = { 0 };

    fastload_window_init(&w);
    server_first(&w, s.rtt_ns);
    server_run(&w, &s, 1000);
    g_assert_cmpuint(fastload_window_hint_cost(&w), ==, 1); /* not known yet */
    w.rate_bytes_per_s = 200 * 1000 * 1000;
    /* 800 such requests a second */
    check_between("bytes", fastload_window_hint_cost(&w), 249000, 251000);
    fastload_window_clear(&w);
}

int main(int argc, char **argv)
{
    fixture_init(&argc, &argv);
#define add_test(name, func) \
    fixture_add_test("/fastload/window/" name, 0, func, NULL)
    add_test("far-storage-is-busy", test_far_storage_is_busy);
    add_test("lucky-reads-tell-nothing", test_lucky_reads_tell_nothing);
    add_test("the-start-is-short", test_the_start_is_short);
    add_test("few-servers-bring-long-reads",
             test_few_servers_bring_long_reads);
    add_test("near-storage-has-no-queue", test_near_storage_has_no_queue);
    add_test("slow-storage-has-no-queue", test_slow_storage_has_no_queue);
    add_test("the-window-follows-the-storage",
             test_the_window_follows_the_storage);
    add_test("what-is-no-sample", test_what_is_no_sample);
    add_test("short-reads-end-the-drain", test_short_reads_end_the_drain);
    add_test("half-a-millisecond", test_half_a_millisecond);
    add_test("far-reads-are-long", test_far_reads_are_long);
    add_test("holes-cost-less-than-requests",
             test_holes_cost_less_than_requests);
    add_test("an-earlier-read-counts", test_an_earlier_read_counts);
    add_test("hints-fit-the-server", test_hints_fit_the_server);
    add_test("the-first-burst-tells", test_the_first_burst_tells);
    add_test("dear-until-all-are-served", test_dear_until_all_are_served);
    add_test("hints-use-what-is-served", test_hints_use_what_is_served);
    add_test("hints-that-were-lucky", test_hints_that_were_lucky);
    add_test("hints-follow-the-server", test_hints_follow_the_server);
    add_test("hints-cost-what-could-be-read",
             test_hints_cost_what_could_be_read);
    return g_test_run();
}
