/*
 * The pattern, the visits and the lines of a test guest; see guest-core.h
 *
 * Needs no C library, because the probe guest has none.  It never ends and
 * never fails: a wrong page is counted, reported, and filled anew.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "guest-core.h"

enum {
    WRONG_PRINTED_MAX = 10,
    TICK_MS = 10,
    TICK_QUIET_MS = 50,
    VERSION_BITS = 16,
    VERSION_MASK = (1 << VERSION_BITS) - 1,
    WRITE_SHARE = 4,        /* one visited page in so many is written anew */
    WORKING_SET_SHARE = 16, /* one page in so many is in the working set */
    THINK_ROUNDS = 1 << 18, /* of think(), to measure how long one takes */
};

typedef enum Order {
    ORDER_UNIFORM,
    ORDER_ELSEWHERE,
    ORDER_HALF_ELSEWHERE,
    ORDER_LINEAR,
    ORDER_WORKING_SET,
} Order;

typedef enum SweepKind {
    SWEEP_VERIFY,
    SWEEP_WRITE,
} SweepKind;

/* One for each processor, which alone writes the fields that are not atomic. */
typedef struct Worker {
    uint64_t rng;
    uint64_t linear;
    uint64_t stride;        /* of its working set */
    unsigned sweep_seen;
    unsigned kept_count;    /* visits to the page it keeps to, at most 2 */
    _Atomic uint64_t verified_pages;
    _Atomic uint64_t written_pages;
    _Atomic uint64_t sweep_pages;
} Worker;

/* constant after core_begin() */
static CoreOptions options;
static uint32_t *versions;
static uint64_t page_count;
static unsigned worker_count;
static unsigned word_step;      /* from one word with a pattern to the next */

/* core_ready(), then the thread that calls core_command() and core_poll() */
static uint64_t sweep_begin_ns;
static bool is_sweeping;
static uint64_t rounds_ns_x1024;    /* of think(); 0: not measured yet */
static unsigned sweeps_wanted[2];

/* atomic */
static Worker workers[CPUS_MAX];
static _Atomic uint64_t think_rounds;
static _Atomic uint64_t zero_pages;
static _Atomic uint64_t wrong_pages;
static _Atomic uint64_t worst_ns;
static _Atomic uint64_t sweep_worst_ns;
static _Atomic uint64_t tick_last_ns;
static _Atomic unsigned tick_ms = TICK_MS;
static _Atomic unsigned sweep_asked;
static _Atomic unsigned sweep_done_workers;
static _Atomic SweepKind sweep_kind;
static _Atomic Order order;
static _Atomic bool is_keep_asked;

static uint64_t mix(uint64_t x)
{
    x ^= x >> 30;
    x *= 0xbf58476d1ce4e5b9ULL;
    x ^= x >> 27;
    x *= 0x94d049bb133111ebULL;
    return x ^ (x >> 31);
}

static uint64_t rng_next(uint64_t *state)
{
    return mix(*state += 0x9e3779b97f4a7c15ULL);
}

/* ---- options */

static bool begins_with(const char *text, const char *word)
{
    while (*word) {
        if (*text++ != *word++) {
            return false;
        }
    }
    return true;
}

static uint64_t parameter(const char *cmdline, const char *name,
                          uint64_t otherwise)
{
    for (const char *at = cmdline; *at; at++) {
        if ((at == cmdline || at[-1] == ' ') && begins_with(at, name)) {
            uint64_t value = 0;

            while (*name++) {
                at++;
            }
            for (; *at >= '0' && *at <= '9'; at++) {
                value = value * 10 + (*at - '0');
            }
            return value;
        }
    }
    return otherwise;
}

CoreOptions core_options(const char *cmdline)
{
    return (CoreOptions) {
        .fill_mib = parameter(cmdline, "fl.fill_mib=", 64),
        .zero_pct = parameter(cmdline, "fl.zero_pct=", 10),
        .seed = parameter(cmdline, "fl.seed=", 1),
        .think_us = parameter(cmdline, "fl.think_us=", 0),
        .words = parameter(cmdline, "fl.words=", PAGE_WORDS),
    };
}

/*
 * The pattern.  Version 0 is a page of zeros.  Otherwise word 0 names page
 * and version in clear, so that a misplaced page can be told from a torn one;
 * the others depend on both and on their position.
 */

static uint64_t pattern_head(uint64_t page, unsigned version)
{
    return ((options.seed & 0xff) << 56) | ((uint64_t)version << 40) | page;
}

static uint64_t pattern_base(uint64_t page, unsigned version)
{
    return mix(options.seed * 0x9e3779b97f4a7c15ULL + page * CHUNK_PAGES + 1) +
           mix(version + (page << 20));
}

static inline uint64_t pattern_word(uint64_t base, unsigned word)
{
    return (base ^ ((uint64_t)word << 52)) + word * 0xd6e8feb86659fd93ULL;
}

static void pattern_write(uint64_t *mem, uint64_t page, unsigned version)
{
    uint64_t base = pattern_base(page, version);

    mem[0] = pattern_head(page, version);
    for (unsigned i = word_step; i < PAGE_WORDS; i += word_step) {
        mem[i] = pattern_word(base, i);
    }
}

/* The first wrong word, or PAGE_WORDS. */
static unsigned pattern_check(const uint64_t *mem, uint64_t page,
                              unsigned version)
{
    uint64_t base = pattern_base(page, version);

    if (version == 0) {
        for (unsigned i = 0; i < PAGE_WORDS; i += word_step) {
            if (mem[i] != 0) {
                return i;
            }
        }
        return PAGE_WORDS;
    }
    if (mem[0] != pattern_head(page, version)) {
        return 0;
    }
    for (unsigned i = word_step; i < PAGE_WORDS; i += word_step) {
        if (mem[i] != pattern_word(base, i)) {
            return i;
        }
    }
    return PAGE_WORDS;
}

static uint32_t version_entry(uint64_t page, unsigned version)
{
    uint32_t tag = mix(options.seed ^ (page + 0x1234567)) >>
                   (32 + VERSION_BITS);

    return ((tag | 1) << VERSION_BITS) | (version & VERSION_MASK);
}

/*
 * Which pages are zero at first.  By chunk of 2 MiB, so that a loader meets
 * empty chunks, chunks with a few pages, chunks with runs, chunks with holes
 * of one page, and full ones.  The shares add up to about zero_pct.
 */
static bool page_starts_zero(uint64_t page)
{
    uint64_t chunk = mix(options.seed + page / CHUNK_PAGES * 77) % 1000;
    uint64_t hash = mix(options.seed ^ (page * 0x51ed27));
    uint64_t share = options.zero_pct * 10;

    if (options.zero_pct == 0) {
        return false;
    }
    if (chunk < share * 4 / 10) {               /* empty */
        return true;
    }
    if (chunk < share * 6 / 10) {               /* one page in 16 has data */
        return hash % 16 != 0;
    }
    if (chunk < share * 9 / 10) {               /* runs of 1 to 64 pages */
        uint64_t run = 1ULL << (mix(chunk) % 7);

        return mix(options.seed + page / run) & 1;
    }
    if (chunk < share * 12 / 10) {              /* one page in two, by chance */
        return hash & 1;
    }
    return hash % 64 == 0;                      /* dense, a few holes */
}

bool core_page_is_sound(const uint64_t *mem, uint64_t page)
{
    uint64_t head = *(const volatile uint64_t *)mem;
    unsigned version = head >> 40 & VERSION_MASK;

    return (version || page_starts_zero(page)) &&
           pattern_check(mem, page, version) == PAGE_WORDS;
}

/* ---- what is said */

static void report_wrong(uint64_t page, const uint64_t *mem, unsigned version,
                         unsigned word)
{
    uint64_t got = word < PAGE_WORDS ? mem[word] : 0;
    uint64_t expected = version == 0 ? 0 : word == 0 ?
        pattern_head(page, version) :
        pattern_word(pattern_base(page, version), word);

    if (atomic_fetch_add(&wrong_pages, 1) >= WRONG_PRINTED_MAX) {
        return;
    }
    say("WRONG page=%llu got=%016llx expected=%016llx word=%u version=%u "
        "head=%016llx at=%016llx",
        (unsigned long long)page, (unsigned long long)got,
        (unsigned long long)expected, word, version,
        (unsigned long long)mem[0], (unsigned long long)(uintptr_t)mem);
}

static void raise_to(_Atomic uint64_t *max, uint64_t value)
{
    uint64_t old = atomic_load_explicit(max, memory_order_relaxed);

    while (value > old && !atomic_compare_exchange_weak(max, &old, value)) {
        ;
    }
}

static void tick(uint64_t now)
{
    uint64_t verified = 0, written = 0;

    for (unsigned i = 0; i < worker_count; i++) {
        verified += atomic_load(&workers[i].verified_pages);
        written += atomic_load(&workers[i].written_pages);
    }
    say("TICK ms=%llu verified=%llu written=%llu wrong=%llu worst_us=%llu "
        "io=%llu",
        (unsigned long long)(now / 1000000), (unsigned long long)verified,
        (unsigned long long)written,
        (unsigned long long)atomic_load(&wrong_pages),
        (unsigned long long)(atomic_exchange(&worst_ns, 0) / 1000),
        (unsigned long long)io_answered());
}

/*
 * After every page, so that one slow page delays a line by one page, and the
 * first line after a resume comes at most TICK_MS and one page later.
 */
static void tick_maybe(uint64_t now)
{
    uint64_t last = atomic_load_explicit(&tick_last_ns, memory_order_relaxed);
    uint64_t period_ns = atomic_load_explicit(&tick_ms, memory_order_relaxed) *
                         1000000ULL;

    if (now - last >= period_ns &&
        atomic_compare_exchange_strong(&tick_last_ns, &last, now)) {
        tick(now);
    }
}

/* ---- visits */

static void write_anew(Worker *w, uint64_t *mem, uint64_t page,
                       unsigned version)
{
    version = version == VERSION_MASK ? 1 : version + 1;
    pattern_write(mem, page, version);
    versions[page] = version_entry(page, version);
    atomic_fetch_add_explicit(&w->written_pages, 1, memory_order_relaxed);
}

/* The version that a page has; a wrong entry is counted and made right. */
static bool version_of(uint64_t page, unsigned *ret_version)
{
    uint32_t entry = *(volatile uint32_t *)&versions[page];
    unsigned version = entry & VERSION_MASK;

    if (entry == version_entry(page, version)) {
        *ret_version = version;
        return true;
    }
    if (atomic_fetch_add(&wrong_pages, 1) < WRONG_PRINTED_MAX) {
        say("WRONG page=%llu got=%08x expected=%08x the version itself",
            (unsigned long long)page, entry, version_entry(page, version));
    }
    versions[page] = version_entry(page, 1);
    pattern_write(page_memory(page), page, 1);
    return false;
}

static void visit(Worker *w, uint64_t page, bool may_write,
                  _Atomic uint64_t *ret_worst)
{
    uint64_t *mem = page_memory(page);
    uint64_t begin = now_ns();
    bool write_first = may_write && rng_next(&w->rng) % 16 == 0;
    unsigned version, word;

    if (write_first) {
        /* A vCPU that faults by a write: no change, but a store. */
        __asm__ volatile("lock; orq $0, %0" : "+m" (mem[PAGE_WORDS / 2]));
    } else {
        (void)*(volatile uint64_t *)&mem[w->rng % PAGE_WORDS];
    }
    raise_to(ret_worst, now_ns() - begin);

    if (!version_of(page, &version)) {
        return;
    }
    word = pattern_check(mem, page, version);
    if (word < PAGE_WORDS) {
        report_wrong(page, mem, version, word);
        pattern_write(mem, page, version ? version : 1);
        versions[page] = version_entry(page, version ? version : 1);
        return;
    }
    /* Pages that began as zeros are rarely written, or none would be left. */
    if (may_write && rng_next(&w->rng) %
        (version ? WRITE_SHARE : WRITE_SHARE * 16) == 0) {
        write_anew(w, mem, page, version);
    }
}

/* Every word is stored and none is looked at. */
static void overwrite(Worker *w, uint64_t page, _Atomic uint64_t *ret_worst)
{
    uint64_t begin = now_ns();
    unsigned version;

    if (version_of(page, &version)) {
        write_anew(w, page_memory(page), page, version);
    }
    raise_to(ret_worst, now_ns() - begin);
}

/*
 * A step that visits each of @count pages once, modulo @count, and goes far:
 * about the golden section of them.  Cheap, because a processor may be one
 * that is interpreted.
 */
static uint64_t stride_of(uint64_t count)
{
    uint64_t stride = count * 618 / 1000 + 1;

    for (;; stride++) {
        uint64_t a = count, b = stride % count;

        while (b) {
            uint64_t rest = a % b;

            a = b;
            b = rest;
        }
        if (a == 1) {
            return stride;
        }
    }
}

/* Every page with page % worker_count == idx belongs to that processor. */
static uint64_t own_pages(unsigned idx)
{
    return (page_count - idx + worker_count - 1) / worker_count;
}

static void sweep_own_pages(Worker *w, unsigned idx, unsigned number)
{
    uint64_t own = own_pages(idx), stride = stride_of(own);
    uint64_t at = mix(number) % own;
    bool is_write = atomic_load(&sweep_kind) == SWEEP_WRITE;

    for (uint64_t i = 0; i < own; i++) {
        uint64_t page = at * worker_count + idx, now;

        at = (at + stride) % own;

        if (is_write) {
            overwrite(w, page, &sweep_worst_ns);
        } else {
            visit(w, page, false, &sweep_worst_ns);
            atomic_fetch_add_explicit(&w->verified_pages, 1,
                                      memory_order_relaxed);
        }
        atomic_fetch_add_explicit(&w->sweep_pages, 1, memory_order_relaxed);
        now = now_ns();
        tick_maybe(now);
        between_visits(now);
    }
}

static void think(uint64_t rounds)
{
    uint64_t sum = 0;

    for (uint64_t i = 0; i < rounds; i++) {
        sum += mix(i);
    }
    __asm__ volatile("" : : "r" (sum));     /* or the compiler drops the loop */
}

static void think_calibrate(void)
{
    uint64_t begin;

    think(THINK_ROUNDS / 16);
    begin = now_ns();
    think(THINK_ROUNDS);
    rounds_ns_x1024 = (now_ns() - begin) * 1024 / THINK_ROUNDS;
    if (rounds_ns_x1024 == 0) {
        rounds_ns_x1024 = 1;
    }
}

/* Counted in work, not in time: a vCPU that is held up thinks longer. */
static void set_think_ns(uint64_t ns)
{
    if (ns && !rounds_ns_x1024) {
        think_calibrate();
    }
    atomic_store(&think_rounds, ns ? ns * 1024 / rounds_ns_x1024 : 0);
}

/*
 * Whether @w has to keep to @page.  Says so after a visit under this order: the
 * one before may have been before the guest was saved.
 */
static bool keeps_page(Worker *w, unsigned idx, uint64_t page)
{
    if (idx != worker_count - 1 || !atomic_load(&is_keep_asked)) {
        return false;
    }
    if (w->kept_count < 2 && ++w->kept_count == 2) {
        say("KEEPS page=%llu cpu=%u", (unsigned long long)page, idx);
    }
    return true;
}

static uint64_t next_page(Worker *w, unsigned idx, uint64_t own)
{
    Order now = atomic_load_explicit(&order, memory_order_relaxed);
    uint64_t random, at;

    switch (now) {
    case ORDER_LINEAR:
        w->linear = w->linear + 1 < own ? w->linear + 1 : 0;
        return w->linear * worker_count + idx;
    case ORDER_WORKING_SET:
        return rng_next(&w->rng) % ((own + WORKING_SET_SHARE - 1) /
                                    WORKING_SET_SHARE) *
               w->stride % own * worker_count + idx;
    case ORDER_ELSEWHERE:
    case ORDER_HALF_ELSEWHERE:
        /* As many numbers are drawn, so the other half stays the same. */
        random = rng_next(&w->rng);
        at = random % own;
        if (now == ORDER_ELSEWHERE || random >> 63) {
            at = own - 1 - at;
        }
        return at * worker_count + idx;
    case ORDER_UNIFORM:
        break;
    }
    return rng_next(&w->rng) % own * worker_count + idx;
}

void core_work(unsigned idx)
{
    Worker *w = &workers[idx];
    uint64_t own = own_pages(idx), page = idx;

    w->stride = stride_of(own);
    for (;;) {
        unsigned asked = atomic_load(&sweep_asked);
        uint64_t now;

        if (asked != w->sweep_seen) {
            w->sweep_seen = asked;
            sweep_own_pages(w, idx, asked);
            atomic_fetch_add(&sweep_done_workers, 1);
            continue;
        }
        if (!keeps_page(w, idx, page)) {
            page = next_page(w, idx, own);
        }
        visit(w, page, true, &worst_ns);
        atomic_fetch_add_explicit(&w->verified_pages, 1, memory_order_relaxed);
        now = now_ns();
        tick_maybe(now);
        between_visits(now);
        think(atomic_load_explicit(&think_rounds, memory_order_relaxed));
    }
}

/* ---- the beginning */

void core_begin(const CoreOptions *wanted, uint32_t *memory, unsigned cpus)
{
    options = *wanted;
    versions = memory;
    worker_count = cpus;
    page_count = (options.fill_mib << 20) / PAGE_BYTES;
    word_step = options.words && options.words < PAGE_WORDS ?
                PAGE_WORDS / options.words : 1;
    for (unsigned i = 0; i < worker_count; i++) {
        workers[i].rng = mix(options.seed + i);
    }
}

uint64_t core_page_count(void)
{
    return page_count;
}

void core_fill(unsigned idx)
{
    for (uint64_t page = idx; page < page_count; page += worker_count) {
        uint64_t *mem = page_memory(page);

        if (page_starts_zero(page)) {
            /* Write the zeros: after a reset the memory is not zero. */
            for (unsigned i = 0; i < PAGE_WORDS; i += word_step) {
                *(volatile uint64_t *)&mem[i] = 0;
            }
            versions[page] = version_entry(page, 0);
            atomic_fetch_add_explicit(&zero_pages, 1, memory_order_relaxed);
        } else {
            pattern_write(mem, page, 1);
            versions[page] = version_entry(page, 1);
        }
    }
}

void core_ready(uint64_t begin)
{
    uint64_t filled = now_ns();

    set_think_ns(options.think_us * 1000);
    say("READY pages=%llu zero=%llu cpus=%u fill_ms=%llu",
        (unsigned long long)page_count,
        (unsigned long long)atomic_load(&zero_pages), worker_count,
        (unsigned long long)((filled - begin) / 1000000));
}

/* ---- the serial port */

static void sweep_start(SweepKind kind)
{
    for (unsigned i = 0; i < worker_count; i++) {
        atomic_store(&workers[i].sweep_pages, 0);
    }
    atomic_store(&sweep_done_workers, 0);
    atomic_store(&sweep_worst_ns, 0);
    atomic_store(&sweep_kind, kind);
    sweep_begin_ns = now_ns();
    is_sweeping = true;
    atomic_fetch_add(&sweep_asked, 1);
}

static void sweep_report(void)
{
    uint64_t pages = 0;

    for (unsigned i = 0; i < worker_count; i++) {
        pages += atomic_load(&workers[i].sweep_pages);
    }
    is_sweeping = false;
    say("SWEEP pages=%llu wrong=%llu ms=%llu worst_us=%llu",
        (unsigned long long)pages,
        (unsigned long long)atomic_load(&wrong_pages),
        (unsigned long long)((now_ns() - sweep_begin_ns) / 1000000),
        (unsigned long long)(atomic_load(&sweep_worst_ns) / 1000));
}

void core_poll(void)
{
    if (is_sweeping && atomic_load(&sweep_done_workers) == worker_count) {
        sweep_report();
    }
    for (SweepKind kind = SWEEP_VERIFY; kind <= SWEEP_WRITE; kind++) {
        if (!is_sweeping && sweeps_wanted[kind]) {
            sweeps_wanted[kind] = 0;
            sweep_start(kind);
        }
    }
}

void core_keep(void)
{
    atomic_store(&is_keep_asked, true);
}

static void set_order(Order wanted, const char *name)
{
    atomic_store(&order, wanted);
    say("ORDER %s", name);
}

bool core_command(char byte)
{
    if (byte >= '0' && byte <= '6') {
        uint64_t ns = 1;

        for (char power = '0'; power < byte; power++) {
            ns *= 10;
        }
        set_think_ns(byte == '0' ? 0 : ns);
        return true;
    }
    switch (byte) {
    case 's':
        sweeps_wanted[SWEEP_VERIFY] = 1;
        return true;
    case 'w':
        sweeps_wanted[SWEEP_WRITE] = 1;
        return true;
    case 'p':
        tick(now_ns());
        return true;
    case 'q':
        atomic_store(&tick_ms, TICK_QUIET_MS);
        return true;
    case 'k':
        core_keep();
        return true;
    case 'u':
        set_order(ORDER_UNIFORM, "u");
        return true;
    case 'e':
        set_order(ORDER_ELSEWHERE, "e");
        return true;
    case 'f':
        set_order(ORDER_HALF_ELSEWHERE, "f");
        return true;
    case 'l':
        set_order(ORDER_LINEAR, "l");
        return true;
    case 'h':
        set_order(ORDER_WORKING_SET, "h");
        return true;
    default:
        return false;
    }
}
