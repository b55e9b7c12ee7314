/*
 * fastload-bench: the file of touches that a guest can replay.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Reads text with one touch a line.  Knows nothing of how it was recorded.
 * Fails at the first line that it does not understand, and names its number.
 */
#include "bench.h"
#include <math.h>

/* Eleven days: a double is exact to the nanosecond up to here. */
#define TRACE_SECONDS_MAX 1e6

static const SnapshotBlock *trace_block(const Snapshot *snapshot,
                                        const char *name)
{
    uint32_t b;

    for (b = 0; b < snapshot->block_count; b++) {
        if (!strcmp(snapshot->blocks[b].name, name)) {
            return &snapshot->blocks[b];
        }
    }
    return NULL;
}

static bool trace_is_kind(const char *word)
{
    return !strcmp(word, "r") || !strcmp(word, "w");
}

static bool trace_parse_offset(const char *word, uint64_t *ret_off)
{
    char *end;

    errno = 0;
    *ret_off = g_ascii_strtoull(
        word, &end, g_ascii_strncasecmp(word, "0x", 2) ? 10 : 16);
    return g_ascii_isdigit(*word) && !*end && !errno;
}

static bool trace_parse_time(const char *word, uint64_t *ret_ns)
{
    char *end;
    double seconds = g_ascii_strtod(word + 1, &end);

    if (!g_ascii_isdigit(word[1]) || *end ||
        !(seconds <= TRACE_SECONDS_MAX)) {
        return false;
    }
    *ret_ns = llround(seconds * 1e9);
    return true;
}

/* NULL, or what is wrong with the line. */
static const char *trace_parse(const char *line, const Snapshot *snapshot,
                               Touch *ret_touch)
{
    const SnapshotBlock *block = &snapshot->blocks[0];
    char words[5][sizeof(block->name)];
    int count = sscanf(line, "%255s %255s %255s %255s %255s", words[0],
                       words[1], words[2], words[3], words[4]);
    bool has_time = count > 1 && *words[count - 1] == '@';
    uint64_t ram_off;
    int at;

    ret_touch->at_ns = TOUCH_HAS_NO_TIME;
    if (has_time && !trace_parse_time(words[--count], &ret_touch->at_ns)) {
        return "has no time in seconds after the @";
    }
    at = count == 3 || (count == 2 && !trace_is_kind(words[1]));
    if (count - at > 2 || (count - at == 2 && !trace_is_kind(words[at + 1]))) {
        return "is not \"[BLOCK] OFFSET [r|w] [@SECONDS]\"";
    }
    if (at) {
        block = trace_block(snapshot, words[0]);
    }
    if (!block) {
        return "names no block of the snapshot";
    }
    if (!trace_parse_offset(words[at], &ram_off)) {
        return "has no offset";
    }
    if (ram_off >= block->len_bytes) {
        return "has an offset past the end of the block";
    }
    ret_touch->page = (block->guest_off + ram_off) >> BENCH_PAGE_SHIFT;
    ret_touch->is_write = count - at == 2 && *words[at + 1] == 'w';
    return NULL;
}

GArray *trace_load(const char *path, const Snapshot *snapshot, GError **error)
{
    g_autoptr(GArray) touches = g_array_new(FALSE, FALSE, sizeof(Touch));
    g_autofree char *line = NULL;
    size_t capacity = 0;
    uint64_t number = 0, last_ns = 0;
    const char *fault = NULL;
    FILE *file = fopen(path, "re");

    if (!file) {
        g_set_error(error, BENCH_ERROR, BENCH_ERROR_FAILED,
                    "cannot open the trace %s: %s", path, g_strerror(errno));
        return NULL;
    }
    while (!fault && getline(&line, &capacity, file) >= 0) {
        Touch touch;

        number++;
        g_strstrip(line);
        if (!*line || *line == '#') {
            continue;
        }
        fault = trace_parse(line, snapshot, &touch);
        if (!fault && touches->len == TRACE_TOUCH_COUNT_MAX) {
            fault = "is one more than can be replayed";
        }
        if (!fault && touch.at_ns != TOUCH_HAS_NO_TIME) {
            fault = touch.at_ns < last_ns
                ? "has a time before that of the line before it" : NULL;
            last_ns = touch.at_ns;
        }
        if (!fault) {
            g_array_append_val(touches, touch);
        }
    }
    fclose(file);
    if (fault) {
        g_set_error(error, BENCH_ERROR, BENCH_ERROR_FAILED,
                    "line %" PRIu64 " of the trace %s %s", number, path,
                    fault);
        return NULL;
    }
    if (!touches->len) {
        g_set_error(error, BENCH_ERROR, BENCH_ERROR_FAILED,
                    "the trace %s has no touches", path);
        return NULL;
    }
    return g_steal_pointer(&touches);
}
