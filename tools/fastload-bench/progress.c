/*
 * fastload-bench: progress of the runs, on stderr.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * On a terminal one line is rewritten about ten times a second; it never wraps,
 * since the width is read each time.  Otherwise a plain line is written after
 * ten seconds, and further ones at growing intervals, so that a log of hours
 * has dozens of them and a short run none.  Knows nothing of what a run is.
 * Nothing here can fail.
 */
#include "bench.h"

#define BAR_COLUMNS_MAX 24
#define BAR_LINE_COLUMNS 40  /* below it there is no bar */
#define LINE_COLUMNS 30      /* below it there are only the counts */
#define PLAIN_NS (10 * 1000 * 1000 * 1000ull)
#define PLAIN_SHARE 10       /* after T, the next line is due at T + T / 10 */

struct Progress {
    bool is_terminal;
    uint64_t begin_ns;
    uint64_t mark_ns;        /* when the last run ended, after begin_ns */
    uint64_t runs_ns;        /* what runs took so far */
    uint32_t done_count;
    uint32_t total_count;
    uint64_t limit_ns;       /* after begin_ns no more rounds begin */
    uint64_t plain_ns;       /* a plain line is due then, after begin_ns */
    char *round;             /* "cold, round 2 of 5" */
    char *run;               /* "eager" */
};

Progress *progress_new(uint32_t total_count, uint64_t limit_ns)
{
    Progress *progress = g_new0(Progress, 1);

    /* A dumb terminal cannot clear a line. */
    progress->is_terminal = isatty(STDERR_FILENO) &&
                            g_strcmp0(g_getenv("TERM"), "dumb");
    progress->begin_ns = bench_now_ns();
    progress->plain_ns = PLAIN_NS;
    progress->total_count = total_count;
    progress->limit_ns = limit_ns ? limit_ns : UINT64_MAX;
    progress->round = g_strdup("");
    progress->run = g_strdup("");
    return progress;
}

void progress_clear(const Progress *progress)
{
    if (progress->is_terminal) {
        fputs("\r\033[K", stderr);
        fflush(stderr);
    }
}

void progress_free(Progress *progress)
{
    progress_clear(progress);
    g_free(progress->round);
    g_free(progress->run);
    g_free(progress);
}

void progress_begin_round(Progress *progress, const char *round)
{
    g_free(progress->round);
    progress->round = g_strdup(round);
}

void progress_begin_run(Progress *progress, const char *run)
{
    g_free(progress->run);
    progress->run = g_strdup(run);
}

void progress_end_run(Progress *progress)
{
    uint64_t now_ns = bench_now_ns() - progress->begin_ns;

    progress->done_count++;
    progress->runs_ns += now_ns - progress->mark_ns;
    progress->mark_ns = now_ns;
}

void progress_skip(Progress *progress, uint32_t count)
{
    progress->total_count -= MIN(count, progress->total_count);
}

/*
 * Estimates the seconds that are left at @now_ns after begin_ns.  Each run is
 * expected to take the average so far.  The current one began at mark_ns; if it
 * takes longer, the others are not expected to be shorter.
 */
static uint64_t progress_left_s(const Progress *progress, uint64_t now_ns)
{
    uint32_t rest_count = progress->total_count -
                          MIN(progress->total_count, progress->done_count);
    uint64_t mean_ns = progress->runs_ns / progress->done_count;
    uint64_t gone_ns = MIN(now_ns - progress->mark_ns, mean_ns);
    uint64_t rest_ns = rest_count ? mean_ns * rest_count - gone_ns : 0;

    return MIN(rest_ns, progress->limit_ns -
               MIN(progress->limit_ns, now_ns)) / 1000000000;
}

/* Shows one line on the terminal, cut so that it does not wrap. */
static void progress_show(const char *line, uint32_t columns)
{
    fprintf(stderr, "\r\033[K%.*s", columns - 1, line);
    fflush(stderr);
}

/* "[###.....] " that is full when @done of @total are. */
static char *progress_bar(uint32_t columns, uint32_t done, uint32_t total)
{
    uint32_t width = MIN(columns / 3, BAR_COLUMNS_MAX);
    char bar[BAR_COLUMNS_MAX];

    memset(bar, '.', width);
    memset(bar, '#', MIN((uint64_t)done * width / MAX(total, 1), width));
    return g_strdup_printf("[%.*s] ", width, bar);
}

static void progress_show_runs(const Progress *progress, uint64_t now_ns)
{
    uint32_t columns = paper_columns_of(STDERR_FILENO);
    g_autoptr(GString) line = g_string_new(NULL);

    if (columns >= BAR_LINE_COLUMNS) {
        g_autofree char *bar = progress_bar(columns, progress->done_count,
                                            progress->total_count);

        g_string_append(line, bar);
    }
    g_string_append_printf(line, "%u/%u", progress->done_count,
                           progress->total_count);
    if (columns >= LINE_COLUMNS && progress->done_count) {
        uint64_t s = progress_left_s(progress, now_ns);

        g_string_append_printf(line, ", %" PRIu64 ":%02" PRIu64 " left",
                               s / 60, s % 60);
    }
    if (columns >= LINE_COLUMNS) {
        g_string_append_printf(line, "  %s, %s", progress->run,
                               progress->round);
    }
    progress_show(line->str, columns);
}

/* Is a plain line due?  Then sets when the next one is. */
static bool progress_is_due(Progress *progress, uint64_t now_ns)
{
    if (now_ns < progress->plain_ns) {
        return false;
    }
    progress->plain_ns = now_ns + MAX(now_ns / PLAIN_SHARE, PLAIN_NS);
    return true;
}

static void progress_say_runs(const Progress *progress, uint64_t now_ns)
{
    g_autoptr(GString) line = g_string_new(progress->round);

    g_string_append_printf(line, ": %u of %u runs", progress->done_count,
                           progress->total_count);
    if (progress->done_count) {
        uint64_t s = progress_left_s(progress, now_ns);

        if (s < 90) {
            g_string_append_printf(line, ", about %" PRIu64 " s left", s);
        } else {
            g_string_append_printf(line, ", about %" PRIu64 " min left",
                                   (s + 30) / 60);
        }
    }
    text_print_error(line->str);
}

void progress_tick(void *opaque)
{
    Progress *progress = opaque;
    uint64_t now_ns = bench_now_ns() - progress->begin_ns;

    if (progress->is_terminal) {
        progress_show_runs(progress, now_ns);
    } else if (progress_is_due(progress, now_ns)) {
        progress_say_runs(progress, now_ns);
    }
}

void progress_generated(uint64_t done_bytes, uint64_t total_bytes,
                        void *opaque)
{
    Progress *progress = opaque;
    uint64_t now_ns = bench_now_ns() - progress->begin_ns;
    g_autofree char *line = g_strdup_printf(
        "generating the snapshot: %.0f %%",
        total_bytes ? 100.0 * done_bytes / total_bytes : 100.0);

    progress->mark_ns = now_ns;
    if (progress->is_terminal) {
        uint32_t columns = paper_columns_of(STDERR_FILENO);

        progress_show(columns < LINE_COLUMNS ? strchr(line, ':') + 2 : line,
                      columns);
    } else if (progress_is_due(progress, now_ns)) {
        text_print_error(line);
    }
}
