/*
 * What the two test guests share: the pattern, the visits, the lines
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A guest knows what every page must hold.  It fills memory with a pattern
 * that follows from (seed, page, version), then for ever picks pages, checks
 * every word of them and writes some of them anew with the next version.  A
 * page that was lost, swapped with another, torn, zeroed, or set back to an
 * older version is noticed at the next visit, and a sweep visits every page.
 *
 * The versions live in guest memory too, so they are restored by the loader
 * under test.  Each entry carries a tag of its page: a version that became
 * zero, or that belongs to another page, cannot be taken for the truth.
 *
 * guest-init.c is such a guest on Linux, probe/ one without any kernel.  Each
 * gives the functions under "the platform" and calls core_begin(), then
 * core_fill() and core_work() on each processor.
 *
 * Lines written to the serial port:
 *   FASTLOAD READY pages=N zero=N cpus=N fill_ms=N
 *   FASTLOAD TICK ms=N verified=N written=N wrong=N worst_us=N io=N
 *   FASTLOAD SWEEP pages=N wrong=N ms=N worst_us=N
 *   FASTLOAD WRONG page=N got=... expected=...
 *   FASTLOAD KEEPS page=N cpu=N
 *   FASTLOAD ORDER letter       the answer to 'u', 'e', 'f', 'l' and 'h'
 *   FASTLOAD FAIL reason
 * Bytes read from it, by core_command():
 *   's'  sweep over every page, scattered
 *   'w'  the same, but write every page anew and read none
 *   'p'  a TICK at once
 *   'q'  quiet: TICK every 50 ms instead of every 10 ms
 *   'k'  the last processor keeps to one page from now on, which it has visited
 *        before: it says which, and goes on to verify and write that page
 *   'u'  visit pages at random, uniformly (the default)
 *   'e'  the same, but elsewhere: each visit is of another page than it would
 *        have been after 'u'
 *   'f'  half elsewhere: so is each second visit, on average
 *   'l'  visit them one after another
 *   'h'  visit a working set: one page in 16, always the same
 *   '0' to '6'  think that many powers of ten of nanoseconds between two
 *        pages: '3' is one page a microsecond, '6' one a millisecond, and
 *        '0' is not to think at all
 *
 * The figures of a TICK are sums since the start.  Only worst_us is not: it is
 * the longest first access of a visit since the TICK before.
 *
 * Threads: core_work() is called once on each processor; core_command() and
 * core_poll() by one at a time; the rest is said at each function.
 */

#ifndef GUEST_CORE_H
#define GUEST_CORE_H

#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

enum {
    PAGE_BYTES = 4096,
    PAGE_WORDS = PAGE_BYTES / sizeof(uint64_t),
    CHUNK_PAGES = 512,
    CPUS_MAX = 16,
};

/* What the command line says; constant after core_begin(). */
typedef struct CoreOptions {
    uint64_t fill_mib;
    uint64_t zero_pct;      /* of the pages: about so many begin as zeros */
    uint64_t seed;
    uint64_t think_us;      /* of work between two pages */
    uint64_t words;         /* of a page that are written and checked: all are,
                               unless the processor is very slow */
} CoreOptions;

/* ---- the platform: what each guest gives */

/* Nanoseconds of a clock that goes on when the guest is restored. */
uint64_t now_ns(void);

/* The memory of a page below core_page_count(); any processor. */
uint64_t *page_memory(uint64_t page);

/* One line, whole: "FASTLOAD " and the text.  Any processor. */
__attribute__((format(printf, 1, 2)))
void say(const char *format, ...);

/* How many requests the virtio devices have answered; any processor. */
uint64_t io_answered(void);

/* Called between two visits; the probe guest serves its serial port here. */
void between_visits(uint64_t now);

/* ---- what they share */

/* From the words fl.NAME=VALUE of a command line. */
CoreOptions core_options(const char *cmdline);

/*
 * Before all else.
 *
 * @versions: memory for one uint32_t a page, anything in it
 * @cpus: how many processors call core_fill() and core_work(), 1 to CPUS_MAX
 */
void core_begin(const CoreOptions *options, uint32_t *versions,
                unsigned cpus);

uint64_t core_page_count(void);

/* Fill the pages that belong to processor @idx. */
void core_fill(unsigned idx);

/* When all pages are filled: say READY; @begin is now_ns() before filling. */
void core_ready(uint64_t begin);

/* Visit pages for ever, as processor @idx. */
__attribute__((noreturn))
void core_work(unsigned idx);

/* Obey a byte; false when it is none of the above. */
bool core_command(char byte);

/* Report a sweep that has ended; to be called every few milliseconds. */
void core_poll(void);

/*
 * For another process that reads the guest's memory: is @mem page @page, in
 * whatever version?  False also while a processor writes it: then ask again.
 */
bool core_page_is_sound(const uint64_t *mem, uint64_t page);

/* The last processor keeps to one page from now on. */
void core_keep(void);

#endif
