/*
 * fastload-bench: the guest.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * vCPU threads that compute for a while, touch a page, and so on.  Their
 * touches are drawn before the run from the scenario's seed, so that all
 * contenders have the same guest.  All vCPUs touch the same working set over
 * and over, each in an order of its own, so that two of them may wait for one
 * page.  The guest has worked when each page of the working set was touched
 * once, by any vCPU.
 *
 * A touch counts as a fault if the kernel has counted a fault of the thread
 * meanwhile.  Computing is a loop of known length, not a wait: a vCPU that gets
 * less processor time does less, as in a real guest.
 */
#include "bench.h"
#include <math.h>
#include <sys/resource.h>

/* The working set consists of stretches of so many pages at random places. */
#define STRETCH_PAGES 16
/* One stretch in so many may be anywhere; the others have data. */
#define STRETCH_ANYWHERE 8
#define ZIPF_EXPONENT 0.99
/* A touch that took less was no fault; saves a system call. */
#define FAULT_NS_MIN 150
#define CALIBRATE_TRIES 40
#define CALIBRATE_LOOPS 20000
/* How long a vCPU computes before it checks whether to stop. */
#define THINK_SLICE_NS 1000000

typedef struct Vcpu {
    Guest *guest;
    GThread *thread;
    GArray *touches;         /* of Touch */
    GuestCounters counters;
} Vcpu;

struct Guest {
    const Snapshot *snapshot;
    const Scenario *scenario;
    uint64_t max_touches;
    Vcpu *vcpus;
    uint32_t vcpu_count;
    uint64_t *touched;       /* atomic: a bit each page */
    /* set by start */
    LoaderRun *run;
    WriteCount *writes;
    uint64_t window_end_ns;  /* of the window that begins with running */
    uint64_t request_end_ns; /* of the window that begins with the request */
    /* atomic */
    int is_stopped;
    int is_loaded;
    uint64_t untouched_count; /* pages of the working set */
    uint64_t worked_ns;      /* since the request; 0: not yet */
};

static double guest_loops_per_ns;

static inline void guest_think(uint64_t loop_count)
{
    uint64_t i;

    for (i = 0; i < loop_count; i++) {
        __asm__ volatile("" : : "r"(i) : "memory");
    }
}

void guest_calibrate(void)
{
    uint32_t i;

    for (i = 0; i < CALIBRATE_TRIES; i++) {
        uint64_t begin_ns = bench_now_ns();
        double rate;

        guest_think(CALIBRATE_LOOPS);
        rate = CALIBRATE_LOOPS / (double)(bench_now_ns() - begin_ns);
        /* The fastest pass was disturbed least. */
        guest_loops_per_ns = MAX(guest_loops_per_ns, rate);
    }
}

/* splitmix64 (Steele, Lea, Flood 2014): good enough, and one line. */
static uint64_t guest_random(uint64_t *state)
{
    uint64_t z = (*state += 0x9e3779b97f4a7c15ull);

    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ z >> 27) * 0x94d049bb133111ebull;
    return z ^ z >> 31;
}

static uint64_t guest_random_below(uint64_t *state, uint64_t bound)
{
    return ((unsigned __int128)guest_random(state) * bound) >> 64;
}

static void guest_shuffle(GArray *pages, uint64_t *rng)
{
    uint32_t *p = (uint32_t *)pages->data;
    guint i;

    for (i = pages->len; i > 1; i--) {
        uint64_t other = guest_random_below(rng, i);
        uint32_t page = p[i - 1];

        p[i - 1] = p[other];
        p[other] = page;
    }
}

static bool guest_stretch_has_data(const Snapshot *snapshot, uint64_t first)
{
    uint64_t page;

    for (page = first; page < first + STRETCH_PAGES; page++) {
        if (snapshot_has_page(snapshot, page)) {
            return true;
        }
    }
    return false;
}

/* First pages of all stretches, shuffled: those with data, and the others. */
static void guest_list_stretches(const Snapshot *snapshot, uint64_t *rng,
                                 GArray *with_data, GArray *without)
{
    uint32_t b;

    for (b = 0; b < snapshot->block_count; b++) {
        const SnapshotBlock *block = &snapshot->blocks[b];
        uint64_t first = block->guest_off >> BENCH_PAGE_SHIFT;
        uint64_t count = block->len_bytes >> BENCH_PAGE_SHIFT;
        uint64_t i;

        for (i = 0; i + STRETCH_PAGES <= count; i += STRETCH_PAGES) {
            uint32_t page = first + i;

            g_array_append_val(guest_stretch_has_data(snapshot, page)
                               ? with_data : without, page);
        }
    }
    guest_shuffle(with_data, rng);
    guest_shuffle(without, rng);
}

/* Pages of the working set, shuffled. */
static GArray *guest_working_set(const Snapshot *snapshot, uint64_t bytes,
                                 uint64_t *rng)
{
    uint64_t wanted = MAX(bytes >> BENCH_PAGE_SHIFT, 1);
    g_autoptr(GArray) data = g_array_new(FALSE, FALSE, sizeof(uint32_t));
    g_autoptr(GArray) rest = g_array_new(FALSE, FALSE, sizeof(uint32_t));
    GArray *pages = g_array_new(FALSE, FALSE, sizeof(uint32_t));
    guint d = 0, r = 0, turn;
    uint32_t i;

    guest_list_stretches(snapshot, rng, data, rest);
    for (turn = 0; pages->len < wanted && (d < data->len || r < rest->len);
         turn++) {
        bool takes_rest = r < rest->len &&
            (turn % STRETCH_ANYWHERE == 0 || d == data->len);
        uint32_t first = takes_rest ? g_array_index(rest, uint32_t, r++)
                                    : d < data->len
                                    ? g_array_index(data, uint32_t, d++)
                                    : UINT32_MAX;

        for (i = 0; first != UINT32_MAX && i < STRETCH_PAGES &&
             pages->len < wanted; i++) {
            uint32_t page = first + i;

            g_array_append_val(pages, page);
        }
    }
    if (!pages->len) {
        /* If all blocks are shorter than a stretch, take a first page. */
        uint32_t page = snapshot->blocks[0].guest_off >> BENCH_PAGE_SHIFT;

        g_array_append_val(pages, page);
    }
    guest_shuffle(pages, rng);
    return pages;
}

/* Draws as many touches as there are pages, with weights 1 / rank^0.99. */
static GArray *guest_draw_zipf(const GArray *pages, uint64_t *rng)
{
    GArray *drawn = g_array_sized_new(FALSE, FALSE, sizeof(uint32_t),
                                      pages->len);
    g_autofree double *sums = g_new(double, pages->len);
    double sum = 0;
    guint i;

    for (i = 0; i < pages->len; i++) {
        sum += pow(i + 1, -ZIPF_EXPONENT);
        sums[i] = sum;
    }
    for (i = 0; i < pages->len; i++) {
        double at = sum * (guest_random(rng) >> 11) * 0x1p-53;
        guint low = 0, high = pages->len - 1;

        while (low < high) {
            guint middle = (low + high) / 2;

            if (sums[middle] > at) {
                high = middle;
            } else {
                low = middle + 1;
            }
        }
        g_array_append_val(drawn, g_array_index(pages, uint32_t, low));
    }
    return drawn;
}

/* The @n-th page of all blocks, modulo their number of pages. */
static uint32_t guest_nth_page(const Snapshot *snapshot, uint64_t n)
{
    uint32_t b;

    n %= snapshot->len_bytes >> BENCH_PAGE_SHIFT;
    for (b = 0;; b++) {
        const SnapshotBlock *block = &snapshot->blocks[b];
        uint64_t count = block->len_bytes >> BENCH_PAGE_SHIFT;

        if (n < count) {
            return (block->guest_off >> BENCH_PAGE_SHIFT) + n;
        }
        n -= count;
    }
}

static void guest_add_touch(Guest *guest, uint32_t vcpu, uint32_t page,
                            uint64_t *rng)
{
    Touch touch = {
        .page = page,
        .is_write = (guest_random(rng) >> 11) * 0x1p-53 <
                    guest->scenario->write_share,
        .at_ns = TOUCH_HAS_NO_TIME,
    };

    g_array_append_val(guest->vcpus[vcpu].touches, touch);
}

/* A contiguous working set, in which the vCPUs begin at equal distances. */
static void guest_plan_sequential(Guest *guest, uint64_t *rng)
{
    uint64_t all_count = guest->snapshot->len_bytes >> BENCH_PAGE_SHIFT;
    uint64_t count = MAX(guest->scenario->working_set_bytes >>
                         BENCH_PAGE_SHIFT, 1);
    uint64_t begin = guest_random_below(rng, all_count);
    uint32_t v;
    uint64_t i;

    count = MIN(count, all_count);
    for (v = 0; v < guest->vcpu_count; v++) {
        uint64_t ahead = count * v / guest->vcpu_count;

        for (i = 0; i < count; i++) {
            guest_add_touch(guest, v,
                            guest_nth_page(guest->snapshot, begin +
                                           (ahead + i) % count), rng);
        }
    }
}

static void guest_plan_drawn(Guest *guest, uint64_t *rng)
{
    g_autoptr(GArray) pages = guest_working_set(
        guest->snapshot, guest->scenario->working_set_bytes, rng);
    uint32_t v;
    guint i;

    for (v = 0; v < guest->vcpu_count; v++) {
        g_autoptr(GArray) drawn = guest->scenario->pattern == PATTERN_ZIPF
            ? guest_draw_zipf(pages, rng) : g_array_copy(pages);

        if (v) {
            /* Those of the first vCPU are in random order already. */
            guest_shuffle(drawn, rng);
        }
        for (i = 0; i < drawn->len; i++) {
            guest_add_touch(guest, v, g_array_index(drawn, uint32_t, i), rng);
        }
    }
}

static bool guest_plan_trace(Guest *guest, GError **error)
{
    g_autoptr(GArray) touches = trace_load(guest->scenario->trace_path,
                                           guest->snapshot, error);
    guint i;

    for (i = 0; touches && i < MAX(touches->len, guest->vcpu_count); i++) {
        if (guest->scenario->think_ns == THINK_RECORDED &&
            g_array_index(touches, Touch, i % touches->len).at_ns ==
            TOUCH_HAS_NO_TIME) {
            g_set_error(error, BENCH_ERROR, BENCH_ERROR_FAILED,
                        "the trace %s has lines without @SECONDS, which "
                        "--think recorded needs: choose a time for --think",
                        guest->scenario->trace_path);
            return false;
        }
        g_array_append_val(guest->vcpus[i % guest->vcpu_count].touches,
                           g_array_index(touches, Touch,
                                         i % touches->len));
    }
    return touches;
}

/* How many different pages all vCPUs touch. */
static uint64_t guest_count_pages(const Guest *guest)
{
    g_autofree uint64_t *bits = g_new0(
        uint64_t, (guest->snapshot->guest_bytes >> BENCH_PAGE_SHIFT) / 64 + 1);
    uint64_t count = 0;
    uint32_t v;
    guint i;

    for (v = 0; v < guest->vcpu_count; v++) {
        const GArray *touches = guest->vcpus[v].touches;

        for (i = 0; i < touches->len; i++) {
            uint32_t page = g_array_index(touches, Touch, i).page;
            uint64_t bit = 1ull << page % 64;

            count += !(bits[page / 64] & bit);
            bits[page / 64] |= bit;
        }
    }
    return count;
}

/* Populated zeros: a vCPU must not fault on its own records. */
static uint64_t *guest_populated(uint64_t count)
{
    uint64_t *words = g_new(uint64_t, count);
    uint64_t i;

    for (i = 0; i < count; i++) {
        ((volatile uint64_t *)words)[i] = 0;
    }
    return words;
}

Guest *guest_new(const Snapshot *snapshot, const Scenario *scenario,
                 uint64_t max_touches, GError **error)
{
    Guest *guest = g_new0(Guest, 1);
    uint64_t rng = scenario->seed;
    uint32_t v;

    guest->snapshot = snapshot;
    guest->scenario = scenario;
    guest->max_touches = max_touches;
    guest->vcpu_count = scenario->vcpu_count;
    guest->vcpus = g_new0(Vcpu, guest->vcpu_count);
    guest->touched = guest_populated((snapshot->guest_bytes >>
                                      BENCH_PAGE_SHIFT) / 64 + 1);
    for (v = 0; v < guest->vcpu_count; v++) {
        guest->vcpus[v].guest = guest;
        guest->vcpus[v].touches = g_array_new(FALSE, FALSE, sizeof(Touch));
    }
    if (scenario->pattern == PATTERN_TRACE) {
        if (!guest_plan_trace(guest, error)) {
            guest_free(guest);
            return NULL;
        }
    } else if (scenario->pattern == PATTERN_SEQUENTIAL) {
        guest_plan_sequential(guest, &rng);
    } else {
        guest_plan_drawn(guest, &rng);
    }
    guest->untouched_count = guest_count_pages(guest);
    return guest;
}

/* Faults of this thread that the kernel has served so far. */
static uint64_t vcpu_fault_count(void)
{
    struct rusage usage;

    getrusage(RUSAGE_THREAD, &usage);
    return usage.ru_minflt + usage.ru_majflt;
}

static void vcpu_touch(Guest *guest, const Touch *touch)
{
    uint8_t *hva = guest->run->hva +
                   ((uint64_t)touch->page << BENCH_PAGE_SHIFT);
    uint64_t *word = (uint64_t *)(hva + GUEST_WRITE_OFF);

    if (touch->is_write) {
        __atomic_fetch_add(word, GUEST_WRITE_STEP, __ATOMIC_RELAXED);
        __atomic_fetch_add(&guest->writes[touch->page], 1, __ATOMIC_RELAXED);
    } else {
        (void)__atomic_load_n(word, __ATOMIC_RELAXED);
    }
}

static void vcpu_note_fault(Vcpu *vcpu, const Touch *touch, uint64_t begin_ns,
                            uint64_t ns)
{
    Guest *guest = vcpu->guest;
    bool is_loaded = __atomic_load_n(&guest->is_loaded, __ATOMIC_RELAXED);

    /* Faults after that do not count as waiting; the guest may go on. */
    if (begin_ns < guest->window_end_ns || !guest_worked_ns(guest)) {
        vcpu->counters.waited_ns += ns;
    }
    hist_add(is_loaded ? &vcpu->counters.faults_after
                       : &vcpu->counters.faults, ns);
    if (!guest->run->variant->loader->has_end) {
        /* The kernel has served it without the loader, which notes nothing. */
        loader_note(guest->run, (uint64_t)touch->page << BENCH_PAGE_SHIFT,
                    BENCH_PAGE_BYTES, ARRIVAL_URGENT,
                    snapshot_has_page(guest->snapshot, touch->page));
    }
}

static void vcpu_count(Vcpu *vcpu, uint64_t count, uint64_t now_ns)
{
    GuestCounters *c = &vcpu->counters;

    /* If the window is over before the guest runs, the count is 0. */
    if (!c->is_request_over && now_ns >= vcpu->guest->request_end_ns) {
        c->request_touch_count = c->touch_count;
        c->is_request_over = true;
    }
    if (!c->window_touch_count && now_ns >= vcpu->guest->window_end_ns) {
        __atomic_store_n(&c->window_touch_count, MAX(c->touch_count, 1),
                         __ATOMIC_RELAXED);
    }
    __atomic_store_n(&c->touch_count, count, __ATOMIC_RELAXED);
}

/* Notes that a page was touched; the last one of the set ends the work. */
static void vcpu_note_touch(Guest *guest, uint32_t page, uint64_t now_ns)
{
    uint64_t bit = 1ull << page % 64;

    if (!(__atomic_fetch_or(&guest->touched[page / 64], bit,
                            __ATOMIC_RELAXED) & bit) &&
        !__atomic_sub_fetch(&guest->untouched_count, 1, __ATOMIC_RELAXED)) {
        __atomic_store_n(&guest->worked_ns, now_ns - guest->run->begin_ns,
                         __ATOMIC_RELAXED);
    }
}

/* How long to compute before the touch with index @at. */
static uint64_t vcpu_think_ns(const Vcpu *vcpu, guint at)
{
    const Touch *touch = &g_array_index(vcpu->touches, Touch, at);

    if (vcpu->guest->scenario->think_ns != THINK_RECORDED) {
        return vcpu->guest->scenario->think_ns;
    }
    return at ? touch->at_ns - touch[-1].at_ns : touch->at_ns;
}

/* Computes for so long, or until the guest is stopped. */
static void vcpu_think(Vcpu *vcpu, uint64_t ns)
{
    GuestCounters *c = &vcpu->counters;
    uint64_t left_ns = ns;

    while (left_ns && !__atomic_load_n(&vcpu->guest->is_stopped,
                                       __ATOMIC_RELAXED)) {
        uint64_t slice_ns = MIN(left_ns, THINK_SLICE_NS);

        guest_think(slice_ns * guest_loops_per_ns);
        left_ns -= slice_ns;
    }
    __atomic_store_n(&c->thought_ns, c->thought_ns + ns - left_ns,
                     __ATOMIC_RELAXED);
}

static void *vcpu_main(void *opaque)
{
    Vcpu *vcpu = opaque;
    Guest *guest = vcpu->guest;
    uint64_t fault_count, count = 0, count_max = guest->max_touches;
    guint at = 0;

    if (count_max && guest->scenario->think_ns == THINK_RECORDED) {
        /* A trace with its recorded pauses is replayed once. */
        count_max = MIN(count_max, vcpu->touches->len);
    }
    /* Its own memory is there before it counts faults; the sampler reads
     * the other counters already. */
    memset(&vcpu->counters.faults, 0, sizeof(vcpu->counters.faults));
    memset(&vcpu->counters.faults_after, 0,
           sizeof(vcpu->counters.faults_after));
    fault_count = vcpu_fault_count();
    while (!__atomic_load_n(&guest->is_stopped, __ATOMIC_RELAXED) &&
           (!count_max || count < count_max)) {
        const Touch *touch = &g_array_index(vcpu->touches, Touch, at);
        uint64_t begin_ns, end_ns;

        vcpu_think(vcpu, vcpu_think_ns(vcpu, at));
        begin_ns = bench_now_ns();
        vcpu_touch(guest, touch);
        end_ns = bench_now_ns();
        if (end_ns - begin_ns >= FAULT_NS_MIN) {
            uint64_t faults_now = vcpu_fault_count();

            if (faults_now != fault_count) {
                vcpu_note_fault(vcpu, touch, begin_ns, end_ns - begin_ns);
                fault_count = faults_now;
            }
        }
        vcpu_note_touch(guest, touch->page, end_ns);
        vcpu_count(vcpu, ++count, end_ns);
        at = at + 1 == vcpu->touches->len ? 0 : at + 1;
    }
    return NULL;
}

void guest_start(Guest *guest, LoaderRun *run, WriteCount *writes)
{
    uint32_t v;

    guest->run = run;
    guest->writes = writes;
    guest->window_end_ns = bench_now_ns() + guest->scenario->window_ns;
    guest->request_end_ns = run->begin_ns + guest->scenario->window_ns;
    for (v = 0; v < guest->vcpu_count; v++) {
        guest->vcpus[v].thread = g_thread_new("vcpu", vcpu_main,
                                              &guest->vcpus[v]);
    }
}

uint64_t guest_touch_count(const Guest *guest)
{
    uint64_t count = 0;
    uint32_t v;

    for (v = 0; v < guest->vcpu_count; v++) {
        count += __atomic_load_n(&guest->vcpus[v].counters.touch_count,
                                 __ATOMIC_RELAXED);
    }
    return count;
}

uint64_t guest_thought_ns(const Guest *guest)
{
    uint64_t ns = 0;
    uint32_t v;

    for (v = 0; v < guest->vcpu_count; v++) {
        ns += __atomic_load_n(&guest->vcpus[v].counters.thought_ns,
                              __ATOMIC_RELAXED);
    }
    return ns;
}

uint64_t guest_worked_ns(const Guest *guest)
{
    return __atomic_load_n(&guest->worked_ns, __ATOMIC_RELAXED);
}

bool guest_has_windowed(const Guest *guest)
{
    uint32_t v;

    for (v = 0; v < guest->vcpu_count; v++) {
        if (!__atomic_load_n(&guest->vcpus[v].counters.window_touch_count,
                             __ATOMIC_RELAXED)) {
            return false;
        }
    }
    return true;
}

void guest_set_loaded(Guest *guest)
{
    __atomic_store_n(&guest->is_loaded, 1, __ATOMIC_RELAXED);
}

void guest_join(Guest *guest)
{
    uint32_t v;

    for (v = 0; v < guest->vcpu_count; v++) {
        if (guest->vcpus[v].thread) {
            g_thread_join(guest->vcpus[v].thread);
            guest->vcpus[v].thread = NULL;
        }
    }
}

void guest_stop(Guest *guest)
{
    __atomic_store_n(&guest->is_stopped, 1, __ATOMIC_RELAXED);
    guest_join(guest);
}

void guest_get_counters(const Guest *guest, GuestCounters *ret_sum)
{
    uint32_t v;

    memset(ret_sum, 0, sizeof(*ret_sum));
    for (v = 0; v < guest->vcpu_count; v++) {
        const GuestCounters *c = &guest->vcpus[v].counters;

        ret_sum->touch_count += c->touch_count;
        ret_sum->thought_ns += c->thought_ns;
        ret_sum->window_touch_count += c->window_touch_count;
        ret_sum->request_touch_count += c->request_touch_count;
        ret_sum->waited_ns += c->waited_ns;
        hist_merge(&ret_sum->faults, &c->faults);
        hist_merge(&ret_sum->faults_after, &c->faults_after);
    }
    ret_sum->worked_ns = guest_worked_ns(guest);
}

const uint64_t *guest_touched(const Guest *guest)
{
    return guest->touched;
}

double guest_measure_speed(const Snapshot *snapshot, uint8_t *hva,
                           uint64_t seed, uint64_t ns)
{
    uint64_t begin_ns = bench_now_ns();
    uint64_t page_count = snapshot->len_bytes >> BENCH_PAGE_SHIFT;
    uint64_t count = 0, now_ns = begin_ns;
    bool has_data = snapshot->data_bytes != 0;

    while (now_ns - begin_ns < ns) {
        uint32_t i;

        for (i = 0; i < 256; i++) {
            uint64_t page;

            do {
                page = guest_nth_page(snapshot, guest_random_below(&seed,
                                                             page_count));
            } while (has_data && !snapshot_has_page(snapshot, page));
            /* The next address depends on this load: loads do not overlap. */
            seed += *(volatile uint64_t *)(hva + (page << BENCH_PAGE_SHIFT) +
                                           page % 64 * 64) & 1;
        }
        count += i;
        now_ns = bench_now_ns();
    }
    return count * 1e9 / (now_ns - begin_ns);
}

void guest_free(Guest *guest)
{
    uint32_t v;

    if (!guest) {
        return;
    }
    guest_stop(guest);
    for (v = 0; v < guest->vcpu_count; v++) {
        g_array_unref(guest->vcpus[v].touches);
    }
    g_free(guest->vcpus);
    g_free(guest->touched);
    g_free(guest);
}
